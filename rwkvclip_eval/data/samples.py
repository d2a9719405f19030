"""One opened split in memory: keys, labels or captions, and a reader that fetches images when asked.

Every source returns a `Split`; `open_dataset` adds what the catalogue knows and makes it a `SampleDataset`.
Axes: n samples, K classes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rwkvclip_eval.data.reading import (
    MOST_CLASSES,
    MOST_SAMPLES,
    check_captions,
    check_pixels,
    is_text,
    open_image,
    read_image,
)
from rwkvclip_eval.errors import DamagedData, DataNotFound, OutputError, UserError, name_some, shortened
from rwkvclip_models.disk import user_cache, write_text
from rwkvclip_models.files import read_bytes, require_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np
    from PIL.Image import Image

    from rwkvclip_eval.data.types import DatasetInfo, DatasetKind

IMAGE_SUFFIXES = ("webp", "png", "jpg", "jpeg")
"""File endings read as images, in the order in which one is chosen where a sample has several."""

WHERE_LENGTH = 400
"""Characters of a message that say which sample is meant; a member of an archive may have any name."""


class Undecodable(ValueError):
    """A source that decodes images itself cannot decode one; the others may be fine."""


class ImageReader(Protocol):
    """Fetches the encoded or decoded images of one split. Picklable; holds no open file."""

    def read(self, index: int) -> bytes | Image:
        """Return the file's bytes, or the image where the source decodes it itself."""
        ...

    def where(self, index: int) -> str:
        """Return the file (and member) an error message should name."""
        ...


@dataclass(frozen=True, kw_only=True)
class Split:
    """What a source found, before the catalogue has a say.

    Attributes:
        kind: what the labels or captions make it.
        keys: n unique keys.
        images: reader of the n images.
        source: where it came from, without folders of this machine.
        fingerprint: SHA-256 (hex) of the samples, see `fingerprint_samples`.
        labels: [n] int64, [n, K] for multilabel, or None.
        captions: n lists of captions, or None.
        class_names: the source's own, if it has any.
        templates: the source's own, if it has any.
    """

    kind: DatasetKind
    keys: Sequence[str]
    images: ImageReader
    source: str
    fingerprint: str
    labels: np.ndarray[Any, Any] | None = None
    captions: Sequence[Sequence[str]] | None = None
    class_names: tuple[str, ...] | None = None
    templates: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what no task could use, whichever source found it.

        It joins and encodes all keys and captions and takes the extremes of the labels: some ms for 50,000
        samples.

        Raises:
            DamagedData: names that are no text, labels or captions that do not fit the samples or the limits.
        """
        count = len(self.keys)
        if not 0 < count <= MOST_SAMPLES:
            raise DamagedData(f"{self.source} holds {count} samples; expected 1 to {MOST_SAMPLES}.")
        self._check_texts("key", self.keys)
        self._check_texts("class name", self.class_names or ())
        if self.captions is not None:
            if len(self.captions) != count or not all(self.captions):
                raise DamagedData(f"{self.source}: expected one caption or more for each of {count} images.")
            self._check_texts("caption", [text for captions in self.captions for text in captions])
            check_captions(zip(self.keys, self.captions, strict=True), self.source)
        if self.labels is not None:
            self._check_labels(self.labels, count)

    def _check_texts(self, what: str, texts: Sequence[str]) -> None:
        try:
            if "\0" in (joined := "".join(texts)):
                holds = next(text for text in texts if "\0" in text)
                raise DamagedData(f"{self.source}: the {what} {shortened(ascii(holds))} holds U+0000.")
            joined.encode()
        except (TypeError, UnicodeEncodeError) as error:
            bad = next(t for t in texts if not (isinstance(t, str) and is_text(t)))
            raise DamagedData(
                f"{self.source}: {bad!r} is no {what} that can be written as text (UTF-8); rename it."
            ) from error

    def _check_labels(self, labels: np.ndarray[Any, Any], count: int) -> None:
        least = 0 if labels.ndim == 1 else -1
        most = MOST_CLASSES - 1 if labels.ndim == 1 else 1
        if (
            labels.dtype.kind not in "iu"
            or labels.ndim not in (1, 2)
            or len(labels) != count
            or not labels.size
        ):
            raise DamagedData(
                f"{self.source}: expected {count} whole numbers as labels, or as many rows of them; found "
                f"{labels.dtype} {list(labels.shape)}."
            )
        if labels.ndim == 2 and labels.shape[1] > MOST_CLASSES:
            raise DamagedData(f"{self.source}: {labels.shape[1]} classes; at most {MOST_CLASSES} are scored.")
        if labels.min() < least or labels.max() > most:
            raise DamagedData(
                f"{self.source}: labels from {labels.min()} to {labels.max()}; expected {least} to {most}."
            )


@dataclass(kw_only=True)
class SampleDataset:
    """The `Dataset` every built-in source opens to.

    Attributes:
        info: see `Dataset.info`.
        keys: see `Dataset.keys`.
        labels: see `Dataset.labels`.
        captions: see `Dataset.captions`.
        images: reader of the n images.
    """

    info: DatasetInfo
    keys: Sequence[str]
    labels: np.ndarray[Any, Any] | None
    captions: Sequence[Sequence[str]] | None
    images: ImageReader

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, index: int) -> Image:
        """Return the decoded image in RGB.

        Raises:
            DamagedData: it cannot be decoded; the text names the sample and the file.
            DataNotFound: the file or its disk cannot be read now, which says nothing about the image.
        """
        where = f"sample {self.keys[index]!r} of {self.info.name} ({self.images.where(index)})"
        where = shortened(where, WHERE_LENGTH)
        try:
            content = self.images.read(index)
        except MemoryError:
            raise
        except Exception as error:  # Libraries that decode raise errors of many kinds on damaged bytes.
            if isinstance(error, OSError) and error.errno is not None:  # Pillow's own carry no number.
                raise DataNotFound(f"Cannot read {where}: {error.strerror}. Check the disk.") from error
            raise DamagedData(f"Cannot read {where}: {str(error).rstrip('.')}.") from error
        return decode_image(content, where)


def decode_image(content: bytes | Image, where: str) -> Image:
    """Return `content` decoded and converted to RGB (transparency dropped), as webdataset's decoder does.

    Raises:
        DamagedData: it is no image, cut off, damaged, or has too many pixels; the text names `where`.
    """
    from PIL import UnidentifiedImageError

    size = f"{len(content)} bytes" if isinstance(content, bytes) else "opened"
    try:
        if isinstance(content, bytes):
            return open_image(content).convert("RGB")
        check_pixels(content)
        return content.convert("RGB")
    except MemoryError:
        raise
    except UnidentifiedImageError as error:  # Its own text holds a memory address, another in every run.
        raise DamagedData(f"Cannot decode {where}, {size}: not an image. Fetch it again.") from error
    except Exception as error:  # Pillow's format plugins raise errors of many kinds on damaged bytes.
        raise DamagedData(f"Cannot decode {where}, {size}: {error}. Fetch it again.") from error


@dataclass(frozen=True)
class FileReader:
    """Reads one file per image.

    Attributes:
        paths: the n image files.
        root: folder that they lie below, where there is one.
    """

    paths: tuple[Path, ...]
    root: Path | None = None

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_image(self.paths[index])

    def where(self, index: int) -> str:
        """Return the path."""
        return str(self.paths[index])


def fingerprint_files(
    paths: Sequence[Path], keys: Sequence[str], wanted: Sequence[Any], root: Path, cache_dir: Path | None
) -> str:
    """Return the fingerprint of images that lie one to a file, read only if a file was touched since.

    Args:
        paths: n image files below `root`.
        keys: their keys.
        wanted: their labels or captions, see `targets`.
        root: the dataset's folder.
        cache_dir: see `remembered_fingerprint`.

    Raises:
        DataNotFound: a file cannot be read.
    """

    def compute() -> str:
        digests = (hashlib.sha256(_read(path)).digest() for path in paths)
        return fingerprint_samples(zip(keys, digests, wanted, strict=True))

    # The folder itself, too: sets of bitmaps unpacked from archives can agree in names, sizes and times.
    about = hashlib.sha256(json.dumps([str(root.resolve()), list(keys), list(wanted)]).encode()).hexdigest()
    return remembered_fingerprint(stat_signature(paths, root, about, moved=True), cache_dir, compute)


def _read(path: Path) -> bytes:
    try:
        return read_image(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataNotFound:
    return DataNotFound(
        f"Cannot read {path}: {error.strerror}. Check the file, its permissions and the disk."
    )


def fingerprint_samples(samples: Iterable[tuple[str, bytes, object]]) -> str:
    """Return the SHA-256 (hex) of samples in order.

    Args:
        samples: key, SHA-256 digest of the image's bytes, and label (int, or list of them) or captions.
    """
    total = hashlib.sha256()
    for key, image_digest, target in samples:
        total.update(json.dumps([key, image_digest.hex(), target], ensure_ascii=True).encode() + b"\n")
    return total.hexdigest()


def targets(labels: np.ndarray[Any, Any] | None, captions: Sequence[Sequence[str]] | None) -> list[Any]:
    """Return labels or captions as plain Python values, n of them, for `fingerprint_samples`."""
    if labels is not None:
        listed: list[Any] = labels.tolist()
        return listed
    return [list(c) for c in captions or ()]


def check_unique(keys: Sequence[str], where: str) -> None:
    """Refuse keys that occur twice.

    Raises:
        DamagedData: some do; the text names and counts them.
    """
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise DamagedData(
            f"{where}: {len(twice)} sample keys occur more than once ({name_some(twice)}). "
            "Every sample needs its own key, over all shards; look for a shard copied twice."
        )


def default_cache_dir() -> Path:
    """Return `$RWKVCLIP_EVAL_CACHE`, else this package's folder in the user's cache."""
    if own := os.environ.get("RWKVCLIP_EVAL_CACHE"):
        return Path(own)
    return user_cache()


def stat_signature(files: Iterable[Path], root: Path, *parts: object, moved: bool = False) -> str:
    """Return a SHA-256 (hex) of names below `root`, sizes and times (ns) of `files`, and of `parts`.

    It tells whether a file was touched without reading it, and holds no path of this machine.

    Args:
        files: to look at.
        root: folder that they lie in.
        parts: what else there is to tell.
        moved: the time of the last renaming counts, too: files of one size and time may change places.
            Copying changes it, so that what is kept beside the files and copied with them does not know it.

    Raises:
        DataNotFound: one of them cannot be looked at.
        DamagedData: one is no file but a folder, pipe or device.
    """
    total = hashlib.sha256(repr(parts).encode(errors="backslashreplace"))
    for path in files:
        try:
            state = path.stat()
        except OSError as error:
            raise _unreadable(path, error) from error
        if not stat.S_ISREG(state.st_mode):
            require_regular(path, "data file", error=DamagedData)
        name = path.relative_to(root).as_posix()
        times = (state.st_mtime_ns, state.st_ctime_ns) if moved else (state.st_mtime_ns,)
        line = "|".join(map(str, (name, state.st_size, *times)))
        total.update(f"{line}\n".encode(errors="backslashreplace"))
    return total.hexdigest()


_anew: ContextVar[list[str] | None] = ContextVar("anew", default=None)


@contextlib.contextmanager
def read_anew() -> Iterator[list[str]]:
    """Read data in the block as if nothing were remembered of them, and mend what was remembered wrongly.

    Yields:
        A list that gets a sentence for each fingerprint or index that the data contradict.
    """
    found: list[str] = []
    token = _anew.set(found)
    try:
        yield found
    finally:
        _anew.reset(token)


def reading_anew() -> list[str] | None:
    """Return the list of the `read_anew` around, None where there is none."""
    return _anew.get()


def remembered_fingerprint(signature: str, cache_dir: Path | None, compute: Callable[[], str]) -> str:
    """Return `compute()`, or what it gave before for the same `signature`.

    Args:
        signature: changes whenever the samples could have, see `stat_signature`.
        cache_dir: where it is kept; the user's cache folder by default. If it cannot be written, the
            fingerprint is computed each time.
        compute: reads all samples.
    """
    path = (cache_dir or default_cache_dir()) / "data" / f"{signature}.fingerprint"
    kept, anew = _kept_fingerprint(path, signature), reading_anew()
    if kept is not None and anew is None:
        return kept
    value = compute()
    if anew is not None and kept not in (None, value):
        anew.append(f"{path} remembered the fingerprint {kept} of these files; it is mended.")
    with contextlib.suppress(OutputError):
        write_text(path, f"{value} {_check_of(signature, value)}\n")
    return value


def _kept_fingerprint(path: Path, signature: str) -> str | None:
    try:
        content = read_bytes(path, limit=200, what="fingerprint").decode("ascii", "replace").split()
    except UserError:
        return None
    # Those of before had no check behind them.
    fits = content and re.fullmatch("[0-9a-f]{64}", content[0]) and len(content) <= 2
    return content[0] if fits and content[1:] in ([], [_check_of(signature, content[0])]) else None


def _check_of(signature: str, value: str) -> str:
    """Return what tells that a fingerprint is the one that was written, of these files."""
    return hashlib.sha256(f"{signature} {value}".encode()).hexdigest()[:16]
