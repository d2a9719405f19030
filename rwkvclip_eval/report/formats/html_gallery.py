"""What the page shows of pictures: example retrievals and images that were got wrong."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.report.wording import dataset_title

if TYPE_CHECKING:
    from rwkvclip_eval.report.loading import Example, Loaded, ShownError

_MAX_WRONG = 240
"""Images got wrong on a page, but one of every dataset and model."""


def gallery(loaded: Loaded, queries: int) -> list[dict[str, Any]]:
    """Return examples by dataset, then query, models below each other; queries most models share first.

    Where several models have examples, a query that only one of them has compares nothing and is left out.
    """
    titles = {}
    for entry in loaded.entries:
        protocol = entry.record.protocol
        titles[entry.record.unit] = f"{dataset_title(entry)} ({protocol})"
    order = {model: i for i, model in enumerate(loaded.models)}
    ordered = sorted(loaded.examples, key=lambda e: (titles[e.unit], order[e.model]))
    groups = []
    for title, members in groupby(ordered, key=lambda e: titles[e.unit]):
        asked: dict[tuple[str, int], list[Example]] = {}
        for example in members:
            asked.setdefault((example.query, example.target), []).append(example)
        shared = sorted(asked.items(), key=lambda item: -len(item[1]))
        most = len(shared[0][1])
        items = [
            {"query": query, "examples": found}
            for (query, _), found in shared[:queries]
            if len(found) > 1 or most == 1
        ]
        if items:
            groups.append({"title": title, "queries": items})
    return groups


def errors(loaded: Loaded, each: int) -> list[dict[str, Any]]:
    """Return images that were got wrong by dataset, models below each other, `each` of a model's at most."""
    titles = {e.record.unit: f"{dataset_title(e)} ({e.record.protocol})" for e in loaded.entries}
    groups: dict[str, dict[str, list[ShownError]]] = {}
    for wrong in loaded.errors:
        groups.setdefault(titles[wrong.unit], {}).setdefault(wrong.model, []).append(wrong)
    units = sum(map(len, groups.values()))
    each = min(each, max(1, _MAX_WRONG // max(1, units)))
    shown = [(title, [(m, own[:each]) for m, own in models.items()]) for title, models in groups.items()]
    return [{"title": title, "models": models} for title, models in shown] if each else []
