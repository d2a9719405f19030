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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.encoders.protocol import make_fingerprint
from rwkvclip_eval.errors import DamagedData, OutputError
from rwkvclip_eval.features.entry import (
    FORMAT_VERSION,
    META_NAME,
    DamagedEntry,
    StoredEntry,
    check,
    open_entry,
    with_digests,
)
from rwkvclip_eval.features.partial_entry import PARTIAL, PartialEntry
from rwkvclip_eval.features.upkeep import mark
from rwkvclip_models.disk import TemporaryFolder, make_folder, write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rwkvclip_eval.data.types import Dataset
    from rwkvclip_eval.encoders.protocol import Encoder, EncoderInfo
    from rwkvclip_eval.features.engine import Engine


Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class ImageFeatureSet:
    """Features of one split, as stored.

    Attributes:
        key: of the store entry.
        arrays: name → [n, …] float32, what the encoder declares: `embedding` [n, D] of unit norm, `probe`
            [n, F], and its own; rows of missing images are zero.
        missing: index → reason, for images that could not be decoded.
        device: where it was encoded.
        implementation: operator implementation that ran.
    """

    key: str
    arrays: Mapping[str, Array]
    missing: dict[int, str]
    device: str
    implementation: str

    @property
    def embedding(self) -> Array:
        """[n, D] float32, unit norm."""
        return self.arrays["embedding"]

    @property
    def probe(self) -> Array:
        """[n, F] float32."""
        return self.arrays["probe"]


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

    def images(self, encoder: Encoder, dataset: Dataset, engine: Engine) -> ImageFeatureSet:
        """Return the features of every image of `dataset`, encoding those that are not stored yet.

        Raises:
            OutputError: the store cannot be written.
            EncodingFailed: see `encode_batches`; what is encoded by then is kept.
        """
        info = encoder.info
        key = image_key(info, dataset.info.fingerprint)
        shapes = {name: (len(dataset), *shape) for name, shape in info.image_shapes.items()}

        def encode() -> Path:
            return self._encode_images(encoder, dataset, key, engine)

        entry = self._get(key, shapes, encode, engine)
        if any(_can_be_read(dataset, index) for index in entry.meta.missing):
            # A disk or network that failed in passing: the bytes, and with them the key, are the same.
            with self._locked(key, engine):
                entry = _opened(encode(), shapes)
        return ImageFeatureSet(
            key=key,
            arrays=entry.arrays,
            missing=entry.meta.missing,
            device=entry.meta.encoder.device,
            implementation=entry.meta.encoder.implementation,
        )

    def texts(self, encoder: Encoder, texts: Sequence[str], engine: Engine) -> dict[str, Array]:
        """Return name → [m, …] float32 of `texts`, `embedding` [m, D] first; equal texts are encoded once.

        Raises:
            OutputError: the store cannot be written.
            EncodingFailed: a text's embedding is not finite, and is named, or GPU memory does not hold it.
        """
        unique = sorted(set(texts))
        info = encoder.info
        key = text_key(info, unique)
        shapes = {name: (len(unique), *shape) for name, shape in info.text_shapes.items()}
        shapes["rows"] = (len(unique),)
        entry = self._get(key, shapes, lambda: self._encode_texts(encoder, unique, key, engine), engine)
        row = dict(zip(unique, entry.arrays["rows"], strict=True))
        rows = [row[text] for text in texts]
        return {name: np.asarray(entry.arrays[name][rows]) for name in info.text_shapes}

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
        engine: Engine,
    ) -> StoredEntry:
        """Return the entry with arrays of these shapes; where none is whole, hold its lock and encode it."""
        found, _ = self._find(key, shapes)
        if found is None:
            with self._locked(key, engine):
                # Another process may have finished it while this one waited.
                found, damaged = self._find(key, shapes)
                for folder, problem in damaged.items():
                    engine.context.on_message(
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
    def _locked(self, key: str, engine: Engine) -> Iterator[None]:
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
                engine.context.on_message(
                    "Another process is encoding the same model and data; waiting for it."
                )
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

    def _encode_images(self, encoder: Encoder, dataset: Dataset, key: str, engine: Engine) -> Path:
        entry = self._begun(key, len(dataset), encoder.info.image_shapes)
        engine.encode(entry, encoder, dataset)
        entry.add("keys.json", json.dumps(list(dataset.keys)).encode())
        meta = {
            "format": FORMAT_VERSION,
            "kind": "image",
            "encoder": asdict(encoder.info),
            "dataset": dataset.info.name,
            "variant": dataset.info.variant,
            "split": dataset.info.split,
            "dataset_fingerprint": dataset.info.fingerprint,
        }
        return entry.finish(self._folder(key), meta)

    def _encode_texts(self, encoder: Encoder, texts: Sequence[str], key: str, engine: Engine) -> Path:
        entry = self._begun(key, len(texts), encoder.info.text_shapes)
        rows = io.BytesIO()
        np.save(rows, engine.encode_texts(entry, encoder, texts))
        entry.add("rows.npy", rows.getvalue())
        meta = {
            "format": FORMAT_VERSION,
            "kind": "text",
            "encoder": asdict(encoder.info),
            "num_texts": len(texts),
        }
        return entry.finish(self._folder(key), meta)

    def _begun(self, key: str, total: int, shapes: Mapping[str, tuple[int, ...]]) -> PartialEntry:
        folder = self._folder(key)
        return PartialEntry(folder.with_name(f"{folder.name}{PARTIAL}"), total, shapes)

    def _folder(self, key: str) -> Path:
        return self.root / key[:2] / key


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
