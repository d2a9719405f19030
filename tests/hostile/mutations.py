"""Named damages of a valid file: of its bytes, of what stands at its path, of one value in it.

Each function that ends in `s` returns name → change; a change takes the folder of a case and damages the file
at the path it was made for.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Change = Callable[[Path], object]

PAGE = b"<!DOCTYPE html><html><head><title>404</title></head><body>Not found</body></html>\n"
PICTURE_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + b"\x00\x00\x00\x08" * 2 + b"\x08\x02\x00\x00\x00"
CONTROL = "\x1b[31m\x07\x00\u202ex\x85"
DEEP = 100_000
LONG = 200_000


def _noise(length: int) -> bytes:
    return random.Random(7).randbytes(length)


def _middle(content: bytes, new: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + new + content[place:]


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda c: b"",
    "first quarter": lambda c: c[: len(c) // 4],
    "half": lambda c: c[: len(c) // 2],
    "without its last tenth": lambda c: c[: len(c) * 9 // 10],
    "zeros": lambda c: bytes(len(c)),
    "noise": lambda c: _noise(max(64, min(len(c), 4096))),
    "a web page": lambda c: PAGE,
    "gzip of it": lambda c: gzip.compress(c, mtime=0),
    "a picture": lambda c: PICTURE_HEAD + bytes(64),
    "UTF-16": lambda c: c.decode("latin-1").encode("utf-16"),
    "a byte that is not UTF-8": lambda c: _middle(c, b"\xff"),
    "a surrogate": lambda c: _middle(c, b"\xed\xa0\x80"),
    "NUL bytes inside": lambda c: _middle(c, bytes(16)),
    "a line of megabytes": lambda c: b"x" * (3 << 20),
    "twice": lambda c: c + c,
}
TEXTS: dict[str, Callable[[bytes], bytes]] = {
    "a mark of byte order": lambda c: b"\xef\xbb\xbf" + c,
    "control characters": lambda c: _middle(c, CONTROL.encode()),
    "brackets": lambda c: b"[" * DEEP,
    "braces": lambda c: b'{"a":' * DEEP,
    "a number of 5,000 digits": lambda c: b"9" * 5000,
}


def in_bytes(path: str, more: Mapping[str, Callable[[bytes], bytes]] = {}) -> dict[str, Change]:
    """Return the damages of a file's bytes."""

    def change(edit: Callable[[bytes], bytes]) -> Change:
        def apply(work: Path) -> None:
            (work / path).write_bytes(edit((work / path).read_bytes()))

        return apply

    return {name: change(edit) for name, edit in (BYTES | dict(more)).items()}


def _replaced(path: str, make: Callable[[Path], object]) -> Change:
    def apply(work: Path) -> None:
        (work / path).unlink()
        make(work / path)

    return apply


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "x").write_text("x")


PLACES: dict[str, Callable[[Path], object]] = {
    "absent": lambda p: None,
    "a folder": _folder,
    "a pipe": os.mkfifo,
    "a link to /dev/zero": lambda p: p.symlink_to("/dev/zero"),
    "a link to itself": lambda p: p.symlink_to(p.name),
    "a link to nothing": lambda p: p.symlink_to("gone"),
}


def in_places(path: str) -> dict[str, Change]:
    """Return what else than a file can stand at a path."""
    return {name: _replaced(path, make) for name, make in PLACES.items()}


def file_damages(path: str, *, text: bool = False) -> dict[str, Change]:
    """Return all damages of a file as a whole."""
    return in_bytes(path, TEXTS if text else {}) | in_places(path)


VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "−1": -1,
    "1e300": 1e300,
    "10^30": 10**30,
    "a text": "x",
    "an empty text": "",
    "control characters": CONTROL,
    "a long text": "x" * LONG,
    "a list": [1, "x"],
    "a mapping": {"x": 1},
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "half a surrogate pair": "\ud800",
}


def put(content: Any, keys: Sequence[str | int], value: Any) -> Any:
    """Return a copy of nested content with one value replaced."""
    made = copy.deepcopy(content)
    inner = made
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return made


def lacking(content: Any, keys: Sequence[str | int]) -> Any:
    """Return a copy of nested content without one key."""
    made = copy.deepcopy(content)
    inner = made
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return made


def in_json(
    path: str,
    fields: Sequence[Sequence[str | int]],
    values: Mapping[str, Any] = VALUES,
    *,
    line: int | None = None,
) -> dict[str, Change]:
    """Return the damages of values in a JSON file, or in one line of it: each field takes some of `values`.

    Args:
        path: of the file.
        fields: where each value is: its keys from the outermost.
        values: name → value; a field takes every third, so that few fields see all.
        line: of a file with one JSON object per line.
    """

    def change(edit: Callable[[Any], Any]) -> Change:
        def apply(work: Path) -> None:
            text = (work / path).read_text(encoding="utf-8")
            lines = [text] if line is None else text.splitlines()
            place = line or 0
            lines[place] = json.dumps(edit(json.loads(lines[place])))
            (work / path).write_text("\n".join(lines) + "\n", encoding="utf-8")

        return apply

    made: dict[str, Change] = {}
    for i, keys in enumerate(fields):
        where = ".".join(map(str, keys))
        for j, (name, value) in enumerate(values.items()):
            if (i + j) % 3 == 0:
                made[f"{where} is {name}"] = change(lambda c, k=keys, v=value: put(c, k, v))
        made[f"{where} is missing"] = change(lambda c, k=keys: lacking(c, k))
        if i == 0:
            inner = keys[:-1]
            made["a key nobody knows"] = change(lambda c, k=inner: put(c, (*k, "surprise"), 1))
    return made


def written(path: str, content: bytes | str) -> Change:
    """Return the change that puts content at a path."""

    def apply(work: Path) -> None:
        target = work / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(
            content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        )

    return apply


def edited(path: str, old: str, new: str) -> Change:
    """Return the change of a text in a file; the text must be there."""

    def apply(work: Path) -> None:
        text = (work / path).read_text(encoding="utf-8")
        assert old in text, f"{path} holds no {old!r}"
        (work / path).write_bytes(text.replace(old, new, 1).encode("utf-8", "surrogatepass"))

    return apply
