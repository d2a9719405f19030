"""A drawing in the report's dress: SVG that follows the reader's light or dark theme, and PNG."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

INK, MUTED, GRID, CHANCE = "#1d2530", "#5c6773", "#dde1e6", "#4b5563"
_IN_THE_DARK = {INK: "#e8ebef", MUTED: "#a3adb8", GRID: "#343b45", CHANCE: "#b6bec8"}
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawn figure."""

    name: str
    title: str
    alt: str
    """What it shows, in words, for those who cannot see it."""
    table: str
    """Slug of the table it belongs to; empty for training curves."""
    svg: str
    png: bytes

    @property
    def themed_svg(self) -> str:
        """Return the SVG with inks that follow the reader's light or dark preference."""
        themed = self.svg
        for i, ink in enumerate(_IN_THE_DARK):
            themed = themed.replace(ink, f"var(--c{i})")
        light = "".join(f"--c{i}:{ink};" for i, ink in enumerate(_IN_THE_DARK))
        dark = "".join(f"--c{i}:{ink};" for i, ink in enumerate(_IN_THE_DARK.values()))
        style = f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
        return re.sub(r"(<svg[^>]*>)", lambda m: m[1] + style, themed, count=1)


class Drawing:
    """A matplotlib figure without pyplot's global state, in the report's dress."""

    def __init__(self, width: float, height: float, columns: int = 1) -> None:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        layout = ConstrainedLayoutEngine(w_pad=0.1, wspace=0.06)
        self.figure = Figure(figsize=(width, height), layout=layout)
        self.axes = list(self.figure.subplots(1, columns, squeeze=False)[0])
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
        # About so many characters fit; a handle takes six.
        width = self.figure.get_figwidth() * 12
        lengths = [len(label) + 6 for label in labels]
        columns = len(labels) if sum(lengths) <= width else int(width // max(lengths))
        self.figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=max(1, columns),
            frameon=False,
            labelcolor=INK,
            fontsize=9.5,
            handlelength=1.4,
        )

    def plot(self, name: str, title: str, alt: str, table: str) -> Plot:
        """Return the finished drawing."""
        self.figure.patch.set_alpha(0)
        svg, png = io.StringIO(), io.BytesIO()
        import matplotlib as mpl

        # Text stays text; the salt makes the same drawing the same bytes.
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "DejaVu Sans"}):
            self.figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        # The layout just found holds for the PNG too.
        self.figure.set_layout_engine("none")
        self.figure.patch.set_facecolor("white")
        self.figure.patch.set_alpha(1)
        self.figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
        text = svg.getvalue()
        # Readers' own fonts, not those of the machine that drew it.
        text = text.replace("'DejaVu Sans'", _FONTS)
        return Plot(
            name=name, title=title, alt=alt, table=table, svg=text[text.index("<svg") :], png=png.getvalue()
        )
