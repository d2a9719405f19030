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
import pickle
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.data.samples import default_cache_dir, name_some
from rwkvclip_eval.encoders.protocol import make_fingerprint
from rwkvclip_eval.errors import DamagedData, OutputError, UserError
from rwkvclip_eval.plugins import load_plugin, loaded_plugins
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


class FeatureStore:
    """Features on disk.

    Args:
        root: private folder; None keeps features in a temporary folder that goes with the store
            (`--no-cache`); leaving the store's `with` block deletes it.
        shared: read-only store for what the private one lacks, e.g. one a group fills once for all.
    """

    def __init__(self, root: Path | None, shared: Path | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="rwkvclip-features-") if root is None else None
        self.root = (Path(self._temporary.name) if self._temporary else Path(str(root))) / "features"
        self.shared = shared / "features" if shared else None

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        if self._temporary:
            self._temporary.cleanup()

    def images(self, encoder: Encoder, dataset: Dataset, options: EncodeOptions) -> ImageFeatureSet:
        """Return the features of every image of `dataset`, encoding those that are not stored yet.

        Raises:
            OutputError: the store cannot be written.
            UserError: an image's embedding is not finite; the text names the image.
        """
        key = image_key(encoder.info, dataset.info.fingerprint)
        with self._entry(key, options) as folder:
            if not (folder / "meta.json").is_file():
                folder = self._encode_images(encoder, dataset, key, options)
            stored = _read_images(folder, key)
        if any(_can_be_read(dataset, index) for index in stored.missing):
            # A disk or network that failed in passing: the bytes, and with them the key, are the same.
            with self._locked(key, options):
                stored = _read_images(self._encode_images(encoder, dataset, key, options), key)
        return stored

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
            if not (folder / "meta.json").is_file():
                folder = self._encode_texts(encoder, unique, key, options)
            stored = np.load(folder / "embedding.npy", mmap_mode="r")
            row = {text: i for i, text in enumerate(unique)}
            return np.asarray(stored[[row[text] for text in texts]])

    def find(self, key: str) -> Path | None:
        """Return the folder of a finished entry, None where there is none."""
        for root in (self.root, self.shared):
            if root is not None and (root / key[:2] / key / "meta.json").is_file():
                return root / key[:2] / key
        return None

    @contextlib.contextmanager
    def _entry(self, key: str, options: EncodeOptions) -> Iterator[Path]:
        """Yield the entry's folder; where it is not finished, hold its lock meanwhile."""
        found = self.find(key)
        if found:
            yield found
            return
        with self._locked(key, options) as folder:
            yield folder

    @contextlib.contextmanager
    def _locked(self, key: str, options: EncodeOptions) -> Iterator[Path]:
        """Yield the private store's folder of an entry, which no other process writes meanwhile."""
        from filelock import FileLock, Timeout

        folder = self.root / key[:2] / key
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
        encode = _InParts(encoder.encode_image, options)
        clock = time.perf_counter()
        for rows, pixels, damaged in _decoded_batches(encoder, dataset, pending, options.num_workers):
            options.timings.decode_s += time.perf_counter() - clock
            clock = time.perf_counter()
            present = [i for i in rows if i not in damaged]
            arrays: dict[str, Array] = {}
            if present:
                parts = encode(pixels, [f"image {dataset.keys[i]}" for i in present])
                arrays["embedding"] = np.concatenate([_numpy(part.embedding) for part in parts])
                arrays["probe"] = np.concatenate([_numpy(part.probe) for part in parts])
            options.timings.encode_s += time.perf_counter() - clock
            clock = time.perf_counter()
            writer.write(rows, present, arrays, damaged)
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
        encode = _InParts(lambda part: encoder.encode_text(encoder.tokenize(part)), options)
        for start in range(0, total, size):
            rows = range(start, min(start + size, total))
            if start not in writer.done:
                clock = time.perf_counter()
                batch = [texts[i] for i in rows]
                parts = encode(batch, [f"text {text!r}" for text in batch])
                embedding = np.concatenate([_numpy(part) for part in parts])
                options.timings.encode_s += time.perf_counter() - clock
                options.timings.texts += len(batch)
                writer.write(rows, list(rows), {"embedding": embedding}, {})
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
        whole, _, cut_short = journal.read_text(encoding="utf-8").rpartition("\n")
        if cut_short:
            # A kill cut the last line; its batch is encoded again, and the next line must not join it.
            write_text(journal, whole + "\n" if whole else "")
        for entry in map(json.loads, whole.splitlines()):
            if "batch_size" in entry:
                self.batch_size = entry["batch_size"]
                continue
            self.done.add(entry["start"])
            self.missing |= {int(i): reason for i, reason in entry["missing"].items()}

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

    def __getstate__(self) -> tuple[list[Path], bytes]:
        # A worker that is spawned (on macOS) must run the plugins before it knows the classes they define.
        return loaded_plugins(), pickle.dumps((self.dataset, self.preprocess))

    def __setstate__(self, state: tuple[list[Path], bytes]) -> None:
        plugins, content = state
        for path in plugins:
            load_plugin(path)
        self.dataset, self.preprocess = pickle.loads(content)

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
    )
    for rows, samples in zip(batches, loader, strict=True):
        tensors = [pixels for _, pixels, _ in samples if pixels is not None]
        damaged = {index: reason for index, pixels, reason in samples if pixels is None}
        yield rows, torch.stack(tensors) if tensors else None, damaged


class _InParts:
    """Encodes a batch whole, or in parts where GPU memory does not hold it; remembers the size that fits.

    Args:
        encode: pixels or texts → what the encoder gives.
        options: told when parts become smaller.
    """

    def __init__(self, encode: Callable[[Any], Any], options: EncodeOptions) -> None:
        self._encode, self._options = encode, options
        self._most: int | None = None

    def __call__(self, batch: Any, names: Sequence[str]) -> list[Any]:
        """Return the parts' results in order; `names` is what messages call the samples of `batch`.

        Raises:
            UserError: one sample alone is too large, or one's embedding is not finite, which is named.
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
                    raise UserError("One sample does not fit into GPU memory; use another device.") from error
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
            raise UserError(f"{error} Concerned: {name_some(names[row] for row in rows)}.") from error


def _can_be_read(dataset: Dataset, index: int) -> bool:
    try:
        dataset.image(index)
    except DamagedData:
        return False
    return True


def _numpy(tensor: Any) -> Array:
    return np.asarray(tensor.detach().float().cpu().numpy())


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
        size = sum(file.stat().st_size for file in folder.iterdir())
        entry: dict[str, Any] = {"path": folder, "bytes": size, "complete": folder.suffix != ".partial"}
        if entry["complete"]:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
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
        with contextlib.suppress(Timeout), lock.acquire(timeout=0):
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
