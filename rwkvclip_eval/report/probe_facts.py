"""What a report says of linear probes in words."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.report.curves import is_probe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rwkvclip_eval.report.curves import Fit, RegularisationCurve


_STATUS_WORDS = {
    "unattainable": "optimum not reached (separated classes)",
    "iteration_limit": "optimum not reached",
    "stopped_early": "stopped early, not at its optimum",
}
_TOLD = {"l2", "l2_at_edge", "validation", "num_train", "num_val"}
_OF_SHOTS = {
    "shots",
    "seeds",
    "std",
    "l2_at_edge",
    "seeds_se",
    "images_low",
    "images_high",
    "interval_covers",
}


def other_notes(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the notes that neither `probe_facts` nor `spread_text` tells."""
    told = (_TOLD if is_probe(notes) else set()) | (_OF_SHOTS if spread_text(notes) else set())
    return {name: value for name, value in notes.items() if name not in told}


def probe_facts(notes: Mapping[str, Any], curve: RegularisationCurve | None) -> list[tuple[str, str]]:
    """Return how a probe was fitted, in words; nothing for numbers of other tasks."""
    if not is_probe(notes):
        return []
    best = f"{float(notes['l2']):.4g}"
    if notes.get("l2_at_edge"):
        best += ", at the edge of the range searched: a better one may lie outside"
    sizes = [
        f"{int(notes[key]):,} {words}"
        for key, words in (("num_train", "to train on"), ("num_val", "to choose λ by"))
        if notes.get(key) is not None
    ]
    facts = [("best λ", best)]
    if curve is not None and curve.search:
        ends = f"{curve.search[0].l2:.3g} to {curve.search[-1].l2:.3g}"
        states = Counter(status_text(fit.status) for fit in curve.search)
        ended = ", ".join(f"{count} {state}" for state, count in states.most_common())
        facts.append(("λ searched", f"{len(curve.search)} from {ends}: {ended}"))
    if curve is not None and curve.final is not None:
        facts.append(("final fit", _fit_text(curve.final)))
    split = ", ".join(filter(None, [str(notes.get("validation") or ""), *sizes]))
    return [*facts, ("validation", split)]


def status_text(status: str) -> str:
    """Return in words why a strength is not drawn as if it were at its optimum."""
    return _STATUS_WORDS.get(status, status.replace("_", " "))


def _fit_text(fit: Fit) -> str:
    parts = [status_text(fit.status)]
    if fit.objective is not None:
        parts.append(f"objective {fit.objective:.7g}")
    if fit.gap is None:
        parts.append("no bound on its distance from the optimum could be proven")
    else:
        parts.append(f"certified to lie within {fit.gap:.2g} of the optimum")
    if fit.iterations is not None:
        parts.append(f"{fit.iterations:,} iterations")
    return ", ".join(parts)


def spread_text(notes: Mapping[str, Any]) -> str:
    """Return what the interval of a few-shot number covers, and how its seeds differ, in words."""
    if "shots" not in notes:
        return ""
    seeds, edge = int(notes["seeds"]), notes.get("l2_at_edge")
    at_edge = f", {edge} with their best λ at the edge of the range searched" if edge else ""
    if seeds == 1:
        return f"no interval, since one seed does not tell what another draw would give{at_edge}"
    covers = notes.get("interval_covers")
    return (
        f"{f'covers {covers}' if covers else 'without the test images, and so too narrow'}; mean of {seeds} "
        f"seeds, standard deviation {100 * float(notes['std']):.1f} points{at_edge}"
    )
