"""Reads datasets of the Hugging Face `datasets` library: from the hub, its cache, or local files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.data.formats.robustness import imagenet_names
from rwkvclip_eval.data.prompts import shipped
from rwkvclip_eval.data.reading import (
    IMAGE_LIMIT_BYTES,
    MOST_CLASSES,
    MOST_SAMPLES,
    is_no_class_id,
    numbers_in_order,
    read_image,
)
from rwkvclip_eval.data.samples import (
    Split,
    check_unique,
    fingerprint_samples,
    remembered_fingerprint,
    targets,
)
from rwkvclip_eval.errors import DamagedData, DataNotFound, UserError, name_some, shown
from rwkvclip_eval.printable import one_line
from rwkvclip_eval.registry import unknown_name
from rwkvclip_eval.schema import whole_number
from rwkvclip_models.files import expanded, require_regular

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rwkvclip_eval.data.catalogue import HuggingFaceCopy, Variant
    from rwkvclip_eval.data.types import HuggingFaceSource


@dataclass(frozen=True)
class HuggingFaceReader:
    """Fetches the encoded images of one column.

    Attributes:
        rows: the split in the library's form, images not decoded.
        column: the one with the images.
        name: of the dataset, for messages.
        roots: folders that rows without an image's bytes may name files in: the data's own, then the
            library's.
    """

    rows: Any
    column: str
    name: str
    roots: tuple[Path, ...] = ()

    def read(self, index: int) -> bytes:
        """Return the image file's bytes."""
        value = self.rows[int(index)][self.column]
        content = (value or {}).get("bytes")
        if content is not None:
            if len(content) > IMAGE_LIMIT_BYTES:
                raise ValueError(f"{len(content)} bytes; at most {IMAGE_LIMIT_BYTES} are read")
            return bytes(content)
        if not value or not value.get("path"):
            raise ValueError("the row has no image")
        return read_image(self._inside(value["path"]))

    def _inside(self, name: str) -> Path:
        """Return the path of a file that a row names, which must lie in one of the folders.

        Raises:
            ValueError: it lies elsewhere.
        """
        for root in self.roots:
            path = Path(os.path.normpath(root / name))
            if "\0" not in name and path.is_relative_to(root):
                return path
        raise ValueError(f"the row names the file {name[:200]!r}, which is not in the folder of the data")

    def where(self, index: int) -> str:
        """Return dataset and row."""
        return f"{self.name}, row {index}"


def open_hugging_face(
    source: HuggingFaceSource,
    split: str,
    base_dir: Path = Path(),
    offline: bool = False,
    cache_dir: Path | None = None,
) -> Split:
    """Open a dataset; images stay encoded.

    Args:
        source: path, columns and so on; a `path` or `data_files` that exists below `base_dir` is local.
        split: used where `source.split` is None; `val` is that library's `validation` too.
        base_dir: folder of the suite file.
        offline: open no socket; only local files and the library's cache.
        cache_dir: keeps the fingerprint; the user's cache folder by default.

    Raises:
        DataNotFound: it cannot be loaded; the text gives the library's reason.
        DamagedData: samples without a label or captions, or keys that are not unique.
        UserError: a column is not there.
    """
    import datasets

    rows = _load_split(source, split, base_dir, offline)
    label_column = source.label or (None if source.captions else "label")
    wanted_columns = [c for c in (source.image, label_column, source.captions, source.key) if c]
    for column in wanted_columns:
        if column not in rows.column_names:
            raise UserError(f"{source.path}: {unknown_name('column', column, rows.column_names)}")
    if not len(rows):
        raise DamagedData(f"{source.path}: the split {shown(source.split or split)} has no rows.")
    if len(rows) > MOST_SAMPLES:
        raise DamagedData(f"{source.path}: {len(rows)} rows; at most {MOST_SAMPLES} are read.")
    loaded_fingerprint = rows._fingerprint
    rows = rows.select_columns(wanted_columns)
    try:
        rows = rows.cast_column(source.image, datasets.Image(decode=False))
    except (ValueError, TypeError, NotImplementedError) as error:  # Arrow's errors are such.
        raise DamagedData(
            f"{source.path}: the column {source.image!r} holds no images but {rows.features[source.image]}; "
            "name the right one (source: {image: …})."
        ) from error
    texts = rows.remove_columns(source.image)
    keys = [f"{i:07d}" for i in range(len(rows))]
    if source.key:
        keys = [str(k) for k in texts[source.key]]
        check_unique(keys, source.path)
    captions = _captions(texts[source.captions], source.path) if source.captions else None
    labels, class_names = None, None
    if captions is None and label_column:
        labels, class_names = _labels(texts, label_column, source.path)
    name = Path(source.path).name if (base_dir / source.path).exists() else source.path
    reader = HuggingFaceReader(
        rows.select_columns(source.image), source.image, name, _roots(source, base_dir)
    )
    wanted = targets(labels, captions)

    def compute() -> str:
        digests = (hashlib.sha256(reader.read(i)).digest() for i in range(len(keys)))
        return fingerprint_samples(zip(keys, digests, wanted, strict=True))

    about = repr((loaded_fingerprint, wanted_columns, len(rows)))
    signature = hashlib.sha256(about.encode()).hexdigest()
    return Split(
        kind="retrieval" if labels is None else "classification",
        keys=keys,
        images=reader,
        source=f"Hugging Face {name}" + (f" ({source.config})" if source.config else ""),
        fingerprint=remembered_fingerprint(signature, cache_dir, compute),
        labels=labels,
        captions=captions,
        class_names=class_names,
    )


def _roots(source: HuggingFaceSource, base_dir: Path) -> tuple[Path, ...]:
    """Return the folders where the rows' files may lie: of local data theirs, else the library's caches."""
    import datasets.config
    import huggingface_hub.constants

    # Local archives are unpacked there, too.
    unpacked = Path(datasets.config.EXTRACTED_DATASETS_PATH)
    local = base_dir / expanded(source.path)
    files = base_dir / source.data_files if source.data_files else None
    if local.exists():
        return (local.absolute(), unpacked)
    if files is not None and "://" not in str(source.data_files):
        return (_fixed_part(files).absolute(), unpacked)
    fetched = (datasets.config.DOWNLOADED_DATASETS_PATH, huggingface_hub.constants.HF_HUB_CACHE)
    return (unpacked, *map(Path, fetched))


def _fixed_part(glob: Path) -> Path:
    """Return the folder that a pattern of files begins with."""
    return next(path for path in glob.parents if not set("*?[") & set(str(path)))


def names_of_copy(found: Split, copy: HuggingFaceCopy, name: str, variant: Variant) -> tuple[str, ...]:
    """Return the class names of a copy that the catalogue knows, spelt as by the other sources.

    So prompts do not depend on the source. A copy may name its classes by WordNet ids.

    Raises:
        DamagedData: the copy has another number of classes, a class that both name has another number, or
            its WordNet ids are not ImageNet's.
    """
    own = found.class_names or ()
    if own and all(re.fullmatch(r"n\d{8}", wnid) for wnid in own):
        spelt, expected = imagenet_names([*own], name), sorted(own)
    else:
        plain = tuple(text.replace("_", " ") for text in own) if copy.underscores else own
        spelt = shipped("labels", name, variant) or plain
        expected = [_letters(text) for text in spelt]
    if own and len(own) != len(expected):
        raise DamagedData(f"{name}: {copy.path} has {len(own)} classes instead of {len(expected)}.")
    for index, text in enumerate(own):
        # A name that is spelt otherwise stands nowhere; two classes may share one.
        places = {place for place, known in enumerate(expected) if known == _letters(text)}
        if places and index not in places:
            raise DamagedData(
                f"{name}: {copy.path} numbers its classes otherwise than other sources: {text!r} is its "
                f"label {index}. It has changed; take another source."
            )
    return spelt


def _letters(text: str) -> str:
    return re.sub(r"[^0-9a-z]", "", text.lower())


def _load_split(source: HuggingFaceSource, split: str, base_dir: Path, offline: bool) -> Any:
    if source.split is not None or split != "val":
        return _load(source, source.split or split, base_dir, offline)
    try:
        return _load(source, "validation", base_dir, offline)
    except DataNotFound as first:
        try:
            return _load(source, split, base_dir, offline)
        except DataNotFound:
            raise first from None


def _load(source: HuggingFaceSource, split: str, base_dir: Path, offline: bool) -> Any:
    import datasets
    import datasets.exceptions

    parts = [part.partition("[")[0].strip() for part in split.split("+")]
    if len(set(parts)) < len(parts):
        raise UserError(
            f"{source.path}: split {shown(split)} names a split twice: an image could count twice."
        )
    local = base_dir / expanded(source.path)
    path = str(local) if local.exists() else source.path
    data_files = None
    if source.data_files is not None:
        # Files given as one glob would all be called "train"; they are the split asked for.
        is_local = "://" not in source.data_files and not local.exists()
        glob = str(base_dir / source.data_files) if is_local else source.data_files
        data_files = {split.partition("[")[0].partition("+")[0]: glob}
    _check_files(local, data_files)
    try:
        with _quiet(), _offline() if offline else contextlib.nullcontext():
            return datasets.load_dataset(path, source.config, split=split, data_files=data_files)
    except MemoryError:
        raise
    except datasets.exceptions.DatasetGenerationError as error:
        reason = error.__cause__ or error
        raise DamagedData(
            f"Hugging Face dataset {source.path}, split {split}, cannot be read "
            f"({type(reason).__name__}: {str(reason)[:300]})."
        ) from error
    except Exception as error:  # Builders and file formats raise errors of many kinds.
        where = "in the local cache (offline)" if offline else "there"
        raise DataNotFound(
            f"Hugging Face dataset {source.path}, split {split}, is not {where}: {str(error)[:600]}"
        ) from error


def _check_files(local: Path, data_files: dict[str, str] | None) -> None:
    """Refuse local files that the library would wait for, or take at their word.

    Raises:
        DamagedData: one is a pipe, a socket or a device, or leads elsewhere; see `check_card`.
    """
    from rwkvclip_eval.data.hugging_face_card import check_card

    found: Iterator[Path]
    if local.is_dir():
        found = (Path(folder, name) for folder, _, names in os.walk(local) for name in names)
    elif data_files is not None and "://" not in (glob := next(iter(data_files.values()))):
        top = _fixed_part(Path(glob).absolute())
        found = top.glob(str(Path(glob).absolute().relative_to(top)))
    else:
        found = iter((local,))
    for path in found:
        # A folder that a pattern finds, or a link to nothing, is the library's to judge.
        if path.exists() and not path.is_file() and not path.is_dir():
            require_regular(path, "data file", error=DamagedData)
        # Of cards the one at the top is read.
        if path.is_file() and (path.suffix == ".parquet" or path.parent == local):
            check_card(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Have the library log nothing of what it raises, and draw its bars on terminals only."""
    import datasets

    bars = not datasets.are_progress_bars_disabled() and not sys.stderr.isatty()
    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    if bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Have both Hugging Face libraries open no socket; HF_HUB_OFFLINE would be read at import only."""
    import datasets.config
    import huggingface_hub.constants

    modules: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [m.HF_HUB_OFFLINE for m in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _captions(column: Any, name: str) -> list[list[str]]:
    values = list(column)
    captions = [[v] if isinstance(v, str) else v if isinstance(v, list) else [] for v in values]
    bare = [str(i) for i, c in enumerate(captions) if not c or not all(isinstance(t, str) for t in c)]
    if bare:
        raise DamagedData(
            f"{name}: {len(bare)} rows have no caption, a text or a list of texts: {name_some(bare)}."
        )
    return captions


def _labels(texts: Any, column: str, name: str) -> tuple[np.ndarray[Any, Any], tuple[str, ...] | None]:
    """Return [n] int64 and the names a ClassLabel feature holds.

    Texts are class ids where all are digits, as in a manifest; else names, numbered in sorted order.
    """
    values = list(texts[column])
    class_names = getattr(texts.features[column], "names", None)
    if values and all(isinstance(value, str) and value.isdecimal() for value in values):
        values = [whole_number(value) for value in values]
    elif values and all(isinstance(value, str) for value in values):
        if odd := next((value for value in values if is_no_class_id(value)), None):
            raise DamagedData(
                f"{name}: label {shown(odd)} in column {column!r} is a number, but class ids are whole "
                "numbers from 0 in all rows."
            )
        if odd := next((value for value in values if one_line(value) != value), None):
            raise DamagedData(f"{name}: label {shown(odd)} in column {column!r} is no line of text.")
        class_names = sorted(set(values))
        number = {c: i for i, c in enumerate(class_names)}
        values = [number[v] for v in values]
    elif class_names and class_names == sorted(class_names):
        # Of folders the library numbers 10 before 2.
        class_names, before = numbers_in_order(class_names), class_names
        place = [class_names.index(name) for name in before] if class_names != before else range(len(before))
        values = [place[v] if isinstance(v, int) and 0 <= v < len(place) else v for v in values]
    bad = [str(i) for i, v in enumerate(values) if not (isinstance(v, int) and 0 <= v < MOST_CLASSES)]
    if bad:
        raise DamagedData(
            f"{name}: {len(bad)} rows have no class id from 0 in column {column!r} (rows {name_some(bad)}); "
            "hub test splits often hide their labels."
        )
    return np.array(values, dtype=np.int64), None if class_names is None else tuple(class_names)
