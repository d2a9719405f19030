"""What stands where in the paper's tables: methods as rows, published ones and ours, datasets as columns.

Numbers are in per cent here. Nothing published is completed, and no win over it is claimed.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from rwkvclip_eval.records.published import AVERAGE, counterparts, read_published
from rwkvclip_eval.report.paper_layout import LAYOUTS, further_layout
from rwkvclip_eval.report.paper_measured import meant_version, measured_cell, measured_numbers
from rwkvclip_eval.report.paper_notes import metrics, notes
from rwkvclip_eval.report.paper_rows import RESOLVED, Difference, PaperCell, PaperRow, PaperTable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from rwkvclip_eval.records.published import PublishedRow
    from rwkvclip_eval.report.paper_layout import Column, Key, Layout
    from rwkvclip_eval.report.paper_measured import Measured
    from rwkvclip_eval.report.tables import Table

    Who = tuple[str, str, str]

PAPERS_DATA = "YFCC15M"
"""What the methods that the paper compares were trained on."""
_OTHERS = 2
_BY_CERTAINTY = ("published", "derived", "read_from_figure")


def paper_tables(
    tables: Sequence[Table],
    models: Collection[str] | None = None,
    rows: Sequence[PublishedRow] | None = None,
) -> list[PaperTable]:
    """Return those of the paper's tables of which something was measured, then what is published besides.

    Args:
        tables: those of the report.
        models: whose numbers to show; all by default.
        rows: the published numbers; those that are shipped by default.

    Raises:
        UserError: a shipped file does not fit.
    """
    every = read_published() if rows is None else rows
    tasks = {layout.published_task: layout.task for layout in LAYOUTS}
    tasks |= {row.task: row.record_task for row in every}
    measured = measured_numbers(tables, models)
    found = []
    for task, record_task in tasks.items():
        lines = [row for row in every if row.task == task and row.value]
        own = [one for one in measured if one.table.task == record_task]
        keys = dict.fromkeys(key for one in own for key in one.numbers)
        layouts = [layout for layout in LAYOUTS if layout.published_task == task]
        for layout in (*layouts, further_layout(task, record_task, keys, set(map(_key, lines)))):
            if layout.only_with.intersection(keys):
                found.append(_table(layout, own, lines))
    order = {layout.name: i for i, layout in enumerate(LAYOUTS)}
    return sorted(found, key=lambda table: order.get(table.name, len(order)))


def average_sets(lines: Iterable[PublishedRow]) -> dict[Who, frozenset[Key]]:
    """Return method, source and name of each published average → the datasets and metrics it is over.

    A source that prints an average prints its datasets too, except where the line is derived: that one is
    over the same datasets as the first other average of its name.

    Args:
        lines: of one task.
    """
    lines = list(lines)
    parts: dict[tuple[str, str], set[Key]] = {}
    for line in lines:
        if line.dataset != AVERAGE:
            parts.setdefault((line.who, line.source), set()).add(_key(line))
    averages = [line for line in lines if line.dataset == AVERAGE]
    named: dict[str, set[Key]] = {}
    for line in averages:
        if own := parts.get((line.who, line.source)):
            named.setdefault(line.metric, own)
    return {
        (line.who, line.source, line.metric): frozenset(
            parts.get((line.who, line.source)) or named.get(line.metric, set())
        )
        for line in averages
    }


def _key(line: PublishedRow) -> Key:
    return line.dataset.partition("@")[0], line.metric


def _table(layout: Layout, measured: Sequence[Measured], lines: Sequence[PublishedRow]) -> PaperTable:
    ours, of_models = [], []
    for one in measured:
        cells = tuple(measured_cell(one, column) for column in layout.columns)
        if any(cell.value is not None for cell in cells):
            record = one.record
            precision = str(record.model_info.get("precision", "")) if record else ""
            row = PaperRow(
                method=one.model,
                protocol=one.table.protocol,
                precision=precision,
                cells=cells,
                measured=True,
                subset=one.table.subset,
                trained=all(cell.trained for _, cell in one.numbers.values()),
            )
            ours.append(row)
            of_models.append(str(record.model_info.get("spec") or record.model) if record else "")
    alike = {
        row.method: list(dict.fromkeys(line.who for line in counterparts(spec, lines)))
        for row, spec in zip(ours, of_models, strict=True)
        if row.trained
    }
    compared = {who for found in alike.values() for who in found}
    published, sources = _published(layout.columns, lines, ours, compared)
    told = {row.method for row in published}
    alike = {model: [who for who in found if who in told] for model, found in alike.items()}
    ours = [_held_against(row, alike.get(row.method, ()), published, layout.columns) for row in ours]
    ours = _with_bold(ours, published)
    kept = [
        i
        for i, column in enumerate(layout.columns)
        if not column.optional or any(row.cells[i].value is not None for row in ours)
    ]
    columns = tuple(layout.columns[i] for i in kept)
    published = [_of_columns(row, kept) for row in published]
    published = [row for row in published if any(cell.value is not None for cell in row.cells)]
    ours = [_of_columns(row, kept) for row in ours]
    specs = dict(zip((row.method for row in ours), of_models, strict=True))
    return PaperTable(
        name=layout.name,
        title=layout.title,
        columns=columns,
        published=tuple(published),
        measured=tuple(ours),
        metrics=metrics(columns),
        notes=notes(columns, published, ours, alike, specs),
        sources=tuple(sources),
        task=layout.task,
    )


def _of_columns(row: PaperRow, kept: Sequence[int]) -> PaperRow:
    cells = tuple(row.cells[i] for i in kept)
    differences = tuple(row.differences[i] for i in kept) if row.differences else ()
    return dataclasses.replace(row, cells=cells, differences=differences)


def _published(
    columns: Sequence[Column], lines: Sequence[PublishedRow], ours: Sequence[PaperRow], alike: Collection[str]
) -> tuple[list[PaperRow], list[str]]:
    """Return the rows of published numbers, those that the paper compares first, and their sources.

    Args:
        columns: of the table.
        lines: published numbers of its task.
        ours: the measured rows.
        alike: methods that a model shown may be.
    """
    sets = average_sets(lines)
    places: dict[object, int] = {column.over or column.key: i for i, column in enumerate(columns)}
    versions = [{v for row in ours for v in row.cells[i].versions} for i in range(len(columns))]
    methods: dict[Who, dict[int, PublishedRow]] = {}
    elsewhere: set[tuple[str, int]] = set()
    for line in lines:
        methods.setdefault((line.who, line.protocol, line.precision), {})
    for line in sorted(lines, key=lambda line: _BY_CERTAINTY.index(line.status)):
        of_average = sets.get((line.who, line.source, line.metric)) if line.dataset == AVERAGE else None
        place = places.get(of_average or _key(line))
        # A number of a named version stands beside that version only.
        if place is not None and ("@" not in line.dataset or line.dataset in versions[place]):
            methods[line.who, line.protocol, line.precision].setdefault(place, line)
        elif place is not None:
            elsewhere.add((line.who, place))
    rows: list[PaperRow] = []
    sources: list[str] = []
    told = [(_place(who[0], own, alike), who, own) for who, own in methods.items() if own]
    for at, (who, protocol, precision), own in sorted(told, key=lambda one: one[0]):
        used = list(dict.fromkeys(own[i].where_from for i in sorted(own)))
        sources += [source for source in used if source not in sources]
        cells = tuple(
            _printed(own[i], column)
            if i in own
            else PaperCell(status="other_version" if (who, i) in elsewhere else "not_published")
            for i, column in enumerate(columns)
        )
        row = PaperRow(
            method=who,
            protocol=protocol,
            precision=precision,
            cells=cells,
            compared=at < _OTHERS,
            sources=tuple(sources.index(source) + 1 for source in used),
        )
        rows.append(row)
    return rows, sources


def _place(who: str, own: Mapping[int, PublishedRow], alike: Collection[str]) -> int:
    """Return where a row stands: what the paper compares, then what a model shown may be, then others."""
    if next(iter(own.values())).pretrain_data == PAPERS_DATA:
        return 0
    return 1 if who in alike else _OTHERS


def _printed(line: PublishedRow, column: Column) -> PaperCell:
    if "@" in line.dataset:
        versions = [line.dataset]
    else:
        datasets = sorted(dataset for dataset, _ in column.over) if column.over else [column.dataset]
        versions = [meant_version(line.protocol, dataset) for dataset in datasets]
    return PaperCell(
        value=line.number,
        status=line.status,
        printed=line.value,
        versions=tuple(filter(None, versions)),
    )


def _held_against(
    row: PaperRow, methods: Iterable[str], published: Sequence[PaperRow], columns: Sequence[Column]
) -> PaperRow:
    """Return a measured row with its differences to the first of `methods` that has any."""
    for method in methods:
        for other in (each for each in published if each.method == method):
            pairs = zip(row.cells, other.cells, columns, strict=True)
            differences = tuple(_difference(own, theirs, column) for own, theirs, column in pairs)
            if any(differences):
                return dataclasses.replace(
                    row, against=method, against_protocol=other.protocol, differences=differences
                )
    return row


def _difference(own: PaperCell, theirs: PaperCell, column: Column) -> Difference | None:
    if own.value is None or theirs.value is None or own.apart or not column.metric.in_percent:
        return None
    if not set(theirs.versions) <= set(own.versions):
        return None
    low = None if own.low is None else own.low - theirs.value
    high = None if own.high is None else own.high - theirs.value
    resolved = None if own.low is None or own.high is None else RESOLVED * (own.high - own.low) / 2
    return Difference(
        value=own.value - theirs.value,
        low=low,
        high=high,
        resolved=resolved,
        about=theirs.status == "read_from_figure",
    )


def _with_bold(ours: Sequence[PaperRow], published: Sequence[PaperRow]) -> list[PaperRow]:
    """Return measured rows with the numbers in bold that are better than every other row's, intervals apart.

    Subsets are compared with nothing; nor are numbers of several versions of a dataset. Where one model alone
    was measured nothing is in bold: that would claim a win over what others published.
    """
    judged = [row for row in ours if not row.subset]
    rows = [*published, *judged]
    rivals = [
        sum(row.trained and row.cells[i].value is not None for row in judged) > 1
        for i in range(len(judged[0].cells) if judged else 0)
    ]
    return [
        dataclasses.replace(
            row,
            cells=tuple(
                dataclasses.replace(
                    cell,
                    bold=row.trained
                    and not row.subset
                    and rivals[i]
                    and _leads(cell, [other.cells[i] for other in rows if other is not row]),
                )
                for i, cell in enumerate(row.cells)
            ),
        )
        for row in ours
    ]


def _leads(cell: PaperCell, others: Iterable[PaperCell]) -> bool:
    able = [other for other in others if other.value is not None]
    if cell.low is None or cell.apart or cell.older or cell.problem or not able:
        return False
    if not all(_same_versions(cell, other) for other in able):
        return False
    ends = [other.value if other.high is None else other.high for other in able]
    return all(end is not None and cell.low > end for end in ends)


def _same_versions(own: PaperCell, other: PaperCell) -> bool:
    """Return whether both are of the same versions; of a published number not all need be known."""
    if other.status == "ok":
        return own.versions == other.versions
    return set(other.versions) <= set(own.versions)
