"""The feature store: each model × split is encoded once, and shared by every task that needs it.

An entry is a folder named by its key. While it is being encoded it is called KEY.partial and holds arrays
plus a journal of the batches that are on disk for good; a killed run loses the batch in flight and continues
at the next. When the last batch is in, the folder is renamed to KEY. Keys are made of fingerprints, so that
no entry depends on where anything lies.

Axes: n samples, D embedding, F probe features, m texts.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.data.samples import default_cache_dir
from rwkvclip_eval.encoders.protocol import make_fingerprint
from rwkvclip_eval.encoding import EncodeOptions, InParts, as_array, by_token_count, encode_batches
from rwkvclip_eval.errors import DamagedData, EncodingFailed, OutputError, UserError
from rwkvclip_eval.partial_entry import PartialEntry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
            EncodingFailed: see `encode_batches`; what is encoded by then is kept.
        """
        key = image_key(encoder.info, dataset.info.fingerprint)
        with self._entry(key, options) as folder:
            if _read_meta(folder) is None:
                folder = self._encode_images(encoder, dataset, key, options)
            stored = _read_images(folder, key)
        if any(_can_be_read(dataset, index) for index in stored.missing):
            # A disk or network that failed in passing: the bytes, and with them the key, are the same.
            with self._locked(key, options):
                stored = _read_images(self._encode_images(encoder, dataset, key, options), key)
        return stored

    def texts(self, encoder: Encoder, texts: Sequence[str], options: EncodeOptions) -> Array:
        """Return [m, D] float32 embeddings of `texts`; a text that occurs twice is encoded once.

        Raises:
            OutputError: the store cannot be written.
            EncodingFailed: a text's embedding is not finite, and is named, or GPU memory does not hold it.
        """
        unique = sorted(set(texts))
        info = encoder.info
        key = make_fingerprint(
            format=FORMAT_VERSION,
            kind="text",
            layout="rows",
            encoder=info.fingerprint,
            precision=info.precision,
            texts=unique,
        )
        with self._entry(key, options) as folder:
            if _read_meta(folder) is None:
                folder = self._encode_texts(encoder, unique, key, options)
            stored = np.load(folder / "embedding.npy", mmap_mode="r")
            row = dict(zip(unique, np.load(folder / "rows.npy"), strict=True))
            return np.asarray(stored[[row[text] for text in texts]])

    def find(self, key: str) -> Path | None:
        """Return the folder of a finished entry, None where there is none or it was damaged since."""
        for root in (self.root, self.shared):
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
        with self._locked(key, options) as folder:
            if folder.is_dir() and _read_meta(folder) is None:
                options.on_message(f"The stored features in {folder} are damaged: encoding them again.")
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
        writer = PartialEntry(partial, total, {"embedding": info.embed_dim, "probe": info.probe_dim})
        size = writer.batch_size or options.batch_size
        writer.start(size)
        starts = [start for start in range(0, total, size) if start not in writer.done]
        before = total - sum(min(size, total - start) for start in starts)

        def progress(rows: int) -> None:
            options.on_progress(before + rows, total, f"{info.name} · {dataset.info.name}")

        progress(0)
        if starts:
            ranks = options.ranks
            mine = ranks.announce(
                split=dataset.info.split,
                key=key,
                folder=str(partial.resolve()),
                batch_size=size,
                starts=starts,
            )
            batches = [range(rows.start, min(rows.stop, total)) for rows in mine]
            try:
                encode_batches(
                    encoder, dataset, batches, writer, options, lambda rows: progress(ranks.count(rows))
                )
            except EncodingFailed:
                # The others still write to this entry: no job may follow before they have ended this one.
                with options.timings.stage("encode"), contextlib.suppress(EncodingFailed):
                    ranks.gather(progress)
                raise
            with options.timings.stage("encode"):
                writer.missing |= ranks.gather(progress)
        meta = {
            "format": FORMAT_VERSION,
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
        total = len(texts)
        partial = self.root / key[:2] / f"{key}.partial"
        writer = PartialEntry(partial, total, {"embedding": encoder.info.embed_dim})
        size = writer.batch_size or options.batch_size
        writer.start(size)
        encode = InParts(encoder.encode_text, options, "Texts")
        with options.timings.stage("encode"):
            batches, order = by_token_count(
                [encoder.tokenize(texts[i : i + size]) for i in range(0, total, size)]
            )
        for start in range(0, total, size):
            rows = range(start, min(start + size, total))
            if start not in writer.done:
                clock = time.perf_counter()
                batch = [texts[i] for i in order[rows.start : rows.stop]]
                parts = encode(batches[start // size], [repr(text) for text in batch])
                embedding = np.concatenate([as_array(part) for part in parts])
                options.timings.encode_s += time.perf_counter() - clock
                options.timings.texts += len(batch)
                writer.write(rows, list(rows), {"embedding": embedding}, {})
            options.on_progress(rows.stop, total, f"{encoder.info.name} · texts")
        with writer.to_disk("rows"):
            np.save(partial / "rows.npy", np.argsort(order))
        meta = {"format": FORMAT_VERSION, "kind": "text", "encoder": asdict(encoder.info), "num_texts": total}
        return writer.finish(self.root / key[:2] / key, meta)


def _can_be_read(dataset: Dataset, index: int) -> bool:
    try:
        dataset.image(index)
    except DamagedData:
        return False
    return True


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
