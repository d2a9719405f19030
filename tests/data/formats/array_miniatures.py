"""Writers of miniatures of the datasets published as arrays; pixels are random and returned."""

from __future__ import annotations

import csv
import gzip
import pickle
import struct
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RNG = np.random.default_rng(0)
STL10_NAMES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
CIFAR10_NAMES = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]


def random_pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def _cifar(
    base: Path, meta: str, names_key: str, labels_key: str, batches: Sequence[str], names: Sequence[str]
) -> dict[str, tuple[np.ndarray, list[int]]]:
    base.mkdir(parents=True)
    (base / meta).write_bytes(pickle.dumps({names_key: names}, protocol=2))
    written = {}
    for name in batches:
        rows, labels = random_pixels(4, 3072), RNG.integers(0, len(names), 4).tolist()
        content: dict[str, Any] = {"data": rows, labels_key: labels}
        content |= {"batch_label": name, "filenames": ["a"] * 4}
        (base / name).write_bytes(pickle.dumps(content, protocol=2))
        written[name] = rows.reshape(4, 3, 32, 32).transpose(0, 2, 3, 1), labels
    return written


def cifar10(root: Path) -> dict[str, tuple[np.ndarray, list[int]]]:
    """Four images a batch; return batch → pixels and labels."""
    batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    base = root / "cifar-10-batches-py"
    return _cifar(base, "batches.meta", "label_names", "labels", batches, CIFAR10_NAMES)


def cifar100(root: Path) -> dict[str, tuple[np.ndarray, list[int]]]:
    """Four images a split; return split → pixels and fine labels."""
    names = [f"n{i}" for i in range(100)]
    base = root / "cifar-100-python"
    return _cifar(base, "meta", "fine_label_names", "fine_labels", ["train", "test"], names)


def python2_pickle(content: dict[str, Any]) -> bytes:
    """A mapping as Python 2 and the NumPy of its time pickle it, which is how CIFAR is published.

    That is protocol 2 with texts as bytes, an array rebuilt by `numpy.core.multiarray` from a byte string,
    and the flags of its dtype as numbers.
    """

    def build(value: Any) -> bytes:
        if isinstance(value, int):
            return b"K" + struct.pack("<B", value)  # BININT1
        if isinstance(value, str):
            return b"U" + struct.pack("<B", len(value)) + value.encode()  # SHORT_BINSTRING
        if isinstance(value, list):
            return b"](" + b"".join(map(build, value)) + b"e"  # EMPTY_LIST MARK … APPENDS
        rows, columns = value.shape
        made = b"cnumpy.core.multiarray\n_reconstruct\n"  # GLOBAL
        made += b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R"  # (ndarray, (0,), "b"): TUPLE1 TUPLE3 REDUCE
        made += b"(K\x01M" + struct.pack("<H", rows) + b"M" + struct.pack("<H", columns) + b"\x86"
        made += b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"  # dtype("u1", 0, 1)
        made += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"  # its state: TUPLE BUILD
        made += b"\x89T" + struct.pack("<i", value.size) + value.tobytes() + b"tb"  # NEWFALSE BINSTRING
        return made

    items = b"".join(build(key) + build(value) for key, value in content.items())
    return b"\x80\x02}(" + items + b"u."  # PROTO 2 EMPTY_DICT MARK … SETITEMS STOP


def mnist(root: Path, packed: bool = True) -> tuple[np.ndarray, list[int]]:
    """Both splits alike; return their pixels and labels."""
    pixels, labels = random_pixels(3, 28, 28), np.array([7, 0, 9], dtype=np.uint8)
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    files = {
        "images-idx3": struct.pack(">4i", 2051, 3, 28, 28) + pixels.tobytes(),
        "labels-idx1": struct.pack(">2i", 2049, 3) + labels.tobytes(),
    }
    for stem in ("train", "t10k"):
        for kind, content in files.items():
            name = f"{stem}-{kind}-ubyte" + (".gz" if packed else "")
            (folder / name).write_bytes(gzip.compress(content) if packed else content)
    return pixels, labels.tolist()


def stl10(root: Path) -> tuple[np.ndarray, list[int]]:
    """Both splits alike, two folds; return their pixels and labels from 0."""
    base = root / "stl10_binary"
    base.mkdir(parents=True)
    pixels, labels = random_pixels(4, 96, 96, 3), [3, 0, 9, 1]
    for split in ("train", "test"):
        (base / f"{split}_X.bin").write_bytes(pixels.transpose(0, 3, 2, 1).tobytes())
        (base / f"{split}_y.bin").write_bytes(bytes(i + 1 for i in labels))
    (base / "class_names.txt").write_text("\n".join(STL10_NAMES) + "\n")
    (base / "fold_indices.txt").write_text("2 0 \n1 3 \n")
    return pixels, labels


def fer2013(root: Path, file: str = "fer2013.csv") -> np.ndarray:
    """Two training rows (sad, angry), a public one (neutral), a private one (surprise); return the pixels."""
    pixels = random_pixels(4, 48, 48)
    usages = ["Training", "PublicTest", "PrivateTest", "Training"]
    header = ["emotion", "pixels", "Usage"] if file == "fer2013.csv" else ["emotion", " Usage", " pixels"]
    root.mkdir(parents=True, exist_ok=True)
    with (root / file).open("w", newline="") as stream:
        rows = csv.DictWriter(stream, header)
        rows.writeheader()
        for image, usage, emotion in zip(pixels, usages, [4, 6, 5, 0], strict=True):
            values = {"emotion": emotion, "Usage": usage, "pixels": " ".join(map(str, image.ravel()))}
            rows.writerow({column: values[column.strip()] for column in header})
    return pixels


def pcam(root: Path) -> tuple[np.ndarray, list[int]]:
    """Three splits alike; return their pixels and labels."""
    pixels, labels = random_pixels(3, 96, 96, 3), np.array([1, 0, 1], dtype=np.uint8)
    root.mkdir(parents=True, exist_ok=True)
    for part in ("train", "valid", "test"):
        stem = f"camelyonpatch_level_2_split_{part}"
        with h5py.File(root / f"{stem}_x.h5", "w") as file:
            file["x"] = pixels
        with h5py.File(root / f"{stem}_y.h5", "w") as file:
            file["y"] = labels.reshape(3, 1, 1, 1)
    return pixels, labels.tolist()
