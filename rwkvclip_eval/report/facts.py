"""What a report says about how its numbers were made, in words and pairs; shared by page and Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwkvclip_eval.metrics.intervals import AVERAGE_METHOD
from rwkvclip_eval.protocols import PROTOCOLS
from rwkvclip_eval.report.probe_facts import other_notes, probe_facts, spread_text
from rwkvclip_eval.report.versions import what_changed
from rwkvclip_eval.report.wording import STATUS_WORDS, dataset_version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rwkvclip_eval.records.schema import Record
    from rwkvclip_eval.report.curves import RegularisationCurve
    from rwkvclip_eval.report.loading import Entry
    from rwkvclip_eval.report.rows import Cell, Row

COVERS = (
    "An interval holds the draw of the test images, while model, classes and retrieval gallery stay as they "
    "are; that of a few-shot probe also the draws of its seeds: training images, validation images and thus "
    "λ. It does not hold the model's own training run, so that numbers describe these checkpoints, not "
    "training methods; nor, of a linear probe, its draw of train and validation images and its choice of λ; "
    "nor, of a k-NN probe, the draw of the images that vote."
)
"""Which variation is inside and which is not; said here and nowhere else in a report."""
READING = (
    "Intervals are 95 %: Wilson's, at the number of images that the data are worth (the captions of one "
    "image count together), and a score interval for mean per class. Each number's own method stands beside "
    "it. Simulated, they cover the truth in 93 to 97 of 100, and in more where they are called conservative.",
    COVERS,
    "A few-shot number has a score interval over seeds and test images, which covers in 93 to 99 of 100, the "
    "more the fewer its seeds are; one of a single seed has none.",
    f"An average is the plain mean over its datasets; its interval is {AVERAGE_METHOD}. It speaks of these "
    "datasets only.",
    "A lead is claimed only where the 95 % intervals do not overlap. Overlapping intervals do not show that "
    "two models are equal: a paired test on the predictions the run keeps can tell more.",
    "Never compare across protocols, dataset variants or task versions; subsets with full splits; incomplete "
    "averages with complete ones; or published numbers with these as if measured alike.",
    "Untrained models show what data, task and random weights give before any training, which for probes is "
    "more than chance; they are never called best.",
)


def protocol_texts(entries: Sequence[Entry]) -> dict[str, str]:
    """Return protocol → description for those in use; tasks of a plugin make of one what they say."""
    found: dict[str, str] = {}
    for entry in entries:
        r = entry.record
        if not r.task_description:
            found[r.protocol] = _description(r.protocol)
    return {e.record.protocol: found.get(e.record.protocol, "As its tasks describe it.") for e in entries}


def _description(name: str) -> str:
    """Return what a protocol means; options that differ from its own stand in brackets behind its name."""
    own, _, options = name.partition(" (")
    if own not in PROTOCOLS:
        return "A protocol this installation does not know."
    said = PROTOCOLS.get(own).description
    return f"{said} With {options.removesuffix(')')}." if options else said


def unit_metrics(entries: Iterable[Entry]) -> list[tuple[str, str, str, str, str]]:
    """Return metric, value, interval, n and interval method of each number of a unit."""
    rows = []
    for entry in entries:
        r = entry.record
        if r.value is None:
            continue
        metric = r.measure
        low, high = metric.text(r.ci_low), metric.text(r.ci_high)
        interval = f"{low}–{high}" if r.ci_low is not None and r.ci_high is not None else "none"
        method = "; ".join(filter(None, (_method(r), spread_text(r.notes)))) or "none"
        rows.append((metric.label, metric.text(r.value), interval, str(r.n or ""), method))
    return rows


def _method(r: Record) -> str:
    drawn = f"{r.ci_resamples:,} resamples, seed {r.ci_seed}" if r.ci_resamples else ""
    return ", ".join(filter(None, (r.ci_method, drawn, "conservative" if r.ci_conservative else "")))


def unit_facts(entry: Entry, curve: RegularisationCurve | None = None) -> list[tuple[str, str]]:
    """Return how the numbers of a unit were made.

    Args:
        entry: one of them.
        curve: of a probe's search for λ.
    """
    r, info = entry.record, entry.record.model_info
    facts = [
        ("status", "" if r.status == "ok" else f"{STATUS_WORDS[r.status]}: {r.reason}"),
        ("protocol", f"{r.protocol}, task version {r.task_version}"),
        ("dataset", f"{dataset_version(r)}, split {r.split}"),
        ("older version", what_changed(r)),
        ("checked", _checked(entry)),
        ("known differences", str(r.notes.get("differences", ""))),
        ("neighbours", str(r.notes.get("bank", ""))),
        ("left out", f"{r.num_missing} damaged images, as allowed" if r.num_missing else ""),
        ("source", r.dataset_source),
        ("dataset fingerprint", r.dataset_fingerprint),
        ("training data fingerprint", r.fit_fingerprint),
        ("prompt hash", r.prompt_hash),
        ("encoder", str(info.get("spec", ""))),
        ("encoder fingerprint", str(info.get("fingerprint", ""))),
        ("checkpoint SHA-256", str(info.get("checkpoint_sha256", ""))),
        ("weights", "" if entry.trained else "random, untrained"),
        ("precision", str(info.get("precision", ""))),
        ("implementation", " on ".join(str(info[k]) for k in ("implementation", "device") if info.get(k))),
        ("seconds", f"{r.seconds:.1f}" if r.seconds is not None else ""),
        *probe_facts(r.notes, curve),
        ("notes", "; ".join(f"{k} {v}" for k, v in flatten(_rest(r.notes)))),
        ("run", entry.run.name),
        ("ended", r.created_utc),
    ]
    return [(name, text) for name, text in facts if text]


def _rest(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the notes that no fact of their own tells."""
    return {k: v for k, v in other_notes(notes).items() if k not in ("differences", "bank")}


def _checked(entry: Entry) -> str:
    r = entry.record
    if r.status != "ok":
        return ""
    if r.subset:
        return "a subset of a split it uses"
    if r.own_copy:
        return "a copy of its own, without the images that the web has lost"
    return "expected counts of the catalogue" if r.verified else "unverified: no expected counts known"


def average_facts(row: Row, cell: Cell) -> list[tuple[str, str]]:
    """Return how an average was made."""
    covered = [d for d in row.datasets if d not in cell.missing]
    conservative = "; conservative, as one of them is" if cell.conservative else ""
    facts = [
        ("mean of", ", ".join(covered)),
        ("covers", f"{cell.coverage} datasets, so it is compared with nothing" if cell.missing else ""),
        ("leaves out", ", ".join(row.leaves_out)),
        ("missing", ", ".join(cell.missing)),
        ("95 % interval", f"{cell.interval}; {AVERAGE_METHOD}{conservative}" if cell.interval else "none"),
        ("older version", cell.older),
        ("ranked", f"no: {row.problem}" if row.problem else ""),
    ]
    return [(name, text) for name, text in facts if text]


_USUAL = ("", "—", "{}", "cosine")
"""What models say that state nothing, or what goes without saying."""


def model_facts(models: Sequence[str], infos: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return fact → its value for each model, leaving out facts that no model states."""
    names = list(dict.fromkeys(n for info in infos.values() for n in info if n not in ("name", "step_unit")))
    table = [(n.replace("_", " "), [_model_fact(infos.get(m, {}), n) for m in models]) for n in names]
    return [(name, values) for name, values in table if any(v not in _USUAL for v in values)]


def _model_fact(info: Mapping[str, Any], name: str) -> str:
    unit = str(info.get("step_unit", "")) if name == "step" else ""
    return f"{unit} {plain(info[name])}" if unit and info.get(name) is not None else plain(info.get(name))


def plain(value: object) -> str:
    """Return a JSON value as people write it."""
    if value is None or value == "":
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return str(value)


def flatten(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested facts as pairs of dotted name and text."""
    pairs: list[tuple[str, str]] = []
    for key, value in facts.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            pairs += flatten(value, f"{name}.")
        else:
            pairs.append((name.replace("_", " "), plain(value)))
    return pairs


def duration_text(seconds: float | None) -> str:
    """Return a duration in words."""
    if seconds is None:
        return "not finished"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
