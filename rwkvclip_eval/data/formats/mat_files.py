"""Stanford Cars and Oxford Flowers-102: labels in MATLAB files."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.data.formats.image_files import find_base, image_split, need, need_split
from rwkvclip_eval.data.prompts import shipped
from rwkvclip_eval.errors import DamagedData
from rwkvclip_models.files import read_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_eval.data.samples import Split


MAT_LIMIT_BYTES = 64 << 20
"""Of a file, packed and unpacked; published ones are lists of some thousand entries."""
MAT_HEADER_BYTES = 128
MAT_PACKED = 15
"""Kind of an element that is compressed."""


def load_mat(name: str, path: Path, variable: str) -> Any:
    """Return one variable of a MATLAB file, [n] or more dimensions, structs as records with named fields.

    Raises:
        DataNotFound: there is no such file.
        DamagedData: it cannot be read or has no such variable.
    """
    import scipy.io

    need(name, path)
    content = read_bytes(path, limit=MAT_LIMIT_BYTES, what="file", error=DamagedData)
    try:
        _check_unpacked(content)
        found = scipy.io.loadmat(io.BytesIO(content), squeeze_me=True, variable_names=[variable])
    except Exception as error:
        # Damaged files end in errors of scipy, zlib and numpy alike, ValueError and TypeError among them.
        raise DamagedData(f"{name}: {path} cannot be read: {error}. Fetch it again.") from error
    if variable not in found:
        raise DamagedData(
            f"{name}: {path} has no variable {variable!r}; it is cut off, another file or another version."
        )
    return np.atleast_1d(found[variable])


def _check_unpacked(content: bytes) -> None:
    """Refuse a file whose packed elements would fill memory.

    Raises:
        ValueError: they unpack to more than `MAT_LIMIT_BYTES`.
    """
    place, total, order = MAT_HEADER_BYTES, 0, "<" if content[126:128] == b"IM" else ">"
    while place + 8 <= len(content):
        kind, size = struct.unpack(f"{order}II", content[place : place + 8])
        if kind == MAT_PACKED:
            packed = content[place + 8 : place + 8 + size]
            total += len(zlib.decompressobj().decompress(packed, MAT_LIMIT_BYTES))
            if total >= MAT_LIMIT_BYTES:
                raise ValueError(f"it unpacks to more than {MAT_LIMIT_BYTES} bytes")
        place += 8 + size


def whole_numbers(name: str, path: Path, values: Any) -> np.ndarray[Any, Any]:
    """Return a variable that holds whole numbers as [n] int64.

    Raises:
        DamagedData: it holds something else.
    """
    array = np.asarray(values)
    plain = array.ndim == 1 and array.dtype.kind in "iuf" and bool(np.isfinite(array).all())
    if not plain or (array != np.trunc(array)).any() or (np.abs(array) >= 2**62).any():
        raise DamagedData(f"{name}: {path} holds {array.dtype} {list(array.shape)}; expected whole numbers.")
    return array.astype(np.int64)


def read_cars(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read `stanford_cars/`: cars_train/, cars_test/, the devkit and cars_test_annos_withlabels.mat."""
    name = "cars"
    need_split(name, split, ("train", "test"))
    base = find_base(name, root, ["stanford_cars"], f"cars_{split}")
    file = "cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
    annotations = load_mat(name, _either(base, file), "annotations")
    fields = annotations.dtype.names or ()
    if not {"class", "fname"} <= set(fields):
        raise DamagedData(
            f"{name}: {file} has the fields {', '.join(fields)}; expected class and fname. The devkit's "
            "cars_test_annos.mat comes without classes; the labelled one is a file of its own."
        )
    class_names = [str(c) for c in load_mat(name, _either(base, "cars_meta.mat"), "class_names")]
    # Copies on Kaggle hold the folder in a folder of the same name.
    nested = f"cars_{split}/cars_{split}"
    folder = nested if (base / nested).is_dir() else f"cars_{split}"
    files = [f"{folder}/{row['fname']}" for row in annotations]
    labels = [int(row["class"]) - 1 for row in annotations]
    return image_split(name, base, files, labels, class_names, cache_dir)


def _either(base: Path, file: str) -> Path:
    """Return the file in `devkit/` or in the folder itself."""
    return base / file if (base / file).is_file() else base / "devkit" / file


FLOWERS_SPLITS = {"train": "trnid", "val": "valid", "test": "tstid"}
"""Split → variable of setid.mat."""


def read_flowers(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read `flowers-102/`: `jpg/image_00001.jpg`…, imagelabels.mat and setid.mat; both count from 1."""
    name = "flowers"
    need_split(name, split, FLOWERS_SPLITS)
    base = find_base(name, root, ["flowers-102"], "jpg")
    answers, chosen = base / "imagelabels.mat", base / "setid.mat"
    labels = whole_numbers(name, answers, load_mat(name, answers, "labels"))
    numbers = whole_numbers(name, chosen, load_mat(name, chosen, FLOWERS_SPLITS[split]))
    if not len(numbers):
        raise DamagedData(f"{name}: setid.mat names no images.")
    if numbers.min() < 1 or numbers.max() > len(labels):
        raise DamagedData(
            f"{name}: setid.mat goes up to image {numbers.max()}, there are {len(labels)} labels."
        )
    files = [f"jpg/image_{number:05d}.jpg" for number in numbers.tolist()]
    return image_split(name, base, files, labels[numbers - 1] - 1, shipped("labels", name), cache_dir)
