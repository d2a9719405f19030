"""A drawing in the report's dress: SVG that follows the reader's light or dark theme, PNG and PDF.

Each is laid out twice: as wide as two columns of a paper, for screens, and as wide as one, for phones, where
panels side by side would be too small. Sizes are those on paper; pages enlarge.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.errors import shortened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

INK, MUTED, GRID, CHANCE, WARN = "#1d2530", "#5c6773", "#dde1e6", "#4b5563", "#8a4b00"
PAPER = "#fbfaf7"
"""Of the page behind a drawing."""
_IN_THE_DARK = {INK: "#e8ebef", MUTED: "#a3adb8", GRID: "#343b45", CHANCE: "#b6bec8", WARN: "#f0bd75"}
_IN_THE_DARK |= {PAPER: "#14181d"}
_FONT = "DejaVu Sans"
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"


WIDE_IN, NARROW_IN = 6.75, 3.25
"""Two columns of a paper, and one."""
TEXT, SMALL = 7.5, 6.0
"""Points."""
LINE, MARK = 1.2, 4.0
"""Points."""
_DPI, _SCREEN_DPI = 300, 72
_AROUND_IN = 0.8
"""About what labels and titles around the panels take, for a first layout."""
_MAX_LABEL, _MAX_NARROW_LABEL = 60, 34
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One layout of a figure.

    Attributes:
        svg: text is text, in the reader's fonts.
        png: at 300 dots an inch.
        pdf: with its fonts embedded.
    """

    svg: str
    png: bytes
    pdf: bytes


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawn figure.

    Attributes:
        name: of its files, without their ending.
        title: heading.
        alt: what it shows, in words, for those who cannot see it.
        table: slug of the table it belongs to; empty for training curves.
        wide: as wide as two columns.
        narrow: as wide as one.
    """

    name: str
    title: str
    alt: str
    table: str
    wide: Picture
    narrow: Picture


def themed(svg: str) -> str:
    """Return `svg` with inks that follow the reader's light or dark preference."""
    for i, ink in enumerate(_IN_THE_DARK):
        svg = svg.replace(ink, f"var(--c{i})")
    light = "".join(f"--c{i}:{ink};" for i, ink in enumerate(_IN_THE_DARK))
    dark = "".join(f"--c{i}:{ink};" for i, ink in enumerate(_IN_THE_DARK.values()))
    style = f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    return re.sub(r"(<svg[^>]*>)", lambda m: m[1] + style, svg, count=1)


class Drawing:
    """A matplotlib figure without pyplot's global state, in the report's dress."""

    def __init__(self, panel: float, panels: int = 1, columns: int = 0) -> None:
        """Prepare an empty figure.

        Args:
            panel: height of a panel between its axes, inches; legend, labels and titles come on top.
            panels: number of axes.
            columns: of panels; all side by side by default.
        """
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(WIDE_IN, panel), dpi=_SCREEN_DPI)
        self._panel = panel
        self._columns = columns or panels
        self._legend_lines = 0
        self._handles: tuple[Sequence[Any], Sequence[str]] = ((), ())
        self.axes: list[Any] = [self.figure.add_subplot() for _ in range(panels)]
        for ax in self.axes:
            ax.set_facecolor("none")
            ax.spines[["top", "right", "left"]].set_visible(False)
            ax.spines["bottom"].set_color(MUTED)
            ax.spines["bottom"].set_linewidth(0.6)
            ax.tick_params(colors=INK, length=0, labelsize=TEXT)
            ax.set_axisbelow(True)
            for axis in (ax.xaxis, ax.yaxis):
                axis.label.set_color(MUTED)
                axis.label.set_size(TEXT)

    def legend(self, handles: Sequence[Any], labels: Sequence[str]) -> None:
        """Put one legend for all axes above them."""
        self._handles = (handles, labels)

    def plot(self, name: str, title: str, alt: str, table: str) -> Plot:
        """Return the finished drawing."""
        with warnings.catch_warnings():
            # Of glyphs that the machine's font lacks (the reader's may not), and of names that leave no room.
            warnings.simplefilter("ignore", UserWarning)
            self._shorten_names(_MAX_LABEL)
            wide = self._picture(name, WIDE_IN, self._columns)
            self._shorten_names(_MAX_NARROW_LABEL)
            narrow = self._picture(f"{name}-narrow", NARROW_IN, math.ceil(self._columns / 2))
        return Plot(name=name, title=title, alt=alt, table=table, wide=wide, narrow=narrow)

    def _picture(self, name: str, width: float, columns: int) -> Picture:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_pdf import FigureCanvasPdf
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        self._lay_out(width, columns)
        outs = {kind: io.BytesIO() for kind in ("svg", "png", "pdf")}
        self.figure.patch.set_alpha(0)
        # Text stays text; the salt makes the same drawing the same bytes.
        with _settings({"svg.fonttype": "none", "svg.hashsalt": name}):
            canvas = FigureCanvasSVG(self.figure)
            canvas.print_svg(outs["svg"], metadata={"Date": None, "Creator": None})
        self.figure.patch.set_facecolor("white")
        self.figure.patch.set_alpha(1)
        # Type 42 embeds a font as it is; of type 3 drawings print and search badly.
        with _settings({"pdf.fonttype": 42}), _fonts_without_layout():
            nobody = {"Creator": None, "Producer": None, "CreationDate": None}
            FigureCanvasPdf(self.figure).print_pdf(outs["pdf"], metadata=nobody)
        with _settings({}):
            self.figure.set_dpi(_DPI)
            quick = {"compress_level": 3}
            FigureCanvasAgg(self.figure).print_png(outs["png"], metadata={"Software": None}, pil_kwargs=quick)
        self.figure.set_dpi(_SCREEN_DPI)
        text = outs["svg"].getvalue().decode()
        # XML holds no control character, however it is written.
        text = _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)
        # Readers' own fonts, not those of the machine that drew it.
        svg = text[text.index("<svg") :].replace(f"'{_FONT}'", _FONTS)
        return Picture(svg=svg, png=outs["png"].getvalue(), pdf=outs["pdf"].getvalue())

    def _shorten_names(self, most: int) -> None:
        """Cut what is longer than a drawing has room for."""
        handles, labels = self._handles
        whole = [" ".join(label.split()) for label in labels]
        self._handles = handles, ["\n".join(_wrapped(label, most)) for label in whole]
        for text in (self.figure._supxlabel, self.figure._supylabel):  # type: ignore[attr-defined]  # unlisted
            if text is not None:
                text.set_text(shortened(text.get_text(), most))
        for ax in self.axes:
            for label in (ax.xaxis.label, ax.yaxis.label):
                label.set_text("\n".join(shortened(line, most) for line in label.get_text().split("\n")))
            # Setting a title anew would forget its size.
            for text in (ax.title, ax._left_title, ax._right_title):
                text.set_text(shortened(text.get_text(), most))
            names = [text.get_text() for text in ax.get_yticklabels()]
            if any(len(name) > most for name in names):
                ax.set_yticks(ax.get_yticks(), [_cut(name, most) for name in names])

    def _lay_out(self, width: float, columns: int) -> None:
        """Place panels of their height, and make the figure as tall as these and all around them."""
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        rows = math.ceil(len(self.axes) / columns)
        self._add_legend(width)
        grid = self.figure.add_gridspec(rows, columns)
        for i, ax in enumerate(self.axes):
            ax.set_subplotspec(grid[i // columns, i % columns])
            # An earlier layout has set it where it is.
            ax.set_in_layout(True)
        # Once at a guess that leaves the panels room; what is around them does not change with their height.
        before = rows * self._panel + _AROUND_IN + 0.5 * rows + 0.2 * self._legend_lines
        self.figure.set_size_inches(width, before)
        with _settings({}):
            ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.04, wspace=0.04).execute(self.figure)
        self.figure.set_layout_engine("none")
        self._stretch(before, rows, columns)

    def _stretch(self, before: float, rows: int, columns: int) -> None:
        """Give the panels their height and the figure what they lack or have too much of.

        Args:
            before: height of the figure now, inches.
            rows: of panels.
            columns: of panels.
        """
        boxes = [ax.get_position() for ax in self.axes]
        now = [before * boxes[row * columns].height for row in range(rows)]
        after = before + rows * self._panel - sum(now)
        self.figure.set_size_inches(self.figure.get_figwidth(), after)
        for i, (ax, box) in enumerate(zip(self.axes, boxes, strict=True)):
            below = sum(self._panel - height for height in now[i // columns + 1 :])
            bottom = (before * box.y0 + below) / after
            ax.set_position((box.x0, bottom, box.width, self._panel / after))
        label = self.figure._supxlabel  # type: ignore[attr-defined]  # unlisted
        if label is not None:
            label.set_y(label.get_position()[1] * before / after)
        label = self.figure._supylabel  # type: ignore[attr-defined]  # unlisted
        if label is not None:
            ends = [ax.get_position() for ax in self.axes]
            label.set_y((min(box.y0 for box in ends) + max(box.y1 for box in ends)) / 2)

    def _add_legend(self, width: float) -> None:
        for legend in list(self.figure.legends):
            legend.remove()
        handles, labels = self._handles
        self._legend_lines = 0
        if not labels:
            return
        # About so many characters fit; a handle takes six.
        room = width * 15
        lengths = [max(map(len, label.split("\n"))) + 6 for label in labels]
        side_by_side = len(labels) if sum(lengths) <= room else int(room // max(lengths))
        columns = max(1, side_by_side)
        lines = max(label.count("\n") + 1 for label in labels)
        self._legend_lines = lines * math.ceil(len(labels) / columns)
        self.figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=columns,
            frameon=False,
            labelcolor=INK,
            fontsize=TEXT,
            handlelength=1.6,
        )


def _wrapped(label: str, most: int) -> list[str]:
    """Return a label in at most two lines of `most` characters."""
    first, *rest = textwrap.wrap(label, most) or [""]
    return [first, shortened(" ".join(rest), most)] if rest else [first]


def _cut(name: str, most: int) -> str:
    """Return a name of at most `most` characters.

    Of `one → other` both are cut, so that both are seen; of `model: cell` the model, for cells differ at
    their end.
    """
    head, colon, cell = name.rpartition(": ")
    if len(name) > most and colon and len(cell) + 12 <= most:
        return f"{shortened(head, most - len(cell) - 2)}: {cell}"
    sides = name.split(" → ")
    if len(name) <= most or len(sides) != 2:
        return shortened(name, most)
    return " → ".join(shortened(side, (most - 3) // 2) for side in sides)


@contextmanager
def _fonts_without_layout() -> Iterator[None]:
    """Leave out of embedded fonts what sets letters: they are set, and reading it takes most of a PDF."""
    from fontTools import subset

    whole = subset.Options

    class Lean(whole):  # type: ignore[misc, valid-type]  # fontTools has no types
        def __init__(self, **options: object) -> None:
            super().__init__(**options)
            self.drop_tables += ["GDEF", "GPOS", "GSUB"]

    subset.Options = Lean
    try:
        yield
    finally:
        subset.Options = whole


def _settings(more: Mapping[str, object]) -> AbstractContextManager[None]:
    import matplotlib as mpl

    return mpl.rc_context({"font.family": _FONT, **more})
