"""Memory and time of the image tower's streaming form beside the parallel form, against image size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwkvclip_eval.records.streaming import FORMS
from rwkvclip_eval.report.plots.drawing import CHANCE, GRID, LINE, MARK, Drawing, Plot
from rwkvclip_eval.report.plots.style import log_ticks, looks, model_colours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.records.streaming import StreamingPoint

MIB = 1 << 20
_LEAST_MIB = 0.1
"""Less is nothing that a page of memory can tell, and has no place on a logarithmic axis."""


def streaming_plot(points: Sequence[StreamingPoint]) -> Plot | None:
    """Return peak memory and time against patches, both axes logarithmic; None without a number."""
    known = [p for p in points if p.seconds is not None]
    if not known:
        return None
    figure = Drawing(1.9, 2)
    look = looks(FORMS, (), model_colours(FORMS, {}))
    handles, labels = [], []
    for form in (f for f in FORMS if any(p.form == f for p in known)):
        own = sorted((p for p in known if p.form == form), key=lambda p: p.tokens)
        style: dict[str, Any] = {**look[form].dots(MARK), "linestyle": "-", "linewidth": LINE}
        kept = [(p.tokens, max(p.peak_bytes / MIB, _LEAST_MIB)) for p in own if p.peak_bytes is not None]
        figure.axes[0].plot([n for n, _ in kept], [mib for _, mib in kept], **style)
        times = [p.seconds for p in own]
        handles.append(figure.axes[1].plot([p.tokens for p in own], times, **style)[0])
        labels.append(form)
    sizes = sorted({p.tokens: p.token_bytes / MIB for p in known}.items())
    handles += figure.axes[0].plot(
        [n for n, _ in sizes], [mib for _, mib in sizes], color=CHANCE, linewidth=0.8, linestyle=(0, (2, 2))
    )
    labels.append("two token arrays")
    for ax, label in zip(figure.axes, ("peak memory beyond the model, MiB", "seconds"), strict=True):
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xticks([n for n, _ in sizes], [f"{n:,}" for n, _ in sizes])
        ticks = log_ticks(*ax.get_ylim())
        ax.set_yticks(ticks, [f"{tick:,g}" for tick in ticks])
        ax.minorticks_off()
        ax.grid(color=GRID, linewidth=0.6)
        ax.set_xlabel("patches of an image")
        ax.set_ylabel(label)
    figure.legend(handles, labels)
    words = "; ".join(
        f"{p.form}, {p.tokens:,} patches: {p.seconds:.3g} s"
        + ("" if p.peak_bytes is None else f", {p.peak_bytes / MIB:.1f} MiB")
        for p in known
        if p.seconds is not None
    )
    one = known[0]
    title = f"Image tower, streaming and parallel, batch 1, {one.precision}, {one.device}"
    return figure.plot("streaming", title, f"{title}: {words}.", "")
