"""Where the time of a forward pass goes, and how near each part comes to what the device can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.report.plots.drawing import CHANCE, GRID, LINE, MARK, SMALL, Drawing, Plot
from rwkvclip_eval.report.plots.style import MARKERS, log_ticks, looks_with_reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rwkvclip_eval.records.efficiency import Block, Measured

TABLE = "efficiency"
MOST_BARS = 24
"""Bars of one drawing; further ones are in the next."""
PARTS = {
    "patch embedding": ("#56b4e9", ""),
    "token embedding": ("#56b4e9", "//"),
    "shift and lerp": ("#e69f00", ""),
    "projections": ("#0072b2", ""),
    "Bi-WKV": ("#d55e00", ""),
    "attention": ("#d55e00", "//"),
    "channel mix": ("#009e73", ""),
    "MLP": ("#009e73", "//"),
    "norms": ("#cc79a7", ""),
    "rest": ("#8c8c8c", ""),
}
"""Part → colour and hatch, in the order of drawing; hatched are ViT's beside ours."""


def part_plots(blocks: Sequence[Block]) -> Iterator[Plot]:
    """Yield the bars of each tower's parts, a precision at a time, then their places under the roofline."""
    for tower in ("image", "text"):
        parted = [
            (block, model)
            for block in blocks
            if block.cell.tower == tower
            for model in block.models
            if model.parts
        ]
        for precision in dict.fromkeys(block.cell.precision for block, _ in parted):
            own = [(block, m) for block, m in parted if block.cell.precision == precision]
            drawings = [own[at : at + MOST_BARS] for at in range(0, len(own), MOST_BARS)]
            for number, shown in enumerate(drawings, start=1):
                yield _bars(tower, precision, shown, f"-{number}" if len(drawings) > 1 else "")
            yield from _rooflines(tower, precision, own)


def _bars(tower: str, precision: str, shown: Sequence[tuple[Block, Measured]], number: str) -> Plot:
    figure = Drawing(0.9 + 0.2 * len(shown), 1)
    ax = figure.axes[0]
    names = [name for name in PARTS if any(part.name == name for _, m in shown for part in m.parts)]
    rows = list(reversed(shown))
    starts = [0.0] * len(rows)
    handles = []
    for name in names:
        colour, hatch = PARTS[name]
        widths = [
            1e3 / block.cell.batch * sum(part.seconds for part in m.parts if part.name == name)
            for block, m in rows
        ]
        handles.append(
            ax.barh(range(len(rows)), widths, left=starts, color=colour, hatch=hatch, edgecolor="white",
                    linewidth=0.4, height=0.7)
        )  # fmt: skip
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    ax.set_yticks(range(len(rows)), [f"{m.model}: {_how(block)}" for block, m in rows], fontsize=SMALL)
    ax.set_xlabel(f"ms of {'an image' if tower == 'image' else 'a text'}")
    ax.grid(axis="x", color=GRID, linewidth=0.6)
    figure.legend(handles, names)
    words = "; ".join(
        f"{m.model}, {_how(block)}: "
        + ", ".join(f"{part.name} {100 * part.seconds / _whole(m):.0f} %" for part in m.parts)
        for block, m in shown
    )
    title = f"Parts of the {tower} tower's forward pass, {precision}"
    return figure.plot(f"efficiency-parts-{tower}-{precision}{number}", title, words, TABLE)


def _rooflines(tower: str, precision: str, own: Sequence[tuple[Block, Measured]]) -> Iterator[Plot]:
    """Yield FLOPs a second against FLOPs a byte, under the device's ceilings, where these are known."""
    ceilings = [(b.ceiling_flops, b.ceiling_bytes) for b, _ in own if b.ceiling_flops and b.ceiling_bytes]
    points = [
        (m.model, part.name, part.flops / part.bytes, part.flops / part.seconds, _how(block))
        for block, m in own
        for part in m.parts
        # What no part takes is of many kinds, and has hardly a FLOP.
        if part.flops and part.bytes and part.seconds and part.name != "rest"
    ]
    if ceilings and points:
        yield _roofline(tower, precision, points, max(ceilings))


def _roofline(
    tower: str,
    precision: str,
    points: Sequence[tuple[str, str, float, float, str]],
    ceiling: tuple[float, float],
) -> Plot:
    most, copying = ceiling
    figure = Drawing(2.8, 1)
    ax = figure.axes[0]
    models = list(dict.fromkeys(model for model, *_ in points))
    look = looks_with_reference(models)
    low = min(most / copying, *(x for _, _, x, _, _ in points)) / 2
    high = 2 * max(most / copying, *(x for _, _, x, _, _ in points))
    ax.plot(
        [low, most / copying, high],
        [low * copying / 1e9, most / 1e9, most / 1e9],
        color=CHANCE,
        linewidth=LINE,
    )
    shown = [m for m in models if m in look]
    names = [name for name in PARTS if any(part == name for _, part, *_ in points)]
    # A colour a model, a shape a part.
    shapes = dict(zip(names, MARKERS, strict=False))
    for model, name, x, y, _ in points:
        if model in look and name in shapes:
            style = {"color": look[model].colour, "markersize": MARK, "markeredgewidth": 0, "alpha": 0.8}
            ax.plot([x], [y / 1e9], linestyle="none", marker=shapes[name], **style)
    handles = [ax.plot([], [], color=look[model].colour, linewidth=3)[0] for model in shown]
    handles += [
        ax.plot([], [], linestyle="none", marker=shapes[name], color=CHANCE, markersize=MARK)[0]
        for name in names
    ]
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis, ends in ((ax.xaxis, (low, high)), (ax.yaxis, ax.get_ylim())):
        ticks = [10.0**n for n in range(-6, 10) if ends[0] <= 10.0**n <= ends[1]]
        ticks = ticks if len(ticks) > 1 else log_ticks(*ends)
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.grid(color=GRID, linewidth=0.6)
    ax.set_xlabel("FLOPs a byte")
    ax.set_ylabel("GFLOP/s")
    figure.legend(handles, [*shown, *names])
    words = "; ".join(
        f"{model}, {how}, {name}: {y / 1e9:.3g} GFLOP/s at {x:.3g} FLOPs a byte"
        for model, name, x, y, how in points[:40]
    )
    title = f"Parts of the {tower} tower under the roofline, {precision}"
    said = f"{title}: {most / 1e9:.3g} GFLOP/s in square products, {copying / 1e9:.3g} GB/s copied. {words}"
    return figure.plot(f"efficiency-roofline-{tower}-{precision}", title, said, TABLE)


def _how(block: Block) -> str:
    return f"{block.cell.shape}, batch {block.cell.batch}"


def _whole(measured: Measured) -> float:
    return sum(part.seconds for part in measured.parts)
