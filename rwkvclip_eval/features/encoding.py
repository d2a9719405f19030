"""Turns splits and texts into arrays, batch by batch: decoding in workers, in parts that fit GPU memory.

Workers decode the next batches while this process encodes one. Each batch comes back as one tensor in shared
memory, pinned for a GPU, so that its copy to the GPU does not hold up the processor.

Axes: b samples of a batch, H W image height and width (px), L context (tokens).
"""

from __future__ import annotations

import contextlib
import pickle
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.errors import DamagedData, EncodingFailed, UserError, name_some
from rwkvclip_eval.features.torchrun import Ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from rwkvclip_eval.data.types import Dataset
    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.features.partial_entry import PartialEntry

STAGES = ("load", "decode", "encode", "score")

_LAST_SIGNAL_S = 0.1

MOST_WORKERS = 8
"""Decoding processes by default, at most; more rarely pay and each takes memory."""


@dataclass
class Timings:
    """Wall seconds this process spent in each stage or waited for it; no second counts twice.

    Attributes:
        load_s: models read and datasets opened.
        decode_s: waiting for decoded images; with workers, only what encoding did not hide.
        encode_s: forward passes of both towers, and waiting for other ranks to end theirs.
        score_s: tasks, from features to metrics and intervals.
        images: encoded by this process.
        texts: encoded by this process.
    """

    load_s: float = 0.0
    decode_s: float = 0.0
    encode_s: float = 0.0
    score_s: float = 0.0
    images: int = 0
    texts: int = 0

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the block's wall time to a stage."""
        clock = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, f"{name}_s", getattr(self, f"{name}_s") + time.perf_counter() - clock)

    def seconds(self, total_s: float) -> dict[str, float]:
        """Return seconds by stage, then `other` (disk, start-up), which makes them add up to `total`."""
        stages: dict[str, float] = {name: getattr(self, f"{name}_s") for name in STAGES}
        return {**stages, "other": total_s - sum(stages.values()), "total": total_s}


def default_num_workers(device: str, cores: int) -> int:
    """Return how many processes should decode for one that encodes on `device`, of `cores` it may use.

    A GPU leaves all cores to decoding. A CPU that encodes needs its cores itself: a photo takes some ms of
    one core to decode and tens to hundreds to encode, so a quarter of them keeps up, and below four cores
    decoding in between costs less than sharing them.
    """
    return min(MOST_WORKERS, cores // 4 if device.startswith("cpu") else cores)


@dataclass
class EncodeOptions:
    """How to encode; none of it changes the features beyond rounding.

    Attributes:
        batch_size: images per forward pass; halved, and said so, when GPU memory runs out.
        num_workers: decoding processes; 0 decodes in this one.
        on_progress: called with (done, total, what).
        on_message: called with texts a user should read.
        timings: added to.
        ranks: the processes that encode together.
    """

    batch_size: int = 64
    num_workers: int = 0
    on_progress: Callable[[int, int, str], None] = lambda done, total, what: None
    on_message: Callable[[str], None] = lambda text: None
    timings: Timings = field(default_factory=Timings)
    ranks: Ranks = field(default_factory=Ranks)

    def __post_init__(self) -> None:
        """Refuse impossible sizes.

        Raises:
            UserError: the batch size is below 1, or the number of workers below 0.
        """
        if self.batch_size < 1 or self.num_workers < 0:
            raise UserError(
                f"The batch size must be at least 1 and the number of workers at least 0, not "
                f"{self.batch_size} and {self.num_workers}."
            )


_first_in_workers: list[Callable[[], None]] = []


def run_first_in_workers(step: Callable[[], None]) -> None:
    """Have every decoding process call `step` before it meets data; it must be picklable."""
    _first_in_workers.append(step)


class _Decoder:
    """Map-style dataset for the loader: preprocesses in the worker, returns the reason where it cannot."""

    def __init__(self, dataset: Dataset, preprocess: Callable[[Any], Any]) -> None:
        self.dataset, self.preprocess = dataset, preprocess

    def __getstate__(self) -> tuple[list[Callable[[], None]], bytes]:
        # A worker that is spawned (on macOS) knows the classes of plugins only once it has run them.
        return _first_in_workers, pickle.dumps((self.dataset, self.preprocess))

    def __setstate__(self, state: tuple[list[Callable[[], None]], bytes]) -> None:
        steps, content = state
        for step in steps:
            step()
        self.dataset, self.preprocess = pickle.loads(content)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Any, str]:
        try:
            return index, self.preprocess(self.dataset.image(index)), ""
        except DamagedData as error:
            return index, None, str(error)


def _collate(samples: list[tuple[int, Any, str]]) -> tuple[Any, dict[int, str]]:
    """Return pixels [b, 3, H, W] of the images that could be decoded (None if none could), row → reason."""
    from torch.utils.data import default_collate

    tensors = [pixels for _, pixels, _ in samples if pixels is not None]
    damaged = {index: reason for index, pixels, reason in samples if pixels is None}
    # In a worker it stacks straight into memory that the parent shares.
    return default_collate(tensors) if tensors else None, damaged


def _leave_signals_to_parent(worker: int) -> None:
    # Ctrl-C and a scheduler's signal reach every process of the group; a worker ends when its parent does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def decoded_batches(
    encoder: Encoder, dataset: Dataset, batches: list[range], num_workers: int
) -> Generator[tuple[range, Any, dict[int, str]]]:
    """Yield (rows, pixels [b, 3, H, W] float32 of the images that could be decoded, row → reason)."""
    import torch
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(
        _Decoder(dataset, encoder.preprocess),  # type: ignore[arg-type]  # map-style by protocol
        batch_sampler=batches,  # type: ignore[arg-type]  # ranges serve as lists of indices
        num_workers=num_workers,
        collate_fn=_collate,
        worker_init_fn=_leave_signals_to_parent,
        prefetch_factor=2 if num_workers else None,
        pin_memory=encoder.info.device.startswith("cuda"),
        # Without one of its own it draws from the global generator, which a training loop around it uses.
        generator=torch.Generator(),
    )
    for rows, (pixels, damaged) in zip(batches, loader, strict=True):
        yield rows, pixels, damaged


@contextlib.contextmanager
def _explained_death() -> Iterator[None]:
    """Say what to do where a decoding process was killed.

    Raises:
        EncodingFailed: one was.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        death: Exception = error
        # The signal of a child's death raises at whatever line runs then: not later than here.
        try:
            time.sleep(_LAST_SIGNAL_S)
        except RuntimeError as signalled:
            death = signalled
        told = str(death)
        # "Caught …" is an error of a worker that lives; a lost connection says nothing of the kind.
        if told.startswith("Caught") or (isinstance(death, RuntimeError) and "DataLoader worker" not in told):
            raise
        raise EncodingFailed(
            f"A decoding process was killed ({death}), often for lack of memory or of shared memory "
            "(/dev/shm). Take fewer with --num-workers, or smaller batches; the same command continues."
        ) from error


def encode_batches(
    encoder: Encoder,
    dataset: Dataset,
    batches: list[range],
    writer: PartialEntry,
    options: EncodeOptions,
    on_rows: Callable[[int], object],
) -> None:
    """Encode `batches` of `dataset` and put each on disk; `on_rows` is told how many rows then are.

    Raises:
        OutputError: the store cannot be written.
        EncodingFailed: an image's embedding is not finite, and the text names it; one does not fit into GPU
            memory; or a worker was killed.
        UserError: the encoder is at fault whatever the image.
    """
    timings, encode = options.timings, InParts(encoder.encode_image, options, "Images")
    explained = _explained_death() if options.num_workers else contextlib.nullcontext()
    # Closed, so that after a failure no workers stay beside those of the next split.
    with (
        contextlib.closing(decoded_batches(encoder, dataset, batches, options.num_workers)) as decoded,
        explained,
    ):
        while True:
            with timings.stage("decode"):
                batch = next(decoded, None)
            if batch is None:
                return
            rows, pixels, damaged = batch
            present = [i for i in rows if i not in damaged]
            arrays: dict[str, np.ndarray[Any, Any]] = {}
            if present:
                with timings.stage("encode"):
                    parts = encode(pixels, [dataset.keys[i] for i in present])
                    arrays["embedding"] = np.concatenate([as_array(part.embedding) for part in parts])
                    arrays["probe"] = np.concatenate([as_array(part.probe) for part in parts])
            writer.write(rows, present, arrays, damaged)
            timings.images += len(rows)
            on_rows(len(rows))


class InParts:
    """Encodes a batch whole, or in parts where GPU memory does not hold it; remembers the size that fits.

    Args:
        encode: pixels or texts → what the encoder gives.
        options: told when parts become smaller.
        what: the samples in the plural, for messages.
    """

    def __init__(self, encode: Callable[[Any], Any], options: EncodeOptions, what: str) -> None:
        self._encode, self._options, self._what = encode, options, what
        self._most: int | None = None

    def __call__(self, batch: Any, names: Sequence[str]) -> list[Any]:
        """Return the parts' results in order; `names` is what messages call the samples of `batch`.

        Raises:
            EncodingFailed: one sample alone is too large, or one's embedding is not finite, which is named.
            UserError: the encoder is at fault whatever the sample.
        """
        import torch

        while True:
            size = min(self._most or len(batch), len(batch))
            try:
                return [
                    self._part(batch[start : start + size], names[start : start + size])
                    for start in range(0, len(batch), size)
                ]
            except torch.cuda.OutOfMemoryError as error:
                if size == 1:
                    raise EncodingFailed(
                        "One sample does not fit into GPU memory; use another device."
                    ) from error
            # Outside the handler, whose exception still holds the tensors.
            torch.cuda.empty_cache()
            self._most = (size + 1) // 2
            self._options.on_message(f"Out of GPU memory: going on with batches of {self._most}.")

    def _part(self, part: Any, names: Sequence[str]) -> Any:
        try:
            return self._encode(part)
        except UserError as error:
            rows = getattr(error, "rows", None)
            if not rows:
                raise
            raise EncodingFailed(f"{error} {self._what}: {name_some(names[row] for row in rows)}.") from error


def by_token_count(batches: list[Any]) -> tuple[list[Any], np.ndarray[Any, Any]]:
    """Return batches of the same sizes in which texts of like length stand together, and their order.

    Encoders that cut the padding of a batch then have the least left to compute. A text's count is what
    stands before the tail of its last token repeated, which in the short ones is padding.

    Args:
        batches: tokens [b, L] int64; of several L, as of tokenizers that pad to a batch, the order stays.

    Returns:
        The batches, and for each row of them, all in a row, its place in those given.
    """
    import torch

    total = sum(map(len, batches))
    if len({batch.shape[1] for batch in batches}) != 1:
        return batches, np.arange(total)
    tokens = torch.cat(batches)
    before_tail = tokens != tokens[:, -1:]
    counts = (before_tail * torch.arange(1, tokens.shape[1] + 1, device=tokens.device)).amax(dim=1)
    order = counts.argsort(stable=True)
    return list(torch.split(tokens[order], [len(batch) for batch in batches])), order.cpu().numpy()


def as_array(tensor: Any) -> np.ndarray[Any, Any]:
    """Return a tensor as a float32 array in main memory."""
    return np.asarray(tensor.detach().float().cpu().numpy())
