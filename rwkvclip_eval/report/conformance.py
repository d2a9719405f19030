"""Whether a run's numbers are those that were published of the very same checkpoints.

A number conforms where it differs from the published one by no more than 0.1 point, or than two images count:
of the same metric, protocol, version of the set, class names and templates, on all images, in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rwkvclip_eval.protocols import PROTOCOLS
from rwkvclip_eval.records.published import AVERAGE, checkpoint_spec
from rwkvclip_eval.records.titles import version_title
from rwkvclip_eval.report.wording import dataset_version

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rwkvclip_eval.records.metrics import Metric
    from rwkvclip_eval.records.published import PublishedRow
    from rwkvclip_eval.records.schema import Record

Verdict = Literal["conforms", "differs", "not judged"]

ALLOWED_POINTS = 0.1
ALLOWED_IMAGES = 2
_ROUNDING = 1e-9
_FULL = "fp32"
_JUDGED = tuple(name for name in PROTOCOLS if PROTOCOLS.get(name).keeps_reference_prompts)
"""Protocols whose records say whose prompts they have."""
HEAD = (
    *("checkpoint", "dataset", "metric", "published, %", "measured, %", "difference", "allowed", "verdict"),
    *("difference at half precision", "remark"),
)
BRIEF_HEAD = HEAD[:8]
"""Without what would be too wide for a terminal; `reasons` has it below the table."""
RULE = (
    f"A number conforms where it differs from the published one by at most {ALLOWED_POINTS} point, or by "
    f"what {ALLOWED_IMAGES} images count: of the same checkpoint, metric, protocol, version of the set, "
    "class names and templates, on all images, in fp32. Half precision and parts of sets are not judged."
)


@dataclass(frozen=True, kw_only=True)
class Conformance:
    """One number of a run beside the published one of the same checkpoint.

    Attributes:
        dataset: record name, with its variant.
        metric: what both are.
        measured: fraction.
        precision: of the run.
        num_images: that were judged.
        published: the row.
        unjudged: why it is not judged; empty where it is.
        remark: what the reader must know of the comparison.
    """

    dataset: str
    metric: Metric
    measured: float
    precision: str
    num_images: int
    published: PublishedRow
    unjudged: str = ""
    remark: str = ""

    @property
    def difference(self) -> float:
        """Measured less published, in points (per cent)."""
        assert self.published.number is not None
        return 100 * self.measured - self.published.number

    @property
    def allowed(self) -> float:
        """Largest difference that conforms, in points."""
        return max(ALLOWED_POINTS, 100 * ALLOWED_IMAGES / self.num_images)

    @property
    def half(self) -> bool:
        """Whether it was measured in other arithmetic than fp32, where nothing is claimed."""
        return self.precision != _FULL

    @property
    def verdict(self) -> Verdict:
        """Whether it conforms."""
        if self.unjudged:
            return "not judged"
        return "conforms" if abs(self.difference) <= self.allowed + _ROUNDING else "differs"

    @property
    def title(self) -> str:
        """Of the dataset."""
        return version_title(self.dataset)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Why it is not judged, and what else to know."""
        return tuple(filter(None, (self.unjudged, self.remark)))

    @property
    def cells(self) -> tuple[str, ...]:
        """A text for each column of `HEAD`."""
        difference = f"{self.difference:+.2f}"
        return (
            self.published.method,
            self.title,
            self.metric.title,
            self.published.text,
            f"{100 * self.measured:.2f}",
            "" if self.half else difference,
            f"{self.allowed:.2f}",
            self.verdict,
            f"{difference} ({self.precision})" if self.half else "",
            "; ".join(self.remarks),
        )

    @property
    def text(self) -> str:
        """The set and the difference, in a sentence."""
        return (
            f"{self.published.method}, {self.title}, {self.metric.title}: {100 * self.measured:.2f} "
            f"measured, {self.published.text} published; {self.difference:+.2f} points, {self.allowed:.2f} "
            "allowed."
        )


def other_protocols(records: Iterable[Record], rows: Iterable[PublishedRow]) -> list[str]:
    """Return which numbers are compared with nothing since only their protocol does not fit, a line each.

    Args:
        records: of runs, as read.
        rows: published numbers.
    """
    published: dict[tuple[str, ...], dict[str, None]] = {}
    for row in rows:
        if row.value and row.dataset != AVERAGE and row.measure.in_percent:
            key = (row.method, row.record_task, row.dataset, row.metric)
            published.setdefault(key, {})[row.protocol] = None
    unfit: dict[tuple[str, str, tuple[str, ...]], int] = {}
    for record in filter(_comparable, records):
        own = _key(record)
        protocol, theirs = own[-1], tuple(published.get(own[:-1], ()))
        if theirs and protocol not in theirs:
            case = (own[0], protocol, theirs)
            unfit[case] = unfit.get(case, 0) + 1
    return [
        f"{spec}: {count} {'number is' if count == 1 else 'numbers are'} under protocol {ours}, published "
        f"under {', '.join(theirs)}; numbers of different protocols are not compared."
        for (spec, ours, theirs), count in unfit.items()
    ]


def _comparable(record: Record) -> bool:
    return bool(
        record.status == "ok" and record.value is not None and record.n and record.split in ("", "test")
    )


def conformance(records: Iterable[Record], rows: Iterable[PublishedRow]) -> list[Conformance]:
    """Return each number of which one is published of the same checkpoint, set, metric and protocol.

    Args:
        records: of runs, as read.
        rows: published numbers; those of checkpoints are found by their `method`, a spec.
    """
    of_checkpoints: dict[tuple[str, ...], list[PublishedRow]] = {}
    for row in rows:
        if row.value and row.dataset != AVERAGE and row.measure.in_percent:
            key = (row.method, row.record_task, row.dataset, row.metric, row.protocol)
            of_checkpoints.setdefault(key, []).append(row)
    return [
        _compared(record, row)
        for record in filter(_comparable, records)
        for row in of_checkpoints.get(_key(record), ())
    ]


def _key(record: Record) -> tuple[str, ...]:
    spec = checkpoint_spec(str(record.model_info.get("spec") or record.model))
    return spec, record.task, dataset_version(record), record.metric, record.protocol


def _compared(record: Record, row: PublishedRow) -> Conformance:
    assert record.value is not None and record.n
    own_names = record.notes.get("reference_class_names")
    remarks = (
        f"class names are {own_names}, which copies may spell otherwise" if own_names else "",
        f"published at {row.precision}" if row.precision not in (_FULL, "unknown") else "",
    )
    return Conformance(
        dataset=dataset_version(record),
        metric=record.measure,
        measured=record.value,
        precision=str(record.model_info.get("precision") or "unknown precision"),
        num_images=int(record.notes.get("num_images") or record.n),
        published=row,
        unjudged=_why_not(record, row),
        remark="; ".join(filter(None, remarks)),
    )


def _why_not(record: Record, row: PublishedRow) -> str:
    """Return why a number is not judged; empty where it can be."""
    if record.subset or record.own_copy:
        return f"a part of the set ({record.n} judged)"
    if record.num_missing:
        return f"{record.num_missing} damaged images left out"
    if not record.verified:
        return "the whole set's number of images is not known"
    reference = record.notes.get("reference_prompt_hash")
    if not reference:
        name = record.protocol.partition(" (")[0]
        if name in PROTOCOLS and not PROTOCOLS.get(name).keeps_reference_prompts:
            return (
                f"under protocol {name} nothing says whose prompts a number has; only numbers of "
                f"{', '.join(_JUDGED)} are judged"
            )
        return (
            "whose prompts it has is not in the record: it is of before that was kept, and then a run into a "
            "new folder tells (stored features are used); or clip-benchmark has none, and nothing tells"
        )
    if record.prompt_hash != reference:
        return "other class names or templates than clip-benchmark's"
    if row.status != "published":
        return f"the published number was {row.status.replace('_', ' ')}"
    precision = record.model_info.get("precision")
    return "" if precision == _FULL else f"half precision is not judged ({precision or 'unknown'})"


def reasons(found: Iterable[Conformance]) -> list[str]:
    """Return every remark once, with the datasets that it is of."""
    of_remark: dict[str, dict[str, None]] = {}
    for one in found:
        for remark in one.remarks:
            of_remark.setdefault(remark, {})[one.title] = None
    return [f"{', '.join(titles)}: {remark}." for remark, titles in of_remark.items()]


def summary(found: Sequence[Conformance], rows: Iterable[PublishedRow] = ()) -> list[str]:
    """Return the outcome in lines: the counts, then every set that differs, with its difference.

    Args:
        found: what was compared.
        rows: the published numbers, to count those of the same checkpoints that the run has none for.
    """
    count = {verdict: sum(one.verdict == verdict for one in found) for verdict in ("conforms", "differs")}
    judged = count["conforms"] + count["differs"]
    methods, had = {one.published.method for one in found}, {id(one.published) for one in found}
    lacking = sum(row.method in methods and id(row) not in had and bool(row.value) for row in rows)
    conform = f"{count['conforms']} of {judged} judged numbers conform."
    lines = [conform if judged else "No number could be judged."]
    if len(found) > judged:
        lines.append(f"Not judged: {len(found) - judged}, for the reasons beside them.")
    if lacking:
        lines.append(f"Published of these checkpoints and not measured here: {lacking}.")
    return lines + [f"Differs: {one.text}" for one in found if one.verdict == "differs"]
