"""Reads torchvision layouts and clip-benchmark's own through that package's `build_dataset`.

That package fetches what it does not find with commands that it puts together for a shell, from its
arguments too. So it is only given the names and splits listed here, which none of its other code understands,
and what it would start or fetch with is out of its reach while it runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from rwkvclip_eval.data.reading import read_image
from rwkvclip_eval.data.samples import (
    Split,
    decode_image,
    fingerprint_files,
    fingerprint_samples,
    targets,
)
from rwkvclip_eval.data.types import SPLITS
from rwkvclip_eval.errors import DamagedData, DataNotFound, UserError
from rwkvclip_eval.registry import unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL.Image import Image

# fmt: off
NAMES = frozenset((
    "caltech101", "cars", "cifar10", "cifar100", "country211", "dtd", "eurosat", "fer2013", "fgvc_aircraft",
    "flickr30k", "flickr8k", "flowers", "food101", "gtsrb", "imagenet-a", "imagenet-o", "imagenet-r",
    "imagenet1k", "imagenet1k-unverified", "imagenet_sketch", "imagenetv2", "mnist", "mscoco_captions",
    "objectnet", "pcam", "pets", "renderedsst2", "stl10", "sun397", "voc2007", "voc2007_multilabel",
))
# fmt: on
"""The datasets of that package that it reads from local files without running anything."""
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
    """Fetches images from a map-style dataset of (image, target) pairs.

    Attributes:
        dataset: what is wrapped.
        rows: [n] int64, each image's index in `dataset`.
        files: the n image files, where each image has one of its own.
    """

    dataset: Any
    rows: np.ndarray[Any, Any]
    files: tuple[Path, ...] = ()

    def read(self, index: int) -> Image:
        """Return the image as the wrapped dataset gives it."""
        image: Image = self.dataset[int(self.rows[index])][0]
        return image

    def encoded(self, index: int) -> bytes | Image:
        """Return the image file's bytes, or the image where it has no file of its own."""
        return read_image(self.files[index]) if self.files else self.read(index)

    def where(self, index: int) -> str:
        """Return the wrapped dataset's class and row."""
        return f"{type(self.dataset).__name__} row {int(self.rows[index])}"


def open_clip_benchmark(
    name: str,
    root: Path,
    split: str,
    cache_dir: Path | None = None,
) -> Split:
    """Open a dataset of the clip-benchmark package.

    Args:
        name: one of `NAMES`.
        root: its folder.
        split: `train`, `val` or `test`.
        cache_dir: keeps the fingerprint; the user's cache folder by default.

    Raises:
        DataNotFound: it is not under `root`, or has no such split.
        DamagedData: its files contradict each other.
        UserError: name or split is none of those above.
    """
    if name not in NAMES:
        raise UserError(unknown_name("dataset of clip-benchmark", name, NAMES))
    if split not in SPLITS:
        raise UserError(f"{name}: " + unknown_name("split", split, SPLITS))
    root = root.absolute()
    if not root.is_dir():
        raise DataNotFound(f"There is no folder {root} for {name}.")
    if name in WITHOUT_SPLITS and split != "test":
        raise DataNotFound(f"{name} has no official split {split!r}: as test, every image is scored.")
    if name in RETRIEVAL:
        annotations = root / RETRIEVAL[name].format(split=split)
        if not annotations.is_file():
            raise DataNotFound(
                f"{name}: there is no {annotations}; take it from release 1.0.0 of the GitHub repository "
                "mehdidc/retrieval_annotations."
            )
    with _reading_only(name, split, root):
        wrapped = _build(name, root, split)
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


def _build(name: str, root: Path, split: str) -> Any:
    from clip_benchmark.datasets import builder

    task = "zeroshot_retrieval" if name in RETRIEVAL else "zeroshot_classification"
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return builder.build_dataset(
            name,
            root=str(root),
            split=SPLIT_NAMES.get((name, split), split),
            transform=None,
            download=False,
            task=task,
        )


@contextlib.contextmanager
def _reading_only(name: str, split: str, root: Path) -> Iterator[None]:
    """Take from that package, for a block, what it would run, fetch or unpack with; say what fails there.

    Raises:
        DataNotFound: it fails on what is under `root`.
        UserError: it lacks another package.
    """
    from clip_benchmark.datasets import builder

    def refuse(*arguments: Any, **_: Any) -> NoReturn:
        raise DataNotFound(f"{name} is incomplete: clip-benchmark would fetch or unpack {arguments[0]}.")

    class Refused:
        get = open = staticmethod(refuse)

    reached = [(builder, "call"), (builder.imagenetv2, "requests"), (builder.imagenetv2, "tarfile")]
    before = [getattr(module, attribute) for module, attribute in reached]
    for module, attribute in reached:
        setattr(module, attribute, refuse if attribute == "call" else Refused)
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"clip-benchmark needs a further package for {name!r}: {error}.") from error
    except Exception as error:  # that package and torchvision raise what they like on files that do not fit
        raise DataNotFound(f"{name}, split {split}, cannot be opened under {root}: {error!r}.") from error
    finally:
        for (module, attribute), value in zip(reached, before, strict=True):
            setattr(module, attribute, value)


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
    outside = [p for p in paths or () if not p.is_relative_to(root) or ".." in p.parts]
    if outside:
        raise DamagedData(f"{outside[0]} lies outside {root}; samples must be files below it.")
    if paths is None or len(set(paths)) < count:
        return [f"{i:07d}" for i in range(count)]
    return [p.relative_to(root).as_posix() for p in paths]


def _digests(reader: WrappedReader, keys: Sequence[str]) -> Iterator[bytes]:
    for i, key in enumerate(keys):
        image = decode_image(reader.read(i), f"{key} ({reader.where(i)})")
        yield hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
