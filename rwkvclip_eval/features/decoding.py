"""Decodes and preprocesses images in worker processes, in batches.

Workers decode the next batches while this process encodes one. Each batch comes back as one tensor in shared
memory, pinned for a GPU, so that its copy to the GPU does not hold up the processor.

Axes: b samples of a batch, H W image height and width (px).
"""

from __future__ import annotations

import contextlib
import pickle
import re
import signal
import time
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.errors import DamagedData, EncodingFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from rwkvclip_eval.data.types import Dataset
    from rwkvclip_eval.encoders.protocol import Encoder

_LAST_SIGNAL_S, _LOST_S = 0.1, 5.0

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
    from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

    num_workers = min(num_workers, len(batches))
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
    decoded = iter(loader)
    try:
        for rows, (pixels, damaged) in zip(batches, decoded, strict=True):
            yield rows, pixels, damaged
    except (RuntimeError, OSError, EOFError) as error:
        workers = decoded._workers if isinstance(decoded, _MultiProcessingDataLoaderIter) else []
        # "Caught …" is an error of a worker that lives; one whose connection is lost will soon have ended.
        caught, lost = str(error).startswith("Caught"), not isinstance(error, RuntimeError)
        codes = [] if caught else _exit_codes(workers, _LOST_S if lost else 0)
        if not codes:
            raise
        raise _WorkerEnded(next((code for code in codes if code), 0)) from error
    finally:
        # They end with the iterator, which the traceback of a failure may keep: at its exit the interpreter
        # would wait for them for ever.
        if isinstance(decoded, _MultiProcessingDataLoaderIter):
            decoded._shutdown_workers()


def _exit_codes(workers: Iterable[Any], most_s: float) -> list[int]:
    """Return the exit codes of those that ended, as soon as one has, but after at most so many seconds."""
    started = time.monotonic()
    while True:
        codes = [worker.exitcode for worker in workers if worker.exitcode is not None]
        if codes or time.monotonic() - started >= most_s:
            return codes
        # The signal of its end raises here.
        with contextlib.suppress(RuntimeError):
            time.sleep(_LAST_SIGNAL_S / 10)


class _WorkerEnded(RuntimeError):
    """A decoding process ended before its work was done, with this exit code; below 0, by that signal."""

    def __init__(self, code: int) -> None:
        how = f"exited unexpectedly with exit code {code}."
        if code < 0:
            how = f"is killed by signal: {signal.strsignal(-code)}."
        super().__init__(f"DataLoader worker {how}")


@contextlib.contextmanager
def explained_death() -> Iterator[None]:
    """Say what to do where a decoding process ended before its work was done.

    Raises:
        EncodingFailed: one did.
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
        # A lost connection says nothing of the kind.
        if told.startswith("Caught") or (isinstance(death, RuntimeError) and "DataLoader worker" not in told):
            raise
        raise EncodingFailed(f"{_how_it_ended(told)} The same command continues.") from error


def _how_it_ended(told: str) -> str:
    """Return what is known of a decoding process's end, and a cure, from what torch says of it."""
    found = re.search(r"killed by signal: (?P<signal>[^.]*)\.|with exit code (?P<code>\d+)", told)
    by_signal, code = found.group("signal", "code") if found else (None, None)
    if code is not None:
        return (
            f"A decoding process ended with exit code {code} before its work was done: code that it ran, a "
            "dataset's, a plugin's or a model's, ended it. With --num-workers 0 it is seen where."
        )
    if by_signal == signal.strsignal(signal.SIGKILL):
        return (
            "A decoding process was killed (signal 9), often for lack of memory. Take fewer with "
            "--num-workers, or smaller batches."
        )
    if by_signal == signal.strsignal(signal.SIGBUS):
        return (
            f"A decoding process ended by the signal {by_signal}, as where shared memory (/dev/shm) is full. "
            "Take fewer with --num-workers, or smaller batches."
        )
    how = f"ended by the signal {by_signal}" if by_signal else f"was lost ({told})"
    return f"A decoding process {how} before its work was done. With --num-workers 0 it is seen where."
