"""What a step would see: pictures as they are cropped with the texts drawn, as one PNG or HTML file."""

from __future__ import annotations

import base64
import html
import io
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.errors import OutputError, shortened
from rwkvclip_eval.printable import one_line, printable
from rwkvclip_models.disk import atomic_path, write_text
from rwkvclip_models.tokenizer import detokenize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image

    from rwkvclip_train.data.pairs import Key, Pairs

_COLUMNS = 4
_LETTERS = 34
_LINES = 7
_LINE_PX = 14
_GAP_PX = 12


@dataclass(frozen=True)
class Seen:
    """A pair as a step sees it.

    Attributes:
        name: `SHARD:KEY`.
        kind: of the text.
        text: itself; of token ids, the words they stand for.
        picture: the crop.
    """

    name: str
    kind: str
    text: str
    picture: Image


def look(pairs: Pairs, keys: Sequence[Key]) -> list[Seen]:
    """Return samples as training gets them.

    Raises:
        DamagedData: one cannot be read; it is named.
    """
    from PIL import Image

    found = []
    for key in keys:
        sample = pairs[key]
        text = sample.text if isinstance(sample.text, str) else detokenize(sample.text.tolist())
        picture = Image.fromarray(sample.pixels.permute(1, 2, 0).numpy())
        found.append(Seen(pairs.name(key), sample.kind, text, picture))
    return found


def write_sheet(path: Path, seen: Sequence[Seen], title: str) -> None:
    """Write a picture sheet.

    Args:
        path: ends in .png or .html.
        seen: pairs.
        title: of the sheet.

    Raises:
        OutputError: the file cannot be written, or its name ends otherwise.
    """
    if path.suffix.lower() == ".html":
        write_text(path, _page(seen, title))
    elif path.suffix.lower() == ".png":
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            _sheet(seen, title).save(stream, "PNG")
    else:
        raise OutputError(f"Cannot write {path}: give a name that ends in .png or .html.")


def _page(seen: Sequence[Seen], title: str) -> str:
    cells = []
    for pair in seen:
        stream = io.BytesIO()
        pair.picture.save(stream, "PNG")
        data = base64.b64encode(stream.getvalue()).decode("ascii")
        name, kind, text = (html.escape(printable(part)) for part in (pair.name, pair.kind, pair.text))
        cells.append(
            f'<figure><img alt="" src="data:image/png;base64,{data}"><figcaption><b>{kind}</b> {text}'
            f"<br><small>{name}</small></figcaption></figure>"
        )
    style = (
        "body{font:14px/1.4 system-ui,sans-serif;margin:1.5rem}main{display:grid;gap:1rem;"
        "grid-template-columns:repeat(auto-fill,minmax(14rem,1fr))}figure{margin:0}img{width:100%;"
        "image-rendering:auto}figcaption{overflow-wrap:anywhere}small{color:#666}"
    )
    head = f'<meta charset="utf-8"><title>{html.escape(printable(title))}</title><style>{style}</style>'
    return (
        f'<!doctype html><html lang="en"><head>{head}</head><body><h1>{html.escape(printable(title))}</h1>'
        f"<main>{''.join(cells)}</main></body></html>\n"
    )


def _sheet(seen: Sequence[Seen], title: str) -> Image:
    from PIL import Image, ImageDraw, ImageFont

    wide = max(224, *(pair.picture.width for pair in seen)) if seen else 224
    font: Any = ImageFont.load_default(size=12)
    columns = min(_COLUMNS, max(len(seen), 1))
    rows = -(-len(seen) // columns)
    tall = wide + (_LINES + 1) * _LINE_PX + _GAP_PX
    head = 2 * _LINE_PX
    sheet = Image.new(
        "RGB", (columns * (wide + _GAP_PX) + _GAP_PX, head + rows * (tall + _GAP_PX) + _GAP_PX), "white"
    )
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP_PX, _GAP_PX // 2), one_line(title), fill="black", font=font)
    for number, pair in enumerate(seen):
        left = _GAP_PX + number % columns * (wide + _GAP_PX)
        top = head + _GAP_PX + number // columns * (tall + _GAP_PX)
        height = wide * pair.picture.height // pair.picture.width
        sheet.paste(pair.picture.resize((wide, min(height, wide))), (left, top))
        lines = textwrap.wrap(one_line(f"{pair.kind}: {pair.text}"), wide * _LETTERS // 224)
        if len(lines) > _LINES:
            lines = [*lines[: _LINES - 1], shortened(lines[_LINES - 1], _LETTERS - 2) + " …"]
        for line, text in enumerate(lines):
            at = (left, top + wide + 4 + line * _LINE_PX)
            draw.text(at, text, fill="black", font=font)
        name = shortened(one_line(pair.name), wide * _LETTERS // 224)
        draw.text((left, top + wide + 4 + _LINES * _LINE_PX), name, fill="#666666", font=font)
    return sheet
