"""The feature store: each model × split is encoded once, and shared by every task that needs it.

An entry is a folder named by its key. While it is being encoded it is called KEY.partial and holds arrays
mapped from disk plus a journal of the batches that are on disk for good; a killed run loses the batch in
flight and continues at the next. When the last batch is in, the folder is renamed to KEY. Keys are made of
fingerprints, so that no entry depends on where anything lies.

Axes: n samples, D embedding, F probe features, m texts.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.data.samples import default_cache_dir
from rwkvclip_eval.encoders.protocol import make_fingerprint
from rwkvclip_eval.errors import DamagedData, OutputError, UserError
from rwkvclip_eval.results import write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rwkvclip_eval.data.types import Dataset
    from rwkvclip_eval.encoders.protocol import Encoder, EncoderInfo

FORMAT_VERSION = 1

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class ImageFeatureSet:
    """Features of one split, as stored.

    Attributes:
        key: of the store entry.
        embedding: [n, D] float32, unit norm; rows of missing images are zero.
        probe: [n, F] float32.
        missing: index → reason, for images that could not be decoded.
        device: where it was encoded.
        implementation: operator implementation that ran.
    """

    key: str
    embedding: Array
    probe: Array
    missing: dict[int, str]
    device: str
    implementation: str


@dataclass
class Timings:
    """Wall seconds the caller waited for each stage."""

    decode_s: float = 0.0
    encode_s: float = 0.0
    images: int = 0
    texts: int = 0


@dataclass
class EncodeOptions:
    """How to encode; none of it changes the features beyond rounding.

    Attributes:
        batch_size: images per forward pass; halved, and said so, when GPU memory runs out.
        num_workers: decoding processes; 0 decodes in this one.
        on_progress: called with (done, total, what).
        on_message: called with texts a user should read.
    """

    batch_size: int = 64
    num_workers: int = 0
    on_progress: Callable[[int, int, str], None] = lambda done, total, what: None
    on_message: Callable[[str], None] = lambda text: None
    timings: Timings = field(default_factory=Timings)

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


class FeatureStore:
    """Features on disk.

    Args:
        root: private folder; None keeps features in a temporary folder that goes with the store
            (`--no-cache`).
        shared: read-only store looked into first, e.g. one a group fills once for all.
    """

    def __init__(self, root: Path | None, shared: Path | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="rwkvclip-features-") if root is None else None
        self.root = (Path(self._temporary.name) if self._temporary else Path(str(root))) / "features"
        self.shared = shared / "features" if shared else None

    def images(self, encoder: Encoder, dataset: Dataset, options: EncodeOptions) -> ImageFeatureSet:
        """Return the features of every image of `dataset`, encoding those that are not stored yet.

        Raises:
            OutputError: the store cannot be written.
            UserError: an image's embedding is not finite; the text names the image.
        """
        key = image_key(encoder.info, dataset.info.fingerprint)
        with self._entry(key, options) as folder:
            if _read_meta(folder) is None:
                folder = self._encode_images(encoder, dataset, key, options)
            return _read_images(folder, key)

    def texts(self, encoder: Encoder, texts: Sequence[str], options: EncodeOptions) -> Array:
        """Return [m, D] float32 embeddings of `texts`; a text that occurs twice is encoded once."""
        unique = list(dict.fromkeys(texts))
        info = encoder.info
        key = make_fingerprint(
            format=FORMAT_VERSION,
            kind="text",
            encoder=info.fingerprint,
            precision=info.precision,
            texts=unique,
        )
        with self._entry(key, options) as folder:
            if _read_meta(folder) is None:
                folder = self._encode_texts(encoder, unique, key, options)
            stored = np.load(folder / "embedding.npy", mmap_mode="r")
            row = {text: i for i, text in enumerate(unique)}
            return np.asarray(stored[[row[text] for text in texts]])

    def find(self, key: str) -> Path | None:
        """Return the folder of a finished entry, None where there is none or it was damaged since."""
        for root in (self.shared, self.root):
            if root is not None and _read_meta(root / key[:2] / key) is not None:
                return root / key[:2] / key
        return None

    @contextlib.contextmanager
    def _entry(self, key: str, options: EncodeOptions) -> Iterator[Path]:
        """Yield the entry's folder; where it is not finished, hold its lock meanwhile."""
        found = self.find(key)
        if found:
            yield found
            return
        from filelock import FileLock, Timeout

        folder = self.root / key[:2] / key
        if folder.is_dir():
            options.on_message(f"The stored features in {folder} are damaged: encoding them again.")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder.with_suffix(".lock"))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                options.on_message("Another process is encoding the same model and data; waiting for it.")
                lock.acquire()
        except OSError as error:
            raise OutputError(
                f"Cannot write the feature store {self.root}: {error.strerror or error}. Choose another with "
                "--cache DIR or $RWKVCLIP_EVAL_CACHE, or use --no-cache."
            ) from error
        try:
            yield folder
        finally:
            lock.release()

    def _encode_images(self, encoder: Encoder, dataset: Dataset, key: str, options: EncodeOptions) -> Path:
        info, total = encoder.info, len(dataset)
        partial = self.root / key[:2] / f"{key}.partial"
        writer = _Partial(partial, total, {"embedding": info.embed_dim, "probe": info.probe_dim})
        what = f"{info.name} · {dataset.info.name}"
        size = writer.batch_size or options.batch_size
        writer.start(size)
        pending = [
            range(start, min(start + size, total))
            for start in range(0, total, size)
            if start not in writer.done
        ]
        done = total - sum(len(batch) for batch in pending)
        options.on_progress(done, total, what)
        clock = time.perf_counter()
        for rows, pixels, damaged in _decoded_batches(encoder, dataset, pending, options.num_workers):
            options.timings.decode_s += time.perf_counter() - clock
            clock = time.perf_counter()
            arrays = _encode_batch(
                encoder, pixels, [dataset.keys[i] for i in rows if i not in damaged], options
            )
            options.timings.encode_s += time.perf_counter() - clock
            clock = time.perf_counter()
            writer.write(rows, [i for i in rows if i not in damaged], arrays, damaged)
            options.timings.images += len(rows)
            done += len(rows)
            options.on_progress(done, total, what)
        meta = {
            "kind": "image",
            "encoder": asdict(info),
            "dataset": dataset.info.name,
            "variant": dataset.info.variant,
            "split": dataset.info.split,
            "dataset_fingerprint": dataset.info.fingerprint,
        }
        with writer.to_disk("keys"):
            (partial / "keys.json").write_text(json.dumps(list(dataset.keys)), encoding="utf-8")
        return writer.finish(self.root / key[:2] / key, meta)

    def _encode_texts(self, encoder: Encoder, texts: Sequence[str], key: str, options: EncodeOptions) -> Path:
        total, size = len(texts), options.batch_size
        writer = _Partial(
            self.root / key[:2] / f"{key}.partial", total, {"embedding": encoder.info.embed_dim}
        )
        size = writer.batch_size or size
        writer.start(size)
        for start in range(0, total, size):
            rows = range(start, min(start + size, total))
            if start not in writer.done:
                clock = time.perf_counter()
                batch = [texts[i] for i in rows]
                embedding = _halving(lambda part: encoder.encode_text(encoder.tokenize(part)), batch, options)
                options.timings.encode_s += time.perf_counter() - clock
                options.timings.texts += len(batch)
                writer.write(
                    rows, list(rows), {"embedding": np.concatenate([_numpy(e) for e in embedding])}, {}
                )
            options.on_progress(rows.stop, total, f"{encoder.info.name} · texts")
        meta = {"kind": "text", "encoder": asdict(encoder.info), "num_texts": total}
        return writer.finish(self.root / key[:2] / key, meta)


class _Partial:
    """An entry being written: arrays on disk and a journal of finished batches."""

    def __init__(self, folder: Path, total: int, widths: dict[str, int]) -> None:
        self.folder, self.total, self.widths = folder, total, widths
        self.batch_size: int | None = None
        self.done: set[int] = set()
        self.missing: dict[int, str] = {}
        self._arrays: dict[str, Any] = {}
        self._read_journal()

    def _read_journal(self) -> None:
        journal = self.folder / "journal.jsonl"
        if not journal.is_file():
            return
        whole, _, cut_short = journal.read_text(encoding="utf-8", errors="replace").rpartition("\n")
        if cut_short:
            # A kill cut the last line; its batch is encoded again, and the next line must not join it.
            write_text(journal, whole + "\n" if whole else "")
        try:
            for name, width in self.widths.items():
                if np.load(self._path(name), mmap_mode="r").shape != (self.total, width):
                    raise ValueError(f"{name} has another shape")
            for entry in map(json.loads, whole.split("\n") if whole else ()):
                if "batch_size" in entry:
                    self.batch_size = entry["batch_size"]
                    continue
                self.done.add(entry["start"])
                self.missing |= {int(i): reason for i, reason in entry["missing"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # Damaged from outside: no batch of it can be trusted, so all are encoded again.
            self.batch_size, self.done, self.missing = None, set(), {}

    def start(self, batch_size: int) -> None:
        """Open the arrays, making them where there are none."""
        with self.to_disk("arrays"):
            if self.batch_size is None:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True)
                for name, width in self.widths.items():
                    shape = (self.total, width)
                    array = np.lib.format.open_memmap(self._path(name), "w+", np.float32, shape)
                    array.flush()
                    # A sparse file would run out of disk inside a mapped write, which kills the process.
                    if hasattr(os, "posix_fallocate"):  # not on macOS
                        with self._path(name).open("rb+") as file:
                            os.posix_fallocate(file.fileno(), 0, self._path(name).stat().st_size)
                self._journal({"batch_size": batch_size})
                self.batch_size = batch_size
            for name in self.widths:
                self._arrays[name] = np.lib.format.open_memmap(self._path(name), "r+")

    def write(
        self, rows: range, present: list[int], arrays: dict[str, Array], missing: dict[int, str]
    ) -> None:
        """Put one batch on disk, then into the journal."""
        with self.to_disk("features"):
            for name, values in arrays.items():
                self._arrays[name][present] = values
                self._arrays[name].flush()
            self._journal({"start": rows.start, "missing": missing})
        self.missing |= missing

    def finish(self, final: Path, meta: dict[str, Any]) -> Path:
        """Name the entry finished."""
        self._arrays.clear()
        with self.to_disk("features"):
            sizes = {name: self._path(name).stat().st_size for name in self.widths}
            meta |= {"format": FORMAT_VERSION, "total": self.total, "missing": self.missing, "bytes": sizes}
            write_text(self.folder / "meta.json", json.dumps(meta, indent=1))
            shutil.rmtree(final, ignore_errors=True)
            self.folder.rename(final)
        return final

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _journal(self, entry: dict[str, Any]) -> None:
        with (self.folder / "journal.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def to_disk(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"Cannot write {what} to the feature store {self.folder.parent}: {error.strerror or error}. "
                "Finished batches are kept; free space (rwkvclip-eval cache clear) or choose another store "
                "with --cache DIR, then run the same command again."
            ) from error


class _Decoder:
    """Map-style dataset for the loader: preprocesses in the worker, returns the reason where it cannot."""

    def __init__(self, dataset: Dataset, preprocess: Callable[[Any], Any]) -> None:
        self.dataset, self.preprocess = dataset, preprocess

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Any, str]:
        try:
            return index, self.preprocess(self.dataset.image(index)), ""
        except DamagedData as error:
            return index, None, str(error)


def _as_list(samples: list[Any]) -> list[Any]:
    return samples


def _decoded_batches(
    encoder: Encoder, dataset: Dataset, batches: list[range], num_workers: int
) -> Iterator[tuple[range, Any, dict[int, str]]]:
    """Yield (rows, pixels [b, 3, H, W] float32 of the images that could be decoded, row → reason)."""
    import torch
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(
        _Decoder(dataset, encoder.preprocess),  # type: ignore[arg-type]  # map-style by protocol
        batch_sampler=batches,  # type: ignore[arg-type]  # ranges serve as lists of indices
        num_workers=num_workers,
        collate_fn=_as_list,
        prefetch_factor=2 if num_workers else None,
        # Without one of its own it draws from the global generator, which a training loop around it uses.
        generator=torch.Generator(),
    )
    for rows, samples in zip(batches, loader, strict=True):
        tensors = [pixels for _, pixels, _ in samples if pixels is not None]
        damaged = {index: reason for index, pixels, reason in samples if pixels is None}
        yield rows, torch.stack(tensors) if tensors else None, damaged


def _encode_batch(encoder: Encoder, pixels: Any, keys: list[str], options: EncodeOptions) -> dict[str, Array]:
    if pixels is None:
        return {}
    try:
        parts = _halving(encoder.encode_image, pixels, options)
    except UserError as error:
        rows = getattr(error, "rows", None)
        if not rows:
            raise
        names = ", ".join(keys[row] for row in rows[:5])
        raise UserError(f"{error} Images: {names}.") from error
    return {
        "embedding": np.concatenate([_numpy(part.embedding) for part in parts]),
        "probe": np.concatenate([_numpy(part.probe) for part in parts]),
    }


def _halving(encode: Callable[[Any], Any], batch: Any, options: EncodeOptions) -> list[Any]:
    """Encode `batch`, in smaller parts where GPU memory does not hold it."""
    import torch

    size = len(batch)
    while True:
        try:
            return [encode(batch[start : start + size]) for start in range(0, len(batch), size)]
        except torch.cuda.OutOfMemoryError as error:
            if size == 1:
                raise UserError("One sample does not fit into GPU memory; use another device.") from error
            size = (size + 1) // 2
            torch.cuda.empty_cache()
            options.on_message(f"Out of GPU memory: going on with batches of {size}.")


def _numpy(tensor: Any) -> Array:
    return np.asarray(tensor.detach().float().cpu().numpy())


def _read_meta(folder: Path) -> dict[str, Any] | None:
    """Return what a finished entry says of itself; None where it is not finished, or was damaged since."""
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        whole = all((folder / f"{name}.npy").stat().st_size == size for name, size in meta["bytes"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return meta if whole else None


def _read_images(folder: Path, key: str) -> ImageFeatureSet:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    return ImageFeatureSet(
        key=key,
        embedding=np.load(folder / "embedding.npy", mmap_mode="r"),
        probe=np.load(folder / "probe.npy", mmap_mode="r"),
        missing={int(index): reason for index, reason in meta["missing"].items()},
        device=meta["encoder"]["device"],
        implementation=meta["encoder"]["implementation"],
    )


def image_key(info: EncoderInfo, dataset_fingerprint: str) -> str:
    """Return the store key of one encoder's features of one split."""
    return make_fingerprint(
        format=FORMAT_VERSION,
        kind="image",
        encoder=info.fingerprint,
        precision=info.precision,
        dataset=dataset_fingerprint,
    )


def entries(root: Path) -> list[dict[str, Any]]:
    """Return one mapping per entry under `root`: path, bytes, complete, and model, dataset, split."""
    found = []
    for folder in sorted((root / "features").glob("??/*")):
        if not folder.is_dir():
            continue
        try:
            size = sum(file.stat().st_size for file in folder.iterdir())
        except FileNotFoundError:  # A run finished or cleared it meanwhile.
            continue
        meta = _read_meta(folder) if folder.suffix != ".partial" else None
        entry: dict[str, Any] = {"path": folder, "bytes": size, "complete": meta is not None}
        if meta is not None:
            entry |= {
                "model": meta["encoder"]["name"],
                "dataset": meta.get("dataset", f"{meta['total']} texts"),
                "split": meta.get("split", ""),
            }
        found.append(entry)
    return found


def clear(root: Path) -> tuple[int, int]:
    """Delete every entry under `root`; return (entries, bytes) freed. Entries in use are left alone."""
    from filelock import FileLock, Timeout

    count = freed = 0
    for entry in entries(root):
        folder: Path = entry["path"]
        lock = FileLock(folder.with_name(folder.name.split(".")[0] + ".lock"))
        with contextlib.suppress(Timeout, FileNotFoundError), lock.acquire(timeout=0):
            shutil.rmtree(folder)
            count, freed = count + 1, freed + int(entry["bytes"])
    return count, freed


def load_features(
    run: str | Path, model: str, dataset: str, *, cache_dir: str | Path | None = None
) -> dict[str, Any]:
    """Return the stored features behind a run's numbers.

    Args:
        run: run directory.
        model: display name.
        dataset: record name.
        cache_dir: feature store; `default_cache_dir()` by default.

    Returns:
        `keys` (n sample keys), `embedding` [n, D] float32 of unit norm, `probe` [n, F] float32 (both mapped
        from disk), `missing` (index → reason).

    Raises:
        UserError: the run has no such model and dataset, or its features are no longer stored.
    """
    from rwkvclip_eval.results import read_records, run_dirs

    records = [r for d in run_dirs(Path(run)) for r in read_records(d / "results.jsonl")]
    keys = {r.feature_key for r in records if (r.model, r.dataset) == (model, dataset) and r.feature_key}
    if not keys:
        there = ", ".join(sorted({f"{r.model} × {r.dataset}" for r in records})) or "none"
        raise UserError(f"{run} has no features of {model} × {dataset}. There are: {there}.")
    if len(keys) > 1:
        raise UserError(
            f"{run} holds several variants of {dataset}; their features must be read one run at a time."
        )
    root = Path(cache_dir) if cache_dir else default_cache_dir()
    folder = FeatureStore(root).find(keys.pop())
    if folder is None:
        raise UserError(
            f"The features of {model} × {dataset} are not in {root} (cleared, or run with --no-cache)."
        )
    stored = _read_images(folder, folder.name)
    names = json.loads((folder / "keys.json").read_text(encoding="utf-8"))
    return {"keys": names, "embedding": stored.embedding, "probe": stored.probe, "missing": stored.missing}
