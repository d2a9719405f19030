"""What is in a set of pairs: counts, lengths of texts, sizes of images, broken images, copies."""

from __future__ import annotations

import hashlib
import itertools
import re
from array import array
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.errors import NAMES_SHOWN, DamagedData, OutputError
from rwkvclip_train.data.indexed import IndexedPairs
from rwkvclip_train.data.source import NO_TEXT, image_damage, unreadable_image_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rwkvclip_train.data.synthetic import SyntheticPairs

LIST_BEGINS_BYTES = 1 << 20
_LISTED = re.compile(rb"[^\t\0]*:[^\t\0]*\t[^\0]*")
"""A line of a list of broken images: SHARD:KEY, and why."""
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass
class Stats:
    """What was found. Lists of five are least, 5 %, median, 95 % and most.

    Attributes:
        pairs: in the index.
        looked_at: pairs of which image and texts were read.
        shards: number of files.
        fingerprint: of the source.
        kinds: kind of text → pairs that have it, number of texts, and of those characters (of strings) or
            tokens (of ids).
        width_px: of the images.
        height_px: of the images.
        image_bytes: of their files.
        formats: of their files → how many.
        broken: key and reason of each image that cannot be decoded.
        same_image: images that are a copy of an earlier one, byte for byte.
        same_text: texts that are a copy of an earlier one.
        copies: the first images that occur more than once, each with the keys that have it.
        not_drawn: why texts are not drawn → how many, as the index counted.
        left_out: why samples are no pairs → how many, as the index counted.
        examples: reason → the first such samples.
        problems: what is wrong with the index itself.
    """

    pairs: int
    looked_at: int = 0
    shards: int = 0
    fingerprint: str = ""
    kinds: dict[str, dict[str, Any]] = field(default_factory=dict)
    width_px: list[float] = field(default_factory=list)
    height_px: list[float] = field(default_factory=list)
    image_bytes: list[float] = field(default_factory=list)
    formats: dict[str, int] = field(default_factory=dict)
    broken: list[tuple[str, str]] = field(default_factory=list)
    same_image: int = 0
    same_text: int = 0
    copies: list[list[str]] = field(default_factory=list)
    not_drawn: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Looked:
    """What one pair is like.

    Attributes:
        size_px: (width, height), or none where the image is broken.
        num_bytes: of the image file.
        image_format: of the file.
        why: it is broken.
        image_hash: 64 bits of the digest of its bytes.
        lengths: (kind, characters or tokens, 64 bits of the digest) of each text.
    """

    size_px: tuple[int, int] | None
    num_bytes: int
    image_format: str
    why: str
    image_hash: int
    lengths: list[tuple[str, int, int]]


def collect(
    source: IndexedPairs | SyntheticPairs,
    *,
    limit: int | None = None,
    num_workers: int = 1,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Stats:
    """Return what is in a source; every image that is looked at is decoded whole.

    Args:
        source: of the pairs.
        limit: look at this many, evenly spread; None: all. Counts are always of all.
        num_workers: threads that decode.
        on_progress: called with pairs looked at and their number.

    Raises:
        DataNotFound: a file or its disk cannot be read now.
    """
    stats = Stats(pairs=len(source), fingerprint=source.fingerprint)
    if isinstance(source, IndexedPairs):
        about = source.index.about
        stats.shards = len(about.shards)
        stats.not_drawn, stats.left_out, stats.examples = about.not_drawn, about.left_out, about.examples
        stats.problems = [
            f"{source.index.folder / name} was changed since it was written; index the folder again."
            for name in source.index.damaged_files
        ]
    count = min(limit or len(source), len(source))
    chosen = np.linspace(0, len(source) - 1, count).round().astype(np.int64)
    widths, heights, sizes = array("I"), array("I"), array("Q")
    lengths: dict[str, array[int]] = {}
    formats: Counter[str] = Counter()
    image_hashes, text_hashes = array("Q"), array("Q")
    with ThreadPoolExecutor(num_workers) as pool:
        found = _in_order(pool, lambda i: _look(source, int(i)), chosen, 4 * num_workers)
        for done, (index, looked) in enumerate(zip(chosen, found, strict=True), start=1):
            if looked.size_px:
                widths.append(looked.size_px[0])
                heights.append(looked.size_px[1])
                formats[looked.image_format] += 1
            else:
                stats.broken.append((source.key(int(index)), looked.why))
            sizes.append(looked.num_bytes)
            image_hashes.append(looked.image_hash)
            for kind, length, text_hash in looked.lengths:
                lengths.setdefault(kind, array("I")).append(length)
                text_hashes.append(text_hash)
            on_progress(done, count)
    stats.looked_at = count
    stats.kinds = {
        kind: {
            "pairs": len(source) - len(source.lacking([kind])),
            "texts": len(lengths.get(kind, ())),
            "length": _quantiles(lengths.get(kind, array("I"))),
        }
        for kind in source.kinds
    }
    stats.width_px, stats.height_px, stats.image_bytes = map(_quantiles, (widths, heights, sizes))
    stats.formats = dict(formats)
    stats.same_text, _ = _copies(text_hashes)
    stats.same_image, groups = _copies(image_hashes)
    stats.copies = [[source.key(int(chosen[i])) for i in group] for group in groups]
    return stats


def require_replaceable(path: Path, source: IndexedPairs | SyntheticPairs) -> None:
    """Refuse a place for the list of broken images where something else is than such a list.

    Raises:
        OutputError: a file of the source or of its index is there, or one that is no such list.
    """
    # Folders, pipes and devices are refused by what writes.
    if not path.is_file():
        return
    ours = source.paths if isinstance(source, IndexedPairs) else ()
    begins = b""
    with path.open("rb") as file:
        begins = file.read(LIST_BEGINS_BYTES)
    listed = all(map(_LISTED.fullmatch, begins.split(b"\n")[:-1])) and (not begins or b"\n" in begins)
    if not listed or any(each.exists() and path.samefile(each) for each in ours):
        raise OutputError(
            f"{path} is there and no list of broken images: it was left as it is. Choose another name."
        )


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[int], _Looked], items: Sequence[int] | Any, ahead: int
) -> Iterator[_Looked]:
    """Yield the outcome of each item; `map` of a pool would begin all at once."""
    rest = iter(items)
    running = [pool.submit(work, item) for item in itertools.islice(rest, ahead)]
    while running:
        yield running.pop(0).result()
        running += [pool.submit(work, item) for item in itertools.islice(rest, 1)]


def _look(source: IndexedPairs | SyntheticPairs, index: int) -> _Looked:
    from rwkvclip_eval.data.reading import open_image

    content, why, image = b"", "", None
    try:
        content = source.content(index)
        opened = open_image(content)
        opened.load()
        image = opened
    except unreadable_image_errors() as error:
        damage = error if isinstance(error, DamagedData) else image_damage(error, source.key(index))
        if not isinstance(damage, DamagedData):
            raise damage from error
        why = str(error)
    lengths = []
    for kind, texts in source.texts(index).items():
        for text in texts:
            if isinstance(text, str):
                lengths.append((kind, len(text), _hash(text.encode("utf-8", "replace"))))
            else:
                tokens = int(np.count_nonzero(~np.isin(text[1:], NO_TEXT)))
                lengths.append((kind, tokens, _hash(text.tobytes())))
    size = image.size if image else None
    form = (image.format if image else None) or ""
    return _Looked(size, len(content), form, why, _hash(content), lengths)


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _quantiles(values: array[int]) -> list[float]:
    return [float(q) for q in np.quantile(np.asarray(values), QUANTILES)] if values else []


def _copies(hashes: array[int]) -> tuple[int, list[list[int]]]:
    """Return how many are copies of earlier ones, and the places of the first few that have copies."""
    found = np.asarray(hashes)
    if not len(found):
        return 0, []
    order = np.argsort(found, kind="stable")
    same = np.flatnonzero(np.diff(found[order]) == 0)
    groups: dict[int, list[int]] = {}
    for at in same[: 100 * NAMES_SHOWN].tolist():
        group = groups.setdefault(int(found[order[at]]), [int(order[at])])
        if len(group) < NAMES_SHOWN:
            group.append(int(order[at + 1]))
    return len(same), sorted(groups.values())[:NAMES_SHOWN]
