"""A drawing in the report's dress: SVG that follows the reader's light or dark theme, and PNG.

Each is laid out twice: for screens, and narrow for phones, where panels side by side would be too small.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.errors import shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

INK, MUTED, GRID, CHANCE, WARN = "#1d2530", "#5c6773", "#dde1e6", "#4b5563", "#8a4b00"
_IN_THE_DARK = {INK: "#e8ebef", MUTED: "#a3adb8", GRID: "#343b45", CHANCE: "#b6bec8", WARN: "#f0bd75"}
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"


_WIDTH_IN, _NARROW_IN = 8.6, 4.3
_MAX_LABEL = 60
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawn figure.

    Attributes:
        name: of its files, without their ending.
        title: heading.
        alt: what it shows, in words, for those who cannot see it.
        table: slug of the table it belongs to; empty for training curves.
        svg: for wide pages.
        narrow_svg: for narrow ones.
        png: the wide one as PNG.
    """

    name: str
    title: str
    alt: str
    table: str
    svg: str
    narrow_svg: str
    png: bytes


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

    def __init__(self, height: float, panels: int = 1, columns: int = 0) -> None:
        """Prepare an empty figure.

        Args:
            height: inches, when laid out for screens.
            panels: number of axes.
            columns: of panels; all side by side by default.
        """
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(_WIDTH_IN, height))
        self._columns = columns or panels
        self._handles: tuple[Sequence[Any], Sequence[str]] = ((), ())
        self.axes: list[Any] = [self.figure.add_subplot() for _ in range(panels)]
        for ax in self.axes:
            ax.set_facecolor("none")
            ax.spines[["top", "right", "left"]].set_visible(False)
            ax.spines["bottom"].set_color(MUTED)
            ax.tick_params(colors=INK, length=0, labelsize=9.5)
            ax.set_axisbelow(True)
            ax.xaxis.label.set_color(MUTED)
            ax.yaxis.label.set_color(MUTED)

    def legend(self, handles: Sequence[Any], labels: Sequence[str]) -> None:
        """Put one legend for all axes above them."""
        self._handles = (handles, labels)

    def plot(self, name: str, title: str, alt: str, table: str) -> Plot:
        """Return the finished drawing."""
        height = float(self.figure.get_figheight())
        with warnings.catch_warnings():
            # Of glyphs that the machine's font lacks (the reader's may not), and of names that leave no room.
            warnings.simplefilter("ignore", UserWarning)
            return self._drawn(name, title, alt, table, height)

    def _drawn(self, name: str, title: str, alt: str, table: str, height: float) -> Plot:
        self._shorten_names()
        self._lay_out(_WIDTH_IN, height, self._columns)
        svg, png = self._svg(name), io.BytesIO()
        # The layout just found holds for the PNG too.
        self.figure.set_layout_engine("none")
        self.figure.patch.set_facecolor("white")
        self.figure.patch.set_alpha(1)
        self.figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
        columns = math.ceil(self._columns / 2)
        rows_before, rows = (math.ceil(len(self.axes) / c) for c in (self._columns, columns))
        # What is not panel (legend, labels) takes about so much.
        rest = 0.7
        self._lay_out(_NARROW_IN, rest + (height - rest) * rows / rows_before, columns)
        return Plot(
            name=name,
            title=title,
            alt=alt,
            table=table,
            svg=svg,
            narrow_svg=self._svg(f"{name}-narrow"),
            png=png.getvalue(),
        )

    def _shorten_names(self) -> None:
        """Cut what is longer than any drawing has room for."""
        handles, labels = self._handles
        self._handles = handles, [shortened(label, _MAX_LABEL) for label in labels]
        for ax in self.axes:
            for place in ("left", "center", "right"):
                title = ax.get_title(loc=place)
                if len(title) > _MAX_LABEL:
                    ax.set_title(shortened(title, _MAX_LABEL), loc=place)
            names = [text.get_text() for text in ax.get_yticklabels()]
            if any(len(name) > _MAX_LABEL for name in names):
                ax.set_yticks(ax.get_yticks(), [shortened(name, _MAX_LABEL) for name in names])

    def _lay_out(self, width: float, height: float, columns: int) -> None:
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        self.figure.set_size_inches(width, height)
        self.figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.1, wspace=0.06))
        grid = self.figure.add_gridspec(math.ceil(len(self.axes) / columns), columns)
        for i, ax in enumerate(self.axes):
            ax.set_subplotspec(grid[i // columns, i % columns])
        for legend in list(self.figure.legends):
            legend.remove()
        handles, labels = self._handles
        if not labels:
            return
        # About so many characters fit; a handle takes six.
        room = width * 12
        lengths = [len(label) + 6 for label in labels]
        side_by_side = len(labels) if sum(lengths) <= room else int(room // max(lengths))
        self.figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=max(1, side_by_side),
            frameon=False,
            labelcolor=INK,
            fontsize=9.5,
            handlelength=1.4,
        )

    def _svg(self, salt: str) -> str:
        import matplotlib as mpl

        self.figure.patch.set_alpha(0)
        svg = io.StringIO()
        # Text stays text; the salt makes the same drawing the same bytes.
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "DejaVu Sans"}):
            self.figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        text = svg.getvalue()
        # XML holds no control character, however it is written.
        text = _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)
        # Readers' own fonts, not those of the machine that drew it.
        return text[text.index("<svg") :].replace("'DejaVu Sans'", _FONTS)
