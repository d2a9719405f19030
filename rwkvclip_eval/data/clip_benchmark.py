"""Reads torchvision layouts and clip-benchmark's own through that package's `build_dataset`."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from rwkvclip_eval.data.samples import (
    Split,
    decode_image,
    fingerprint_files,
    fingerprint_samples,
    targets,
)
from rwkvclip_eval.errors import DataNotFound, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL.Image import Image

RETRIEVAL = {
    "flickr8k": "flickr8k_{split}_karpathy.txt",
    "flickr30k": "flickr30k_{split}_karpathy.txt",
    "mscoco_captions": "coco_{split}_karpathy.json",
}
"""That package's name → annotation file it wants under the root."""
SPLIT_NAMES = {("pets", "train"): "trainval"}
WITHOUT_SPLITS = ("sun397", "caltech101", "eurosat")
"""Sets of which that package ignores the split: it returns every image."""
SORTED = ("sun397", "imagenetv2")
"""Sets whose order there is that of the file system."""


@dataclass(frozen=True)
class WrappedReader:
    """Fetches images from a map-style dataset of (image, target) pairs; `files` where each has its own."""

    dataset: Any
    rows: np.ndarray[Any, Any]
    files: tuple[Path, ...] = ()

    def read(self, index: int) -> Image:
        """Return the image as the wrapped dataset gives it."""
        image: Image = self.dataset[int(self.rows[index])][0]
        return image

    def encoded(self, index: int) -> bytes | Image:
        """Return the image file's bytes, or the image where it has no file of its own."""
        return self.files[index].read_bytes() if self.files else self.read(index)

    def where(self, index: int) -> str:
        """Return the wrapped dataset's class and row."""
        return f"{type(self.dataset).__name__} row {int(self.rows[index])}"


def open_clip_benchmark(
    name: str,
    root: Path,
    split: str,
    download: bool = False,
    cache_dir: Path | None = None,
) -> Split:
    """Open a dataset of the clip-benchmark package.

    Args:
        name: its name there (`fgvc_aircraft`, `cifar10`, …).
        root: its folder.
        split: `train`, `val` or `test`.
        download: let torchvision fetch it.
        cache_dir: keeps the fingerprint; the user's cache folder by default.

    Raises:
        DataNotFound: it is not under `root`, or has no such split.
        DamagedData: its files contradict each other.
        UserError: that package does not know the name.
    """
    root = root.absolute()
    if not root.is_dir() and not download:
        raise DataNotFound(f"There is no folder {root} for {name}.")
    if name in WITHOUT_SPLITS and split != "test":
        raise DataNotFound(f"{name} has no official split {split!r}: as test, every image is scored.")
    if name in RETRIEVAL and not download:
        annotations = root / RETRIEVAL[name].format(split=split)
        if not annotations.is_file():
            raise DataNotFound(
                f"{name}: there is no {annotations}; take it from release 1.0.0 of the GitHub repository "
                "mehdidc/retrieval_annotations."
            )
    wrapped = _build(name, root, split, download)
    captions = _captions(wrapped) if name in RETRIEVAL else None
    labels = None if captions is not None else _labels(wrapped)
    paths = _paths(wrapped)
    rows = np.arange(len(wrapped))
    if name in SORTED and paths is not None:
        rows = np.array(sorted(rows.tolist(), key=lambda i: str(paths[i])), dtype=np.int64)
    class_names, templates = getattr(wrapped, "classes", None), getattr(wrapped, "templates", None)
    if len(rows) == 0:
        raise DataNotFound(f"{root} holds no images of {name}, split {split}.")
    labels = None if labels is None else labels[rows]
    captions = None if captions is None else [captions[i] for i in rows.tolist()]
    chosen = None if paths is None else [paths[i] for i in rows.tolist()]
    keys = _keys(chosen, root, len(rows))
    reader = WrappedReader(wrapped, rows)
    wanted = targets(labels, captions)
    # Several samples of one file are crops: their pixels count, not the file's bytes.
    if chosen is not None and len(set(chosen)) == len(chosen):
        fingerprint = fingerprint_files(chosen, keys, wanted, root, cache_dir)
        reader = WrappedReader(wrapped, rows, tuple(chosen))
    else:
        fingerprint = fingerprint_samples(zip(keys, _digests(reader, keys), wanted, strict=True))
    return Split(
        kind="retrieval" if labels is None else "multilabel" if labels.ndim == 2 else "classification",
        keys=keys,
        images=reader,
        source=f"clip-benchmark {name}",
        fingerprint=fingerprint,
        labels=labels,
        captions=captions,
        class_names=None if labels is None or class_names is None else tuple(map(str, class_names)),
        templates=None if labels is None or templates is None else tuple(templates),
    )


def _build(name: str, root: Path, split: str, download: bool) -> Any:
    from clip_benchmark.datasets import builder

    task = "zeroshot_retrieval" if name in RETRIEVAL else "zeroshot_classification"
    guard = contextlib.nullcontext() if download else _no_downloads(builder, name)
    try:
        with guard, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return builder.build_dataset(
                name,
                root=str(root),
                split=SPLIT_NAMES.get((name, split), split),
                transform=None,
                download=download,
                task=task,
            )
    except (RuntimeError, OSError, AssertionError) as error:
        raise DataNotFound(f"{name}, split {split}, cannot be opened under {root}: {error}.") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"clip-benchmark does not know {name!r}, split {split!r}: {error}.") from error
    except ImportError as error:
        raise UserError(f"clip-benchmark needs a further package for {name!r}: {error}.") from error


@contextlib.contextmanager
def _no_downloads(builder: Any, name: str) -> Iterator[None]:
    """Keep that package from fetching missing files by itself, which it does with wget or requests."""

    def refuse(*arguments: Any, **_: Any) -> NoReturn:
        raise DataNotFound(f"{name} is incomplete: clip-benchmark would fetch {arguments[0]}.")

    class Offline:
        get = staticmethod(refuse)

    call, requests = builder.call, builder.imagenetv2.requests
    builder.call, builder.imagenetv2.requests = refuse, Offline
    try:
        yield
    finally:
        builder.call, builder.imagenetv2.requests = call, requests


def _labels(wrapped: Any) -> np.ndarray[Any, Any]:
    """Return [n] int64 or [n, K]; images are decoded only where the dataset keeps no list of its labels."""
    for attribute in ("_labels", "targets", "labels", "y"):
        found = getattr(wrapped, attribute, None)
        if found is not None and len(found) == len(wrapped):
            return np.asarray(found).astype(np.int64)
    for attribute in ("_samples", "samples"):
        found = getattr(wrapped, attribute, None)
        if found is not None and len(found) == len(wrapped):
            return np.array([int(target) for _, target in found], dtype=np.int64)
    return np.array([int(wrapped[i][1]) for i in range(len(wrapped))], dtype=np.int64)


def _captions(wrapped: Any) -> list[list[str]]:
    """Return the captions of a Flickr or COCO dataset without decoding images."""
    if hasattr(wrapped, "coco"):
        return [[str(a["caption"]) for a in wrapped.coco.imgToAnns[i]] for i in wrapped.ids]
    return [[str(c) for c in captions] for _, captions in wrapped.data]


def _paths(wrapped: Any) -> list[Path] | None:
    """Return one file per sample, None where the dataset keeps pixels in memory."""
    if hasattr(wrapped, "coco"):
        return [Path(wrapped.root) / wrapped.coco.imgs[i]["file_name"] for i in wrapped.ids]
    for attribute in ("_image_files", "_images", "fnames"):
        found = getattr(wrapped, attribute, None)
        if found is not None and len(found) == len(wrapped):
            return [Path(p) for p in found]
    for attribute in ("_samples", "samples"):
        found = getattr(wrapped, attribute, None)
        if found is not None and len(found) == len(wrapped):
            return [Path(p) for p, _ in found]
    if hasattr(wrapped, "categories") and hasattr(wrapped, "index"):
        folder = Path(wrapped.root) / "101_ObjectCategories"
        pairs = zip(wrapped.y, wrapped.index, strict=True)
        return [folder / wrapped.categories[y] / f"image_{i:04d}.jpg" for y, i in pairs]
    data = getattr(wrapped, "data", None)
    if isinstance(data, list) and data and isinstance(data[0], tuple):
        return [Path(wrapped.root) / name for name, _ in data]
    return None


def _keys(paths: Sequence[Path] | None, root: Path, count: int) -> list[str]:
    """Return paths below the root where each sample has its own file, row numbers otherwise."""
    if paths is None or len(set(paths)) < count:
        return [f"{i:07d}" for i in range(count)]
    return [p.relative_to(root).as_posix() for p in paths]


def _digests(reader: WrappedReader, keys: Sequence[str]) -> Iterator[bytes]:
    for i, key in enumerate(keys):
        image = decode_image(reader.read(i), f"{key} ({reader.where(i)})")
        yield hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
