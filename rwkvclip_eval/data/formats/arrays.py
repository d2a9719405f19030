"""Readers of datasets published as arrays: CIFAR, MNIST, STL-10, FER2013, PatchCamelyon.

Axes: n samples.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rwkvclip_eval.data.formats.array_pickle import load_pickle
from rwkvclip_eval.data.formats.image_arrays import ArrayReader, H5Reader, MappedReader, array_split
from rwkvclip_eval.data.formats.image_files import image_split, locate, need, need_split
from rwkvclip_eval.data.prompts import shipped
from rwkvclip_eval.data.reading import MAX_PIXELS, MOST_SAMPLES, csv_rows, read_text
from rwkvclip_eval.errors import DamagedData, DataNotFound
from rwkvclip_eval.schema import whole_number
from rwkvclip_models.files import read_bytes, require_regular

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_eval.data.samples import Split

MNIST_FILES = {"train": "train", "test": "t10k"}
MNIST_SHAPE = (28, 28)
IDX_IMAGES, IDX_LABELS = 2051, 2049
"""Magic numbers of idx files of bytes with three axes and with one."""
FER2013_ORDER = (0, 1, 2, 3, 5, 6, 4)
"""Published emotion (angry, disgust, fear, happy, sad, surprise, neutral) → place among the class names,
which are alphabetical in clip-benchmark."""
FER2013_USAGE = {
    ("official", "train"): ("Training",),
    ("official", "val"): ("PublicTest",),
    ("official", "test"): ("PrivateTest",),
    ("clip-benchmark", "train"): ("Training",),
    ("clip-benchmark", "test"): ("PublicTest", "PrivateTest"),
}
FER2013_FOLDERS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
ARRAY_LIMIT_BYTES = 1 << 30
"""Of a file of arrays that is read whole, unpacked; MNIST's largest has 47 MB."""
STL10_SHAPE = (3, 96, 96)
PCAM_SPLITS = {"train": "train", "val": "valid", "test": "test"}


def open_cifar10(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Open `cifar-10-batches-py`, the authors' Python version."""
    names = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    files = ("batches.meta", "label_names", "labels")
    return _cifar("cifar10", root, "cifar-10-batches-py", names, files, split, cache_dir)


def open_cifar100(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Open `cifar-100-python`, the authors' Python version, with the fine labels."""
    names = {"train": ["train"], "test": ["test"]}
    files = ("meta", "fine_label_names", "fine_labels")
    return _cifar("cifar100", root, "cifar-100-python", names, files, split, cache_dir)


def _cifar(
    name: str,
    root: Path,
    folder: str,
    batches: dict[str, list[str]],
    keys: tuple[str, str, str],
    split: str,
    cache_dir: Path | None,
) -> Split:
    need_split(name, split, batches)
    meta, names_key, labels_key = keys
    base = locate(name, root, f"{folder}/{meta}", meta).parent
    pixels, labels = [], []
    for batch in batches[split]:
        content = load_pickle(base / batch)
        rows, found = content.get("data"), content.get(labels_key)
        if (
            not isinstance(rows, np.ndarray)
            or rows.dtype != np.uint8
            or rows.ndim != 2
            or rows.shape[1] != 3072
            or not isinstance(found, list)
            or len(found) != len(rows)
            or not all(type(label) is int and 0 <= label < 1000 for label in found)
        ):
            raise DamagedData(
                f"{base / batch}: expected data [n, 3072] uint8 and n {labels_key}. Fetch it again."
            )
        pixels.append(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels += found
    class_names = load_pickle(base / meta).get(names_key)
    if not isinstance(class_names, list) or not all(isinstance(text, str) for text in class_names):
        raise DamagedData(f"{base / meta} has no list of texts {names_key}. Fetch it again.")
    files = [base / batch for batch in [*batches[split], meta]]
    reader = ArrayReader(np.concatenate(pixels), f"{folder} {split}")
    return array_split(
        name, root, files, reader, np.array(labels, dtype=np.int64), class_names, cache_dir, (split,)
    )


def open_mnist(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Open the four idx files, packed with gzip or not, in `MNIST/raw`, `raw` or the folder itself."""
    need_split("mnist", split, MNIST_FILES)
    stem = MNIST_FILES[split]
    images, labels = (_idx_path(root, stem, kind) for kind in ("images-idx3", "labels-idx1"))
    pixels, wanted = _read_idx(images, IDX_IMAGES), _read_idx(labels, IDX_LABELS)
    if pixels.shape[1:] != MNIST_SHAPE:
        raise DamagedData(
            f"{images} holds images of {pixels.shape[1]} x {pixels.shape[2]} pixels, MNIST's have 28 x 28. "
            "Fetch it again."
        )
    if len(pixels) != len(wanted):
        raise DamagedData(f"{images} holds {len(pixels)} images, {labels.name} {len(wanted)} labels.")
    reader = ArrayReader(pixels, images.name)
    names = shipped("labels", "mnist") or ()
    return array_split("mnist", root, [images, labels], reader, wanted, names, cache_dir, (split,))


def _idx_path(root: Path, stem: str, kind: str) -> Path:
    names = [f"{stem}-{k}-ubyte{end}" for k in (kind,) for end in ("", ".gz")]
    names.append(f"{stem}-{kind.replace('-', '.')}-ubyte")
    return locate(
        "mnist", root, *(f"{folder}{name}" for folder in ("MNIST/raw/", "raw/", "") for name in names)
    )


def _read_idx(path: Path, magic: int) -> np.ndarray[Any, Any]:
    """Return the bytes of an idx file in the shape its header states.

    Raises:
        DamagedData: the magic number is another, the length does not fit the header, or it is too large.
    """
    content = read_bytes(path, limit=ARRAY_LIMIT_BYTES, what="file", error=DamagedData)
    if path.suffix == ".gz":
        try:
            with gzip.open(io.BytesIO(content)) as packed:
                content = packed.read(ARRAY_LIMIT_BYTES + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DamagedData(f"{path} cannot be unpacked: {error}. Fetch it again.") from error
        if len(content) > ARRAY_LIMIT_BYTES:
            raise DamagedData(f"{path} unpacks to more than the {ARRAY_LIMIT_BYTES} bytes that are read.")
    axes = magic & 0xFF
    if len(content) < 4 + 4 * axes or struct.unpack(">i", content[:4])[0] != magic:
        raise DamagedData(f"{path} is no idx file with magic number {magic}. Fetch it again.")
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    body = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    if body.size != math.prod(shape):
        raise DamagedData(f"{path}: the header says {shape}, {body.size} bytes follow. Fetch it again.")
    return body.reshape(shape)


def open_stl10(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Open `stl10_binary`; variant `fold0` trains on the first of the ten predefined folds."""
    name = "stl10"
    need_split(name, split, ("train", "test"))
    base = locate(name, root, f"stl10_binary/{split}_X.bin", f"{split}_X.bin").parent
    paths = [base / f"{split}_X.bin", need(name, base / f"{split}_y.bin")]
    images, answers = paths
    content = read_bytes(answers, limit=ARRAY_LIMIT_BYTES, what="file", error=DamagedData)
    labels = np.frombuffer(content, np.uint8).astype(np.int64) - 1
    size = require_regular(images, "file", error=DamagedData).st_size
    expected = len(labels) * math.prod(STL10_SHAPE)
    if size != expected:
        raise DamagedData(f"{images} has {size} bytes; {len(labels)} labels need {expected}. Fetch it again.")
    names = read_text(need(name, base / "class_names.txt")).split()
    rows = np.arange(len(labels))
    if variant == "fold0" and split == "train":
        folds = need(name, base / "fold_indices.txt")
        paths.append(folds)
        try:
            rows = np.array(read_text(folds).splitlines()[0].split(), dtype=np.int64)
            if rows.min() < 0:
                raise ValueError("a row below 0")
            labels = labels[rows]
        except (IndexError, ValueError, OverflowError) as error:
            raise DamagedData(f"{folds} does not fit {answers.name}: {error}. Fetch it again.") from error
    reader = MappedReader(images, STL10_SHAPE, tuple(rows.tolist()))
    return array_split(name, root, paths, reader, labels, names, cache_dir, (split, variant))


def open_fer2013(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Open `fer2013.csv`, `icml_face_data.csv`, `train.csv`, or the class folders of Kaggle's copy."""
    need_split(f"fer2013@{variant}", split, [s for v, s in FER2013_USAGE if v == variant])
    usage = FER2013_USAGE[variant, split]
    places = [f"{d}{f}" for f in ("fer2013.csv", "icml_face_data.csv") for d in ("fer2013/", "")]
    if split == "train":
        places += ["fer2013/train.csv", "train.csv"]
    names = shipped("labels", "fer2013") or ()
    folders = root / split
    if folders.is_dir() and variant == "clip-benchmark" and not any((root / p).exists() for p in places):
        pairs = [
            (path.relative_to(root).as_posix(), label)
            for label, folder in enumerate(FER2013_FOLDERS)
            for path in sorted(need("fer2013", folders / folder).glob("*.jpg"))
        ]
        return image_split("fer2013", root, [f for f, _ in pairs], [i for _, i in pairs], names, cache_dir)
    path = locate("fer2013", root, *places)
    pixels, labels = [], []
    for line, raw in csv_rows(path, skipinitialspace=True):
        found = raw.get("Usage") if path.name != "train.csv" else "Training"
        if found not in ("Training", "PublicTest", "PrivateTest"):
            raise DamagedData(f"{path}, line {line}: unknown Usage {found!r}. Fetch it again.")
        if found not in usage:
            continue
        try:
            image = np.array(raw["pixels"].split(), dtype=np.uint8).reshape(48, 48)
            emotion = whole_number(raw["emotion"])
            labels.append(FER2013_ORDER[len(FER2013_ORDER) if emotion is None else emotion])
        except (KeyError, ValueError, OverflowError, IndexError) as error:
            raise DamagedData(
                f"{path}, line {line}: expected an emotion 0 to 6 and 48 x 48 pixels ({error}). "
                "Fetch it again."
            ) from error
        pixels.append(image)
    if not pixels:
        raise DamagedData(f"{path} has no rows with Usage {' or '.join(usage)}. Fetch it again.")
    reader = ArrayReader(np.stack(pixels), path.name)
    return array_split("fer2013", root, [path], reader, np.array(labels), names, cache_dir, (split, variant))


def open_pcam(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Open the HDF5 files `camelyonpatch_level_2_split_SPLIT_{x,y}.h5`, unpacked."""
    need_split("pcam", split, PCAM_SPLITS)
    images, answers = (_pcam_path(root, f"{PCAM_SPLITS[split]}_{part}") for part in "xy")
    x, y = _h5(images, "x"), _h5(answers, "y")
    shape, count = x.shape, x.shape[0] if x.shape else 0
    if len(shape) != 4 or shape[3] != 3 or x.dtype != np.uint8 or shape[1] * shape[2] > MAX_PIXELS:
        raise DamagedData(f"{images} holds x of {x.dtype} {shape}; expected uint8 [n, 96, 96, 3].")
    if not 0 < count <= MOST_SAMPLES:
        raise DamagedData(f"{images} holds {count} images; expected 1 to {MOST_SAMPLES}.")
    if y.dtype.kind not in "iu" or math.prod(y.shape) != count:
        raise DamagedData(f"{images} holds x of shape {shape} for y of {y.dtype} {y.shape}. Fetch it again.")
    labels = y.read()
    reader = H5Reader(images, "x")
    names = shipped("labels", "pcam") or ()
    return array_split(
        "pcam", root, [images, answers], reader, labels.reshape(-1), names, cache_dir, (split,)
    )


def _pcam_path(root: Path, part: str) -> Path:
    file = f"camelyonpatch_level_2_split_{part}.h5"
    for folder in (root / "pcam", root):
        if (folder / f"{file}.gz").is_file() and not (folder / file).is_file():
            raise DataNotFound(f"{folder / file} is still packed: gunzip {file}.gz there.")
    return locate("pcam", root, f"pcam/{file}", file)


class _Numbers(NamedTuple):
    """A dataset of an HDF5 file.

    Attributes:
        path: of the file.
        name: in it.
        shape: of the numbers.
        dtype: of the numbers.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self) -> np.ndarray[Any, Any]:
        """Return its numbers."""
        import h5py

        try:
            with h5py.File(self.path, "r") as file:
                return np.asarray(file[self.name][()])
        except (OSError, RuntimeError) as error:
            raise DamagedData(f"{self.path} cannot be read: {error}. Fetch it again.") from error


def _h5(path: Path, name: str) -> _Numbers:
    """Return what an HDF5 file says of one of its datasets.

    Raises:
        DamagedData: the file is cut off, or has no such dataset of its own: it may name other files.
    """
    import h5py

    require_regular(path, "file", error=DamagedData)
    try:
        with h5py.File(path, "r") as file:
            link = file.get(name, getlink=True)
            found = file[name] if isinstance(link, h5py.HardLink) else None
            if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
                raise KeyError("no dataset of its own")
            return _Numbers(path, name, tuple(found.shape or ()), found.dtype)
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DamagedData(f"{path} is no HDF5 file with {name!r}: {error}. Fetch it again.") from error
