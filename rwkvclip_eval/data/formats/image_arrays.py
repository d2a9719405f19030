"""What readers of datasets published as arrays share: the split of their rows, and fetching one as an image.

Axes: n samples.
"""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.data.samples import Split, fingerprint_samples, remembered_fingerprint, stat_signature
from rwkvclip_eval.errors import DamagedData

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image

    from rwkvclip_eval.data.samples import ImageReader


def array_split(
    name: str,
    root: Path,
    files: Sequence[Path],
    images: ImageReader,
    labels: np.ndarray[Any, Any],
    class_names: Sequence[str],
    cache_dir: Path | None,
    about: tuple[str, ...],
) -> Split:
    """Return a split whose images are rows of arrays.

    Args:
        name: record name.
        root: folder of the dataset.
        files: the files that hold the arrays and labels, below `root`.
        images: reader of the n images, which returns decoded ones.
        labels: [n], from 0.
        class_names: in label order.
        cache_dir: keeps the fingerprint.
        about: split and variant.

    Raises:
        DamagedData: a label lies outside the classes, or there are none.
    """
    labels = np.asarray(labels).astype(np.int64)
    where = ", ".join(path.name for path in files)
    if len(labels) == 0:
        raise DamagedData(f"{name}: {where} hold no samples of split {about[0]}. Fetch them again.")
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise DamagedData(
            f"{name}: {where} hold labels from {labels.min()} to {labels.max()}; expected 0 to "
            f"{len(class_names) - 1}. Fetch them again."
        )
    keys = [f"{i:07d}" for i in range(len(labels))]

    def compute() -> str:
        rows = range(len(keys))
        return fingerprint_samples((keys[i], _digest(images.read(i)), int(labels[i])) for i in rows)

    signature = stat_signature(files, root, str(root.resolve()), name, *about, moved=True)
    return Split(
        kind="classification",
        keys=keys,
        images=images,
        source=f"published files of {name}",
        fingerprint=remembered_fingerprint(signature, cache_dir, compute),
        labels=labels,
        class_names=tuple(class_names),
    )


def _digest(image: Any) -> bytes:
    """Return the SHA-256 of size and pixels."""
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()


@dataclass(frozen=True)
class ArrayReader:
    """Hands out images that are held in memory.

    Attributes:
        pixels: [n, height, width] or [n, height, width, 3] uint8.
        source: the files they were read from, for messages.
    """

    pixels: np.ndarray[Any, Any]
    source: str

    def read(self, index: int) -> Image:
        """Return the image of a row."""
        from PIL import Image

        return Image.fromarray(np.ascontiguousarray(self.pixels[index]))

    def where(self, index: int) -> str:
        """Return the files and the row."""
        return f"{self.source} row {index}"


@dataclass(frozen=True)
class MappedReader:
    """Reads images of a raw file, which is mapped anew for each.

    Attributes:
        path: a file of images [3, width, height] uint8, one after the other.
        shape: (3, width, height).
        rows: each image's place in the file, counted in images.
    """

    path: Path
    shape: tuple[int, int, int]
    rows: tuple[int, ...]

    def read(self, index: int) -> Image:
        """Return the image of a row; columns come first in the file."""
        from PIL import Image

        size = int(np.prod(self.shape))
        flat = np.memmap(self.path, np.uint8, "r", offset=self.rows[index] * size, shape=(size,))
        return Image.fromarray(np.ascontiguousarray(flat.reshape(self.shape).transpose(2, 1, 0)))

    def where(self, index: int) -> str:
        """Return the file and the row."""
        return f"{self.path} row {self.rows[index]}"


@dataclass(frozen=True)
class H5Reader:
    """Reads images of an HDF5 file, which each process opens for itself.

    Attributes:
        path: the file.
        dataset: name in it of an array [n, height, width, 3] uint8.
    """

    path: Path
    dataset: str

    def read(self, index: int) -> Image:
        """Return the image of a row."""
        from PIL import Image

        return Image.fromarray(_open_h5(self.path, os.getpid())[self.dataset][index])

    def where(self, index: int) -> str:
        """Return the file and the row."""
        return f"{self.path} row {index}"


@functools.lru_cache(maxsize=4)
def _open_h5(path: Path, process: int) -> Any:
    """Open an HDF5 file once per process: handles do not survive a fork."""
    import h5py

    return h5py.File(path, "r")
