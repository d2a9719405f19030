"""One opened split in memory: keys, labels or captions, and a reader that fetches images when asked.

Every source returns a `Split`; `open_dataset` adds what the catalogue knows and makes it a `SampleDataset`.
Axes: n samples, K classes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rwkvclip_eval.disk import write_text
from rwkvclip_eval.errors import DamagedData, DataNotFound, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from PIL.Image import Image

    from rwkvclip_eval.data.types import DatasetInfo, DatasetKind

IMAGE_SUFFIXES = ("webp", "png", "jpg", "jpeg")
"""File endings read as images, in the order in which one is chosen where a sample has several."""

NAMES_SHOWN = 5
"""How many offending samples a message names before it only counts."""


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


@dataclass(kw_only=True)
class SampleDataset:
    """The `Dataset` every built-in source opens to."""

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
        try:
            content = self.images.read(index)
        except (OSError, SyntaxError, ValueError) as error:  # Pillow reports a broken PNG as SyntaxError.
            if isinstance(error, OSError) and error.errno is not None:  # Pillow's own carry no number.
                raise DataNotFound(f"Cannot read {where}: {error.strerror}. Check the disk.") from error
            raise DamagedData(f"Cannot read {where}: {error}.") from error
        return decode_image(content, where)


def decode_image(content: bytes | Image, where: str) -> Image:
    """Return `content` decoded and converted to RGB (transparency dropped), as webdataset's decoder does.

    Raises:
        DamagedData: it is no image, cut off, or damaged; the text names `where`.
    """
    from PIL import Image, UnidentifiedImageError

    size = f"{len(content)} bytes" if isinstance(content, bytes) else "opened"
    try:
        image = Image.open(io.BytesIO(content)) if isinstance(content, bytes) else content
        return image.convert("RGB")
    except MemoryError:
        raise
    except UnidentifiedImageError as error:  # Its own text holds a memory address, another in every run.
        raise DamagedData(f"Cannot decode {where}, {size}: not an image. Fetch it again.") from error
    except Exception as error:  # Pillow's format plugins raise errors of many kinds on damaged bytes.
        raise DamagedData(f"Cannot decode {where}, {size}: {error}. Fetch it again.") from error


@dataclass(frozen=True)
class FileReader:
    """Reads one file per image."""

    paths: tuple[Path, ...]

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return self.paths[index].read_bytes()

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
    return remembered_fingerprint(stat_signature(paths, root, about), cache_dir, compute)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
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


def name_some(names: Iterable[str]) -> str:
    """Return the first few of `names` for a message, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - NAMES_SHOWN} more" if len(listed) > NAMES_SHOWN else ""
    return ", ".join(listed[:NAMES_SHOWN]) + more


def read_text(path: Path) -> str:
    """Return the text of a file that describes the data.

    Raises:
        DamagedData: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DamagedData(f"{path} is not UTF-8 text ({error}); save it as UTF-8.") from error


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
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rwkvclip-eval"


def stat_signature(files: Iterable[Path], root: Path, *parts: object) -> str:
    """Return a SHA-256 (hex) of names below `root`, sizes and times (ns) of `files`, and of `parts`.

    It tells whether a file was touched without reading it, and holds no path of this machine.

    Raises:
        DataNotFound: one of them cannot be looked at.
    """
    total = hashlib.sha256(repr(parts).encode())
    for path in files:
        try:
            stat = path.stat()
        except OSError as error:
            raise _unreadable(path, error) from error
        total.update(f"{path.relative_to(root).as_posix()}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return total.hexdigest()


def remembered_fingerprint(signature: str, cache_dir: Path | None, compute: Callable[[], str]) -> str:
    """Return `compute()`, or what it gave before for the same `signature`.

    Args:
        signature: changes whenever the samples could have, see `stat_signature`.
        cache_dir: where it is kept; the user's cache folder by default. If it cannot be written, the
            fingerprint is computed each time.
        compute: reads all samples.
    """
    path = (cache_dir or default_cache_dir()) / "data" / f"{signature}.fingerprint"
    if path.is_file():
        kept = path.read_text(encoding="ascii", errors="replace")
        if re.fullmatch("[0-9a-f]{64}", kept):
            return kept
    value = compute()
    try:
        write_text(path, value)
    except OutputError:
        return value
    return value
