"""Reads the files of a dataset, of which nothing is known: what kind they are, how large, of what form.

Every reader of data takes texts, tables, JSON, image files and names from here, so that what does not fit is
one message that names the file. Limits are far above every public set and far below what memory holds.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import math
import posixpath
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from rwkvclip_eval.errors import DamagedData, DataNotFound, UserError, name_some
from rwkvclip_eval.printable import unreadable, visible
from rwkvclip_eval.schema import plain_number, whole_number
from rwkvclip_models.files import check_keys, read_bytes, require_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from types import ModuleType

    from PIL.Image import Image

T = TypeVar("T")

MAX_PIXELS = 178_956_970
"""Of an image that is decoded: where Pillow takes one for an attack. In RGB it takes 512 MiB."""
IMAGE_LIMIT_BYTES = 3 * MAX_PIXELS + (1 << 20)
"""Of an image file: such an image without compression."""
TEXT_LIMIT_BYTES = 512 << 20
"""Of a list, table or JSON file: FER2013 is a table of 300 MB."""
MOST_SAMPLES = 20_000_000
"""In a split; ImageNet-21k has 14 million."""
MOST_CLASSES = 1_000_000
"""In a set: tasks make arrays as long as there are classes."""

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000")
"""What is decoded. Pillow knows more, among them PostScript, for which it starts another program."""


def read_text(path: Path) -> str:
    """Return the text of a file that describes the data, its line ends as in Python.

    Raises:
        DamagedData: it is no regular file, larger than `TEXT_LIMIT_BYTES`, or not UTF-8.
    """
    content = read_bytes(path, limit=TEXT_LIMIT_BYTES, what="file", error=DamagedData)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DamagedData(f"{path} is not UTF-8 text ({_where(error)}); save it as UTF-8.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def text_lines(text: str) -> list[str]:
    """Return the lines of a text as an editor shows them: not cut where Unicode knows separators too."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_json(path: Path, form: TypeAdapter[T], wanted: str) -> T:
    """Return the content of a JSON file.

    Args:
        path: the file.
        form: what it must hold.
        wanted: the same in words.

    Raises:
        DamagedData: it is no regular file, too large, no JSON, nested too deeply or of another form.
    """
    content = read_bytes(path, limit=TEXT_LIMIT_BYTES, what="file", error=DamagedData)
    return parse_json(content.removeprefix(b"\xef\xbb\xbf"), form, str(path), wanted)


def parse_json(content: bytes | str, form: TypeAdapter[T], where: str, wanted: str) -> T:
    """Return what a JSON text says.

    Raises:
        DamagedData: it is no JSON, of another form, or holds a key twice in one mapping.
    """
    try:
        found = form.validate_json(content, strict=True)
        check_keys(content, where, error=DamagedData)
        return found
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise DamagedData(f"{where} cannot be read: {first['msg'][:300]}.") from error
        place = "".join(f"[{part[:40]!r}]" if isinstance(part, str) else f"[{part}]" for part in first["loc"])
        given = first["input"]
        came = f" (found {given!r:.60})" if isinstance(given, str | int | float | None) else ""
        raise DamagedData(
            f"{where}: expected {wanted}; {place and f'{place}: '}{first['msg'][:300]}{came}."
        ) from error


def csv_rows(
    path: Path,
    needed: Sequence[str] = (),
    *,
    check: Callable[[Path, Sequence[str]], object] | None = None,
    **dialect: Any,
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the texts by column of each row of a CSV file with a header.

    Args:
        path: the file.
        needed: columns it must have.
        check: refuses headers for reasons of its own.
        dialect: as for `csv.reader`.

    Raises:
        DamagedData: it is no regular file, too large or not UTF-8; columns are missing or occur twice; a row
            has more or fewer fields than the header, or a field is longer than 128 KiB.
    """
    size = require_regular(path, "file", error=DamagedData).st_size
    if size > TEXT_LIMIT_BYTES:
        raise DamagedData(f"The file {path} has {size} bytes; at most {TEXT_LIMIT_BYTES} are read.")
    with path.open(encoding="utf-8-sig", newline="") as stream:
        # Without this a quote that is never closed swallows the rows behind it.
        reader = csv.reader(stream, strict=True, **dialect)
        try:
            columns = [column.strip() for column in next(reader, [])]
            _check_columns(path, columns, needed)
            if check is not None:
                check(path, columns)
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(columns):
                    what = "more" if len(fields) > len(columns) else "fewer"
                    raise DamagedData(
                        f"{path}, line {reader.line_num}: {what} fields than the header; put a field with "
                        "commas in quotes."
                    )
                yield reader.line_num, dict(zip(columns, fields, strict=True))
        except csv.Error as error:
            raise DamagedData(
                f"{path}, line {reader.line_num}: {error}; a quote that opens a field must close it, and is "
                "doubled inside one."
            ) from error
        except UnicodeDecodeError as error:
            raise DamagedData(f"{path} is not UTF-8 text ({_where(error)}); save it as UTF-8.") from error


def _check_columns(path: Path, columns: Sequence[str], needed: Sequence[str]) -> None:
    """Refuse a header.

    Raises:
        DamagedData: a needed column is missing, or one occurs twice.
    """
    if not set(needed) <= set(columns):
        raise DamagedData(
            f"{path}: expected columns {' and '.join(needed)}, found {', '.join(columns)[:300] or 'none'}."
        )
    if twice := [column for column, times in Counter(columns).items() if times > 1]:
        raise DamagedData(f"{path}: the column {twice[0][:40]!r} occurs twice.")


def below(root: Path, name: str, where: str) -> Path:
    """Return the path of a file that data name, which must lie below `root`.

    Links are followed, wherever they lead: whoever made them could have copied the file.

    Args:
        root: folder.
        name: path below it, as the data say.
        where: what says so, for messages.

    Raises:
        DamagedData: it is empty, absolute, leads upwards or is no text.
    """
    # Plain comparisons of text: this runs for each of a million images.
    if (
        not name
        or name[0] == "/"
        or "\0" in name
        or (".." in name and ".." in name.replace("\\", "/").split("/"))
        or not is_text(name)
    ):
        raise DamagedData(
            f"{where}: {name[:200]!r} is no path below {root}; expected a relative one without `..`."
        )
    return root / name


def check_spellings(names: Iterable[str], where: str) -> None:
    """Refuse data that name one file in two ways, by which it would count twice.

    Args:
        names: paths below one root, as the data say them; equal ones are another check's.
        where: what says so, for messages.

    Raises:
        DamagedData: two names are of one file.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(posixpath.normpath(name), name)
        if other != name:
            raise DamagedData(f"{where}: {other[:200]!r} and {name[:200]!r} are one file; spell it alike.")


def check_captions(captions: Iterable[tuple[str, Sequence[str]]], where: str) -> None:
    """Refuse images of which a caption cannot be read, or that have none.

    Args:
        captions: key and captions of each image.
        where: what says so, for messages.

    Raises:
        DamagedData: there are some; keys and reasons are named.
    """
    reasons = ((key, next(filter(None, map(unreadable, said or [""])), "")) for key, said in captions)
    if wrong := [f"{visible(key)} (it {why})" for key, why in reasons if why]:
        raise DamagedData(
            f"{where}: {len(wrong)} images have a caption that cannot be read: {name_some(wrong)}."
        )


def is_no_class_id(label: str) -> bool:
    """Whether a label is a number that no class has: −1 or 1.0. Digits alone may be a name among others."""
    try:
        return not label.isdecimal() and math.isfinite(plain_number(label))
    except ValueError:
        return False


def numbers_in_order(names: Iterable[str]) -> list[str]:
    """Return names of classes sorted: by value where all are whole numbers, so that 10 comes after 9."""
    names = sorted(names)
    numbers = {name: whole_number(name) for name in names}
    return names if None in numbers.values() else sorted(names, key=lambda name: numbers[name] or 0)


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8, which one that the file system holds as other bytes cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain_name(name: str, what: str) -> str:
    """Return a name that becomes a folder's.

    Raises:
        UserError: it is empty, long, or has characters that lead elsewhere or cannot be shown.
    """
    if not name or len(name) > 200 or name in (".", "..") or set("/\\") & set(name) or not name.isprintable():
        raise UserError(f"{name[:200]!r} is no {what}: expected a plain name, without slashes.")
    return name


def read_image(path: Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        DamagedData: it is no regular file, or larger than `IMAGE_LIMIT_BYTES`.
        OSError: it, or its disk, cannot be read now.
    """
    try:
        return read_bytes(path, limit=IMAGE_LIMIT_BYTES, what="image", error=DamagedData)
    except DamagedData as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise


def open_image(content: bytes) -> Image:
    """Return an image of which only the header is decoded yet.

    Raises:
        ValueError: it has more than `MAX_PIXELS`.
        OSError: it is none, or of no format that is decoded.
    """
    pillow = bounded_pillow()
    try:
        image: Image = pillow.open(io.BytesIO(content), formats=IMAGE_FORMATS)
    except pillow.DecompressionBombError as error:
        raise ValueError(f"at most {MAX_PIXELS} pixels are decoded") from error
    check_pixels(image)
    return image


def check_pixels(image: Image) -> None:
    """Refuse an image that would take all memory.

    Raises:
        ValueError: it has more than `MAX_PIXELS`.
    """
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} × {image.height} pixels; at most {MAX_PIXELS} are decoded")


@functools.cache
def bounded_pillow() -> ModuleType:
    """Return Pillow's module of images, which from now on starts no program, whoever opens an image."""
    from PIL import EpsImagePlugin, Image

    EpsImagePlugin.gs_binary = False
    # The same limit without a word before it: half of it prints a Python warning.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return Image


@contextlib.contextmanager
def damage_named(what: str) -> Iterator[None]:
    """Say of whatever a reader of data stumbles over that `what` is damaged.

    The last net: readers name the file and the field where they can.

    Raises:
        DataNotFound: a file or its disk cannot be read now.
        DamagedData: anything else that is wrong with the data.
    """
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise DamagedData(f"{what} needs more memory than there is.") from error
    except OSError as error:
        if error.errno is not None:
            raise DataNotFound(
                f"{what} cannot be read: {error.filename or ''} {error.strerror}. Check the disk."
            ) from error
        raise DamagedData(f"{what} cannot be read: {error}.") from error
    except _STUMBLES as error:
        raise DamagedData(
            f"{what} is not of the form that is read here ({type(error).__name__}: {str(error)[:300]})."
        ) from error


_STUMBLES = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, EOFError)


def _where(error: UnicodeDecodeError) -> str:
    return f"byte {error.start} is 0x{error.object[error.start]:02x}"
