"""Readers of datasets published as image files: signs, satellite images, CLEVR, rendered text, countries."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pydantic import BaseModel, TypeAdapter

from rwkvclip_eval.data.formats.image_files import image_split, locate, need, need_split
from rwkvclip_eval.data.prompts import shipped
from rwkvclip_eval.data.reading import below, csv_rows, read_json
from rwkvclip_eval.errors import DamagedData, DataNotFound, name_some
from rwkvclip_eval.schema import whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rwkvclip_eval.data.samples import Split

    Pairs = list[tuple[Path, int]]
    """Image files with their labels."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm")
FOLDERS = {"train": "train", "val": "valid", "test": "test"}
"""Names of OpenAI's splits."""
TFDS_SHARES = {"train": (0, 60), "val": (60, 80), "test": (80, 100)}
"""VTAB's splits, in percent of the order of TensorFlow Datasets."""
EUROSAT_DRAW = {"train": (0, 1000), "test": (1000, 1500)}
RESISC45_DRAW = {"train": (0, 70), "test": (70, 630)}
"""Places of each split in a class's drawn order; together they make the counts of CLIP's paper."""
CLEVR_FOLDERS = {"train": "train", "val": "train", "test": "val"}
CLEVR_DRAW = {"train": 2000, "test": 500}
CLEVR_VTAB = {"train": (0, 90), "val": (90, 100), "test": (0, 100)}
"""VTAB's splits, in percent of the order of TensorFlow Datasets: two of the published training images."""
CLEVR_FEWEST = 3


def open_gtsrb(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Open GTSRB: `Training` (or, variant `full`, `Final_Training/Images`), `Final_Test/Images`."""
    name, names = "gtsrb", shipped("labels", "gtsrb") or ()
    need_split(name, split, ("train", "test"))
    if split == "train":
        inner = "Final_Training/Images" if variant == "full" else "Training"
        base = locate(name, root, f"gtsrb/GTSRB/{inner}", f"GTSRB/{inner}", inner)
        folders = _folders(base)
        labels = [whole_number(folder.name) for folder in folders]
        if any(label is None or label >= len(names) for label in labels):
            raise DamagedData(
                f"{base}: expected folders 00000 to 00042, found {name_some(f.name for f in folders)}."
            )
        pairs = [
            (path, label)
            for folder, label in zip(folders, labels, strict=True)
            for path in _images(folder)
            if label is not None
        ]
    else:
        inner = "Final_Test/Images"
        base = locate(name, root, f"gtsrb/GTSRB/{inner}", f"GTSRB/{inner}", inner)
        file = "GT-final_test.csv"
        answers = locate(name, root, f"gtsrb/{file}", file, f"GTSRB/{file}")
        pairs = []
        columns = ("Filename", "ClassId")
        for line, row in csv_rows(answers, columns, delimiter=";", skipinitialspace=True):
            label = whole_number(row["ClassId"])
            if label is None:
                raise DamagedData(
                    f"{answers}, line {line}: {row['ClassId'][:40]!r} is no ClassId. Fetch it again."
                )
            pairs.append((below(base, row["Filename"], str(answers)), label))
    return _split(name, root, pairs, names, cache_dir)


def open_eurosat(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Open the RGB version, `2750/CLASS/CLASS_NUMBER.jpg`."""
    base = locate("eurosat", root, "eurosat/2750", "2750", "EuroSAT_RGB", "eurosat/EuroSAT_RGB")
    names = shipped("labels", "eurosat") or ()
    return _remote_sensing("eurosat", root, base, EUROSAT_DRAW, names, split, variant, cache_dir)


def open_resisc45(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Open `NWPU-RESISC45/CLASS/CLASS_NUMBER.jpg`."""
    base = locate("resisc45", root, "NWPU-RESISC45", "resisc45/NWPU-RESISC45")
    return _remote_sensing("resisc45", root, base, RESISC45_DRAW, None, split, variant, cache_dir)


def _remote_sensing(
    name: str,
    root: Path,
    base: Path,
    draw: dict[str, tuple[int, int]],
    names: Sequence[str] | None,
    split: str,
    variant: str,
    cache_dir: Path | None,
) -> Split:
    """Open a set without official splits: drawn per class, by VTAB's rule, or whole."""
    known = {"vtab": TFDS_SHARES, "full": ("test",)}.get(variant, draw)
    need_split(f"{name}@{variant}", split, known)
    folders = _folders(base, len(names) if names else None)
    pairs = [(path, label) for label, folder in enumerate(folders) for path in _images(folder)]
    if variant == "vtab":
        start, end = (len(pairs) * share // 100 for share in TFDS_SHARES[split])
        pairs = sorted(sorted(pairs, key=lambda p: _tfds_hash(f"{p[0].parent.name}_{p[0].name}"))[start:end])
    elif variant != "full":
        start, end = draw[split]
        ranked: list[Pairs] = [[] for _ in folders]
        for pair in sorted(pairs, key=_draw_rank(base)):
            ranked[pair[1]].append(pair)
        if short := [folders[i].name for i, found in enumerate(ranked) if len(found) < end]:
            raise DamagedData(
                f"{name}@{variant}: the draw needs {end} images of each class; too few in {name_some(short)}."
            )
        pairs = sorted(pair for found in ranked for pair in found[start:end])
    return _split(name, root, pairs, names or [f.name for f in folders], cache_dir)


def _tfds_hash(key: str) -> bytes:
    """Return what TensorFlow Datasets sorts its split `train` by: MD5 of that name and the sample's key."""
    return hashlib.md5(f"train{key}".encode(), usedforsecurity=False).digest()


def _draw_rank(base: Path) -> Callable[[tuple[Path, int]], bytes]:
    """Return the rank of a draw with seed 0: SHA-256 of `0:` and the path below `base`."""

    def rank(pair: tuple[Path, int]) -> bytes:
        return hashlib.sha256(f"0:{pair[0].relative_to(base).as_posix()}".encode()).digest()

    return rank


class _Scene(BaseModel):
    image_filename: str
    objects: list[object]


class _Scenes(BaseModel):
    """CLEVR's answers."""

    scenes: list[_Scene]


_SCENES = TypeAdapter(_Scenes)


def open_clevr(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Open `CLEVR_v1.0`; the label is the number of objects less three. Its test answers are unpublished."""
    known = CLEVR_VTAB if variant == "vtab" else CLEVR_DRAW
    need_split(f"clevr@{variant}", split, known, "the published test images have no answers")
    folder, names = CLEVR_FOLDERS[split], shipped("labels", "clevr_count_all") or ()
    base = locate(
        "clevr", root, f"CLEVR_v1.0/scenes/CLEVR_{folder}_scenes.json", f"scenes/CLEVR_{folder}_scenes.json"
    )
    images = base.parent.parent / "images" / folder
    scenes = read_json(base, _SCENES, "CLEVR's list of scenes").scenes
    pairs = [(below(images, s.image_filename, str(base)), len(s.objects) - CLEVR_FEWEST) for s in scenes]
    if any(not 0 <= label < len(names) for _, label in pairs):
        raise DamagedData(f"{base}: expected 3 to 10 objects in each scene. Fetch it again.")
    if variant == "draw":
        pairs = sorted(sorted(pairs, key=_draw_rank(images))[: CLEVR_DRAW[split]])
    elif split != "test":
        start, end = (len(pairs) * share // 100 for share in CLEVR_VTAB[split])
        pairs = sorted(sorted(pairs, key=lambda pair: _tfds_hash(pair[0].name))[start:end])
    return _split("clevr", root, pairs, names, cache_dir)


def open_rendered_sst2(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Open `rendered-sst2/{train,valid,test}/{negative,positive}`."""
    base = _openai(root, "rendered-sst2", "rendered_sst2", split)
    names = ("negative", "positive")
    pairs = [(path, i) for i, n in enumerate(names) for path in _images(need("rendered_sst2", base / n))]
    return _split("rendered_sst2", root, pairs, names, cache_dir)


def open_country211(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Open `country211/{train,valid,test}/CC`; labels follow the sorted country codes."""
    base = _openai(root, "country211", "country211", split)
    names = shipped("labels", "country211") or ()
    folders = _folders(base, len(names))
    pairs = [(path, label) for label, folder in enumerate(folders) for path in _images(folder)]
    return _split("country211", root, pairs, names, cache_dir)


def _openai(root: Path, folder: str, name: str, split: str) -> Path:
    need_split(name, split, FOLDERS)
    return locate(name, root, f"{folder}/{FOLDERS[split]}", FOLDERS[split])


def _folders(base: Path, expected: int | None = None) -> list[Path]:
    """Return the class folders, sorted; a missing one would move the labels of those behind it."""
    found = sorted(path for path in base.iterdir() if path.is_dir())
    if not found:
        raise DataNotFound(f"{base} holds no class folders. Unpack the published files there.")
    if expected is not None and len(found) != expected:
        raise DamagedData(f"{base} holds {len(found)} class folders, expected {expected}. Unpack it again.")
    return found


def _images(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DataNotFound(f"{folder} holds no images. Unpack the published files there.")
    return found


def _split(name: str, root: Path, pairs: Pairs, class_names: Sequence[str], cache_dir: Path | None) -> Split:
    files = [path.relative_to(root).as_posix() for path, _ in pairs]
    return image_split(name, root, files, [label for _, label in pairs], class_names, cache_dir)
