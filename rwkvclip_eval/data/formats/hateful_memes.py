"""Hateful Memes: img/*.png with train.jsonl and dev_seen.jsonl (phase 1 called it dev.jsonl).

Each line is {"id": …, "img": "img/01235.png", "label": 0 or 1, "text": …}. The field reports the 500 memes of
`dev_seen` as test; the challenge's own test files came without labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, TypeAdapter

from rwkvclip_eval.data.formats.image_files import find_base, image_split, need, need_split, read_lines
from rwkvclip_eval.data.reading import parse_json

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_eval.data.samples import Split

NAME = "hateful_memes"
FILES = {"train": ("train.jsonl",), "test": ("dev_seen.jsonl", "dev.jsonl")}
CLASS_NAMES = ("meme", "hatespeech meme")
TEMPLATES = ("a {c}.",)
"""Both from CLIP's data/prompts.md; clip-benchmark has none."""


class _Row(BaseModel):
    """A meme; its text is part of the image."""

    img: str
    label: Literal[0, 1]


_FORM = TypeAdapter(_Row)


def read_hateful_memes(root: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Read `train`, or the seen development memes as `test`."""
    need_split(NAME, split, FILES, "the labelled development memes are the test split")
    base = find_base(NAME, root, ["hateful_memes", "data"], "img")
    found = next((base / file for file in FILES[split] if (base / file).is_file()), base / FILES[split][0])
    path = need(NAME, found)
    files: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(read_lines(NAME, path), start=1):
        row = parse_json(line, _FORM, f"{path}, line {number}", "img and label, 0 or 1")
        files.append(row.img)
        labels.append(row.label)
    return image_split(NAME, base, files, labels, CLASS_NAMES, cache_dir, TEMPLATES)
