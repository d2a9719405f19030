"""Text from files and data, made fit to be shown: nothing in it moves a cursor, hides or breaks a file."""

from __future__ import annotations

import re
import unicodedata
from html import escape
from typing import TYPE_CHECKING, Any

from rwkvclip_models.errors import shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Control characters but line end and tab; marks of writing direction; what no file of text may hold.
_UNSHOWN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


# Beside spaces, control and format characters: what fonts draw nothing for, whatever Unicode calls it.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\ufffc\U000e0100-\U000e01ef]"
)
_IN_NO_FILE = re.compile("[\x00\ud800-\udfff]")


def code_points(text: str) -> str:
    """Return what a text is made of, as `U+200B U+0041`; of a long one its beginning."""
    most = 8
    return " ".join(f"U+{ord(sign):04X}" for sign in text[:most]) + (" …" if len(text) > most else "")


def shows_nothing(text: str) -> bool:
    """Whether a text has no sign that a reader knows.

    It is empty, or spaces, zero-width characters, marks without a letter, code points that stand for nothing,
    and what decoders put for what they cannot read.
    """
    if text[:1].isascii() and text[:1].isalnum():  # Most captions of millions.
        return False
    left = _BLANK.sub("", text)
    return all(sign == _REPLACEMENT or unicodedata.category(sign) in _UNSEEN for sign in left)


_REPLACEMENT = "\ufffd"
"""What decoders put where bytes were no text."""
# Spaces, control and format characters; marks without a letter to stand on; what is assigned to nothing.
_UNSEEN = frozenset(("Zs", "Zl", "Zp", "Cc", "Cf", "Mn", "Me", "Mc", "Cn", "Co"))


def appearance(text: str) -> str:
    """Return what a reader sees of a text: composed letters, single spaces, nothing that shows nothing."""
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    composed = _BLANK.sub("", unicodedata.normalize("NFC", text))
    seen = (sign for sign in composed if sign.isspace() or unicodedata.category(sign) not in _HIDDEN)
    return " ".join("".join(seen).split())


_HIDDEN = frozenset(("Cc", "Cf"))


def look_alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two names that are not equal and that no reader can tell apart; None where all can."""
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(appearance(name), name)
        if first != name:
            return first, name
    return None


def unwritable(text: str) -> str:
    """Return the characters of a text that no file of text holds: NUL and halves of surrogate pairs."""
    return "".join(dict.fromkeys(_IN_NO_FILE.findall(text)))


def unreadable(text: str) -> str:
    """Return why nobody can read a name or a text, for a message; nothing where they can.

    Every name, caption and template that a file brings is asked for here.
    """
    if not text:
        return "is empty"
    if shows_nothing(text):
        return f"shows nothing but {code_points(text)}"
    wrong = unwritable(text)
    quoted = ascii(shortened(text))
    return f"holds {code_points(wrong)} ({quoted}), which no text may hold" if wrong else ""


def visible(name: str) -> str:
    """Return a name as a message lists it: by its code points where nobody would see it."""
    return code_points(name) if name and shows_nothing(name) else name


def printable(text: str) -> str:
    r"""Return `text` with its control characters written out, as `\x1b`; line ends and tabs stay.

    Half a surrogate pair, as a file name of other bytes than UTF-8 brings it, is written out too.
    """
    return _UNSHOWN.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_json(value: Any) -> Any:
    """Return a JSON value, mappings and lists included, with its texts as `printable` makes them."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(key)): printable_json(inner) for key, inner in value.items()}
    return [printable_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def one_line(text: str) -> str:
    """Return `text` as `printable` does, its line ends and tabs as spaces: for a cell of a table."""
    return printable(re.sub(r"\s*[\r\n\t]\s*", " ", text))


def csv_cell(value: object) -> object:
    """Return a value for a CSV file; a text that a spreadsheet would take for a formula begins with `'`."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a plain HTML table, for notebooks; every cell is escaped."""
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
