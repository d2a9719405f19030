"""The feature store: each model × split is encoded once, and shared by every task that needs it.

An entry is a folder named by its key. While it is being encoded it is called KEY.partial and holds arrays
plus a journal of the batches that are on disk for good; a killed run loses the batch in flight and continues
at the next. When the last batch is in, the folder is renamed to KEY. Keys are made of fingerprints, so that
no entry depends on where anything lies.

Axes: n samples, D embedding, F probe features, m texts.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.encoders.protocol import make_fingerprint
from rwkvclip_eval.errors import DamagedData, EncodingFailed, OutputError
from rwkvclip_eval.features.encoding import EncodeOptions, InParts, as_array, by_token_count, encode_batches
from rwkvclip_eval.features.entry import (
    META_NAME,
    DamagedEntry,
    StoredEntry,
    check,
    open_entry,
    with_digests,
)
from rwkvclip_eval.features.partial_entry import PartialEntry
from rwkvclip_eval.features.upkeep import mark
from rwkvclip_models.disk import TemporaryFolder, make_folder, write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

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
        self._temporary = TemporaryFolder("rwkvclip-features") if root is None else None
        self.root = (self._temporary.path if self._temporary else Path(str(root))) / "features"
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
        info = encoder.info
        key = image_key(info, dataset.info.fingerprint)
        shapes = {"embedding": (len(dataset), info.embed_dim), "probe": (len(dataset), info.probe_dim)}

        def encode() -> Path:
            return self._encode_images(encoder, dataset, key, options)

        entry = self._get(key, shapes, encode, options)
        if any(_can_be_read(dataset, index) for index in entry.meta.missing):
            # A disk or network that failed in passing: the bytes, and with them the key, are the same.
            with self._locked(key, options):
                entry = _opened(encode(), shapes)
        return ImageFeatureSet(
            key=key,
            embedding=entry.arrays["embedding"],
            probe=entry.arrays["probe"],
            missing=entry.meta.missing,
            device=entry.meta.encoder.device,
            implementation=entry.meta.encoder.implementation,
        )

    def texts(self, encoder: Encoder, texts: Sequence[str], options: EncodeOptions) -> Array:
        """Return [m, D] float32 embeddings of `texts`; a text that occurs twice is encoded once.

        Raises:
            OutputError: the store cannot be written.
            EncodingFailed: a text's embedding is not finite, and is named, or GPU memory does not hold it.
        """
        unique = sorted(set(texts))
        info = encoder.info
        key = text_key(info, unique)
        shapes = {"embedding": (len(unique), info.embed_dim), "rows": (len(unique),)}
        entry = self._get(key, shapes, lambda: self._encode_texts(encoder, unique, key, options), options)
        row = dict(zip(unique, entry.arrays["rows"], strict=True))
        return np.asarray(entry.arrays["embedding"][[row[text] for text in texts]])

    def find(self, key: str) -> StoredEntry | None:
        """Return a finished entry, None where there is none or it was damaged since."""
        return self._find(key, {})[0]

    def holds(self, key: str) -> bool:
        """Return whether there is a finished entry, by its description and sizes; `find` reads every byte."""
        for root in (self.root, self.shared):
            if root is not None:
                with contextlib.suppress(DamagedEntry):
                    open_entry(root / key[:2] / key)
                    return True
        return False

    def _get(
        self,
        key: str,
        shapes: Mapping[str, tuple[int, ...]],
        encode: Callable[[], Path],
        options: EncodeOptions,
    ) -> StoredEntry:
        """Return the entry with arrays of these shapes; where none is whole, hold its lock and encode it."""
        found, _ = self._find(key, shapes)
        if found is None:
            with self._locked(key, options):
                # Another process may have finished it while this one waited.
                found, damaged = self._find(key, shapes)
                for folder, problem in damaged.items():
                    options.on_message(
                        f"The stored features in {folder} are damaged ({problem}): encoding them again."
                    )
                if found is None:
                    found = _opened(encode(), shapes)
        return found

    def _find(
        self, key: str, shapes: Mapping[str, tuple[int, ...]]
    ) -> tuple[StoredEntry | None, dict[Path, DamagedEntry]]:
        """Return the entry if one is whole, and what is wrong with those that are not."""
        damaged: dict[Path, DamagedEntry] = {}
        for root in (self.root, self.shared):
            folder = root / key[:2] / key if root is not None else None
            if folder is None or not os.path.lexists(folder):
                continue
            try:
                entry = _opened(folder, shapes)
                digests = check(entry)
            except DamagedEntry as error:
                damaged[folder] = error
                continue
            if digests and root is self.root:
                self._add_digests(entry, digests)
            return entry, {}
        return None, damaged

    def _add_digests(self, entry: StoredEntry, digests: Mapping[str, str]) -> None:
        """Give an entry of before there were any its digests, unless somebody works on it."""
        from filelock import FileLock, Timeout

        with (
            contextlib.suppress(Timeout, OSError, OutputError),
            FileLock(entry.folder.with_suffix(".lock"), timeout=0),
        ):
            write_text(entry.folder / META_NAME, with_digests(entry.folder, digests))

    @contextlib.contextmanager
    def _locked(self, key: str, options: EncodeOptions) -> Iterator[None]:
        """Let no other process write the private store's entry meanwhile."""
        from filelock import FileLock, Timeout

        folder = self.root / key[:2] / key
        try:
            mark(self.root)
            make_folder(folder.parent)
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
            yield
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
        writer.add("keys.json", json.dumps(list(dataset.keys)).encode())
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
        rows_of_texts = io.BytesIO()
        np.save(rows_of_texts, np.argsort(order).astype(np.int64))
        writer.add("rows.npy", rows_of_texts.getvalue())
        meta = {"format": FORMAT_VERSION, "kind": "text", "encoder": asdict(encoder.info), "num_texts": total}
        return writer.finish(self.root / key[:2] / key, meta)


def _can_be_read(dataset: Dataset, index: int) -> bool:
    try:
        dataset.image(index)
    except DamagedData:
        return False
    return True


def _opened(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> StoredEntry:
    """Return an entry whose arrays have these shapes.

    Raises:
        DamagedEntry: it is damaged, or of other shapes.
    """
    entry = open_entry(folder)
    for name, shape in shapes.items():
        if name not in entry.arrays or entry.arrays[name].shape != shape:
            raise DamagedEntry(f"it has no {name}.npy of the shape {list(shape)}")
    return entry


def image_key(info: EncoderInfo, dataset_fingerprint: str) -> str:
    """Return the store key of one encoder's features of one split."""
    return make_fingerprint(
        format=FORMAT_VERSION,
        kind="image",
        encoder=info.fingerprint,
        precision=info.precision,
        dataset=dataset_fingerprint,
    )


def text_key(info: EncoderInfo, unique: Sequence[str]) -> str:
    """Return the store key of one encoder's embeddings of `unique` texts, each once and sorted."""
    return make_fingerprint(
        format=FORMAT_VERSION,
        kind="text",
        layout="rows",
        encoder=info.fingerprint,
        precision=info.precision,
        texts=unique,
    )
