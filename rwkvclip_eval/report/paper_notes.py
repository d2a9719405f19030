"""What is said of the paper's tables: how to read them, and what sets their numbers apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.records.published import UNKNOWN, checkpoint_spec
from rwkvclip_eval.report.paper_rows import RESOLVED
from rwkvclip_eval.report.tables import TIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rwkvclip_eval.report.paper_layout import Column
    from rwkvclip_eval.report.paper_rows import PaperRow, PaperTable

_MAX_NAMES = 4


def reading(tables: Sequence[PaperTable]) -> tuple[str, ...]:
    """Return how to read tables, a paragraph each; nothing of what stands in none of them."""
    seen = [_seen(table) for table in tables]
    figure, delta, noise, bold = (any(one) for one in zip(*seen, strict=True)) if seen else (False,) * 4
    about = " (~: read from a figure)" if figure else ""
    said = [
        f"Per cent. Published numbers come first, as their sources print them{about}, then those measured "
        "here, ± the farther end of their 95 % intervals. A cell is empty where nothing was published, or "
        "measured; an average stands where each of its datasets has its number."
    ]
    if delta:
        approximate = " ≈: smaller than that, inside the noise." if noise else ""
        said.append(
            "Δ: measured less published, in points, ± as measured, since nothing is known of the published "
            "number's own spread. In brackets: the smallest difference that the set resolves, "
            f"{RESOLVED:.2f} half widths, which two models judged on draws of their own show with 80 % power "
            f"(α 5 %, two-sided).{approximate} No win over a published number is claimed, however large Δ is."
        )
    if bold:
        said.append(
            "Bold: of several models measured here, better than every other row's number by more than their "
            "intervals; over a published one no win is claimed."
        )
    return tuple(said)


def caption(table: PaperTable) -> str:
    """Return the same in a few words, for a caption."""
    figure, delta, noise, bold = _seen(table)
    said = [
        f"Per cent. Above the rule: published, as printed{' (~: read from a figure)' * figure}. Below: "
        "measured, ± the farther end of the 95 % interval."
    ]
    if delta:
        said.append(
            "Δ: measured less published; in brackets the smallest difference that the set resolves"
            f"{'; ≈: smaller than that' * noise}."
        )
    if bold:
        said.append("Bold: better than every other row by more than the intervals.")
    return " ".join([*said, "Empty: not published, or not measured."])


def _seen(table: PaperTable) -> tuple[bool, bool, bool, bool]:
    """Return whether a table has numbers read from figures, differences, such inside the noise, and bold."""
    cells = [cell for row in (*table.published, *table.measured) for cell in row.cells]
    found = [each for row in table.measured for each in row.differences if each is not None]
    figure = any(c.status == "read_from_figure" for c in cells) or any(each.about for each in found)
    return figure, bool(found), any(each.noise for each in found), any(c.bold for c in cells)


def notes(
    columns: Sequence[Column],
    published: Sequence[PaperRow],
    measured: Sequence[PaperRow],
    alike: Mapping[str, Sequence[str]],
    specs: Mapping[str, str],
) -> tuple[str, ...]:
    """Return what the reader must know of a table, a sentence each.

    Args:
        columns: of the table.
        published: rows.
        measured: rows.
        alike: model → published methods that it may be.
        specs: model → its spec.
    """
    return (
        *(_alike(model, specs.get(model, ""), methods) for model, methods in alike.items() if methods),
        *_protocols(published, measured, alike),
        *_versions(columns, published, measured),
        *_apart(columns, measured),
        *_ties(columns, measured),
        *_remarks(columns, measured),
    )


def metrics(columns: Sequence[Column]) -> tuple[str, ...]:
    """Return which metric each dataset is judged by, in a sentence; nothing where the heads say it."""
    found: dict[str, list[str]] = {}
    for column in columns:
        if column.dataset and not column.groups:
            found.setdefault(column.metric.title, []).append(column.title)
    first, *others = sorted(found, key=lambda title: -len(found[title])) or [""]
    told = [f"{title} of {', '.join(found[title])}" for title in others]
    return (f"Metric: {'; '.join([first, *told])}.",) if first else ()


def _alike(model: str, spec: str, methods: Sequence[str]) -> str:
    """Return which published methods a model may be; more than one unless its weights are released ones."""
    open_one = len(methods) > 1 and checkpoint_spec(spec) not in methods
    doubt = "; which of them, its checkpoint does not say, and Δ is to the first" if open_one else ""
    return f"Published counterparts of {model}: {'; '.join(methods)}{doubt}."


def _protocols(
    published: Iterable[PaperRow], measured: Sequence[PaperRow], alike: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Yield a sentence on the published counterparts that are not known to be of the run's protocols."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for row in published:
        ours = [own for own in measured if row.method in alike.get(own.method, ())[:1]]
        others = tuple(dict.fromkeys(own.protocol for own in ours if own.protocol != row.protocol))
        if others:
            found.setdefault((row.protocol, others), []).append(row.method)
    for (protocol, others), methods in found.items():
        who, here = " and of ".join(methods), " and ".join(others)
        if protocol == UNKNOWN:
            yield (
                f"Nobody says under which protocol the published numbers of {who} were made; here it was "
                f"{here}, and Δ holds what a change of protocol would do."
            )
        else:
            yield (
                f"The published numbers of {who} probably came from protocol {protocol}, not from {here} as "
                "measured here: both are shown, and Δ holds the change."
            )


def _versions(
    columns: Sequence[Column], published: Sequence[PaperRow], measured: Sequence[PaperRow]
) -> Iterator[str]:
    """Yield a sentence for each dataset of which the numbers of a column are of several versions."""
    rows = [*measured, *published]
    for i, column in enumerate(columns):
        found: dict[str, dict[str, None]] = {}
        for row in rows if column.dataset else ():
            cell = row.cells[i]
            usual = (column.dataset,) if cell.status == "ok" else ()
            who = f"measured under {row.protocol}" if row.measured else row.method
            for version in cell.versions or usual:
                found.setdefault(version, {})[who] = None
        if len(found) > 1:
            told = "; ".join(f"{version}: {_some(list(names))}" for version, names in found.items())
            yield (
                f"{column.title} is of several versions ({told}), which are not compared with each other, "
                "nor are averages with it."
            )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


def _apart(columns: Sequence[Column], measured: Iterable[PaperRow]) -> Iterator[str]:
    """Yield which measured numbers are not held against published ones, and why; once a reason."""
    found: dict[str, dict[str, None]] = {}
    for row in measured:
        for column, cell in zip(columns, row.cells, strict=True):
            if cell.apart:
                found.setdefault(cell.apart, {})[row.label if row.subset else column.title] = None
            elif cell.status == "several_versions":
                found.setdefault("measured on several versions, none of which is meant", {})[column.title] = (
                    None
                )
    for reason, names in found.items():
        yield f"Not held against published numbers ({reason}): {', '.join(names)}."


def _ties(columns: Sequence[Column], measured: Iterable[PaperRow]) -> Iterator[str]:
    """Yield which numbers equal logits leave open by more than their intervals tell."""
    told = [
        f"{column.title} of {row.label} could be any number in {cell.ties}"
        for row in measured
        for column, cell in zip(columns, row.cells, strict=True)
        if cell.ties
    ]
    if told:
        yield f"{'; '.join(told)}. {TIES}"


def _remarks(columns: Sequence[Column], measured: Iterable[PaperRow]) -> Iterator[str]:
    """Yield how measured numbers differ from what their protocol follows, once a remark."""
    found: dict[str, dict[str, None]] = {}
    for row in measured:
        for column, cell in zip(columns, row.cells, strict=True):
            if cell.remark:
                found.setdefault(cell.remark, {})[f"{column.title} ({row.protocol})"] = None
    for said, names in found.items():
        yield f"{', '.join(names)}: {said}"
