"""Which models are checkpoints of one training run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.report.loading import Entry


def find_series(entries: Sequence[Entry]) -> dict[str, str]:
    """Return model → series for models that are steps or epochs of one training run.

    Names and checkpoints of a series are equal once their own number is taken out, and all count the same.
    """
    keys: dict[str, dict[str, int]] = {}
    for entry in entries:
        info = entry.record.model_info
        if info.get("step") is None:
            continue
        step = int(info["step"])
        name, _, checkpoint = str(info.get("spec", "")).partition("=")
        named = (_without_step(entry.model, step), name, _without_step(checkpoint, step))
        key = "|".join((*named, str(info.get("step_unit", ""))))
        keys.setdefault(key, {})[entry.model] = step
    return {
        model: key.partition("|")[0]
        for key, steps in keys.items()
        if len(set(steps.values())) > 1
        for model in steps
    }


def _without_step(text: str, step: int) -> str:
    found = list(re.finditer(rf"(?<!\d)0*{step}(?!\d)", text))
    return f"{text[: found[-1].start()]}*{text[found[-1].end() :]}" if found else text


def final_models(entries: Sequence[Entry]) -> list[str]:
    """Return the models that sum a report up: of each series its last step, and all that are in none."""
    series = find_series(entries)
    steps = {e.model: int(e.record.model_info["step"]) for e in entries if e.model in series}
    last = {
        key: max((m for m in steps if series[m] == key), key=steps.__getitem__) for key in series.values()
    }
    names = dict.fromkeys(e.model for e in entries)
    return [m for m in names if m not in series or last[series[m]] == m]
