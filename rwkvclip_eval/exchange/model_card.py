"""A model's results as its Hugging Face model card: README.md with model-index, and `.eval_results/*.yaml`.

Both are written through huggingface_hub's own classes. The model-index is read by the hub's model pages; an
entry of `.eval_results` also stands on the leaderboard of its dataset, where that is a benchmark whose tasks
have these ids (https://huggingface.co/docs/hub/eval-results). Only what can be offered as a result is: no
subset, no number of another tool, nothing that failed. Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.data.catalogue import catalogue
from rwkvclip_eval.errors import UserError, shortened
from rwkvclip_eval.exchange.clip_benchmark import is_imported
from rwkvclip_eval.printable import one_line
from rwkvclip_eval.records.schema import folder_name
from rwkvclip_eval.records.titles import TASK_TITLES
from rwkvclip_eval.registry import unknown_name
from rwkvclip_eval.report.facts import COVERS
from rwkvclip_eval.report.formats.markdown_text import escape_markdown
from rwkvclip_eval.report.wording import STATUS_WORDS, dataset_title, dataset_version
from rwkvclip_models.disk import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from huggingface_hub import EvalResult, EvalResultEntry, ModelCard

    from rwkvclip_eval.records.schema import Record
    from rwkvclip_eval.report.loading import Entry, Loaded

BEGIN, END = "<!-- rwkvclip-eval: begin -->", "<!-- rwkvclip-eval: end -->"
"""Stand around what belongs to this suite in a README, and is replaced by a later upload."""
EVAL_RESULTS = ".eval_results"
_DIGITS = 2
"""Of per cents: the smallest step of ImageNet's 50,000 images is 0.002."""
_HUB_TASKS = {
    "zero_shot_classification": ("zero-shot-image-classification", "Zero-Shot Image Classification"),
    "zero_shot_retrieval": ("image-text-retrieval", "Image-Text Retrieval"),
    "linear_probe": ("image-classification", "Image Classification"),
    "few_shot_linear_probe": ("image-classification", "Image Classification"),
    "knn_probe": ("image-classification", "Image Classification"),
}
"""Task → type and name that cards give it."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a card of one model says.

    Attributes:
        model: column title of the model.
        offered: its results.
        left_out: dataset and why it is not among them.
        suite_version: of this package, as the runs recorded it.
    """

    model: str
    offered: tuple[Entry, ...]
    left_out: tuple[tuple[str, str], ...]
    suite_version: str


def results_of(loaded: Loaded, model: str) -> Results:
    """Return what of a model's numbers can be offered as results.

    Raises:
        UserError: there is no such model, its weights are random, or none of its numbers can.
    """
    own = [entry for entry in loaded.entries if entry.model == model]
    if not own:
        raise UserError(unknown_name("model of these runs", model, loaded.models))
    if not all(entry.trained for entry in own):
        raise UserError(f"{model} has random weights; a model card is for trained ones.")
    offered: list[Entry] = []
    left_out: dict[tuple[str, str], None] = {}
    for entry in own:
        if why := _why_not(entry.record):
            left_out[dataset_title(entry), why] = None
        else:
            offered.append(entry)
    if not offered:
        reasons = "; ".join(f"{dataset}: {why}" for dataset, why in left_out)
        raise UserError(f"{model} has no result that a card can offer: {shortened(reasons, 1000)}.")
    versions = {_suite_version(entry): None for entry in offered}
    return Results(
        model=model,
        offered=tuple(offered),
        left_out=tuple(left_out),
        suite_version=", ".join(versions),
    )


def _why_not(record: Record) -> str:
    """Return why a number is no result to be offered; nothing where it is."""
    if record.status != "ok":
        return STATUS_WORDS[record.status]
    if is_imported(record):
        return "read from another tool's file"
    return "a subset" if record.subset else ""


def _suite_version(entry: Entry) -> str:
    packages = entry.run.info.environment.get("packages") if entry.run.info else None
    version = packages.get("rwkvclip-eval") if isinstance(packages, dict) else None
    return f"rwkvclip-eval {version or 'of an unknown version'}"


def _number(record: Record, value: float | None) -> float | None:
    """Return a value as cards show it: fractions in per cent."""
    if value is None:
        return None
    return round(100 * value, _DIGITS) if record.measure.in_percent else round(value, 4)


def _text(record: Record, value: float | None) -> str:
    """Return a value as the card's text shows it, always with as many decimals."""
    number = _number(record, value)
    if number is None:
        return ""
    return f"{number:.{_DIGITS}f}" if record.measure.in_percent else f"{number:g}"


def _interval(record: Record) -> str:
    """Return the interval in words."""
    low, high = (_text(record, end) for end in (record.ci_low, record.ci_high))
    if not (low and high):
        return "no interval"
    conservative = ", conservative" if record.ci_conservative else ""
    return f"95 % interval {low} to {high} ({record.ci_method}{conservative})"


def _how(entry: Entry) -> list[str]:
    """Return how a number was made, in words."""
    r = entry.record
    return [
        _interval(r),
        f"n = {r.n:,}" if r.n else "",
        f"split {r.split}",
        f"protocol {r.protocol}",
        f"prompts {r.prompt_hash[:12]}" if r.prompt_hash else "",
        f"{r.num_missing} damaged images left out" if r.num_missing else "",
        "a copy of its own, without the images that the web has lost" if r.own_copy else "",
        f"{_suite_version(entry)}, task version {r.task_version}",
    ]


def eval_result(entry: Entry) -> EvalResult:
    """Return a number as an entry of a card's model-index."""
    from huggingface_hub import EvalResult

    r = entry.record
    task_type, task_name = _HUB_TASKS.get(r.task, ("other", _task_title(r)))
    said = "; ".join(filter(None, _how(entry)))
    facts: dict[str, Any] = {
        "protocol": r.protocol,
        "n": r.n,
        "ci_low": _number(r, r.ci_low),
        "ci_high": _number(r, r.ci_high),
        "ci_method": r.ci_method,
        "prompt_hash": r.prompt_hash,
        "dataset_fingerprint": r.dataset_fingerprint,
        "task": r.task,
        "task_version": r.task_version,
        "suite_version": _suite_version(entry),
    }
    return EvalResult(
        task_type=task_type,
        task_name=task_name,
        dataset_type=_hub_dataset(r) or one_line(r.dataset),
        dataset_name=one_line(_dataset_name(r)),
        dataset_config=one_line(r.variant),
        dataset_split=one_line(r.split),
        metric_type=r.metric,
        metric_name=one_line(f"{_task_title(r)}: {r.measure.label} ({said})"),
        metric_value=_number(r, r.value),
        metric_args={
            name: one_line(value) if isinstance(value, str) else value
            for name, value in facts.items()
            if value not in (None, "")
        },
    )


def _task_title(record: Record) -> str:
    return TASK_TITLES.get(record.task, record.task.replace("_", " "))


def _dataset_name(record: Record) -> str:
    known = catalogue().get(record.dataset)
    variant = "" if record.variant in ("", "default") else f" ({record.variant})"
    return f"{known.title if known else record.dataset}{variant}"


def _hub_dataset(record: Record) -> str:
    """Return the hub's repository of a dataset as the catalogue knows it; empty where it knows none."""
    known = catalogue().get(record.dataset)
    if known is None or not known.has_variant(record.variant):
        return ""
    variant = known.variant(record.variant)
    return next(iter(variant.hub), variant.hugging_face.path if variant.hugging_face else "")


def eval_files(results: Results, source: str | None = None) -> dict[str, list[EvalResultEntry]]:
    """Return file name below `.eval_results` → its entries: the primary numbers of one dataset and protocol.

    Datasets that the hub does not have are left out: an entry names its dataset's repository there.

    Args:
        results: what the card says.
        source: address of the repository that holds the card.
    """
    from huggingface_hub import EvalResultEntry

    files: dict[str, list[EvalResultEntry]] = {}
    for entry in results.offered:
        r = entry.record
        if not r.primary or not (repository := _hub_dataset(r)):
            continue
        name = folder_name(dataset_version(r), r.split, r.task, r.protocol)
        one = EvalResultEntry(
            dataset_id=repository,
            task_id=f"{r.task}.{r.metric}",
            value=_number(r, r.value),
            date=r.created_utc or None,
            source_url=source,
            source_name="Model card" if source else None,
            notes=one_line("; ".join(filter(None, (r.measure.label, *_how(entry))))),
        )
        files.setdefault(f"{name}.yaml", []).append(one)
    return files


def model_card(results: Results) -> ModelCard:
    """Return the card: metadata with every result, and a text with the same in words."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        model_name=one_line(results.model),
        tags=["clip", "rwkvclip-eval"],
        eval_results=[eval_result(entry) for entry in results.offered],
    )
    title = escape_markdown(results.model)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {title}\n\n{body(results)}\n")


def body(results: Results) -> str:
    """Return what the card says of the results, in Markdown, between the two marks."""
    esc = escape_markdown
    infos = {entry.run.name: entry.run.info for entry in results.offered if entry.run.info}
    first = results.offered[0].record.model_info
    facts = [
        ("model", first.get("spec")),
        ("checkpoint SHA-256", first.get("checkpoint_sha256")),
        ("precision", first.get("precision")),
        *(("suite", f"{info.suite_name}, SHA-256 {info.suite_sha256[:12]}") for info in infos.values()),
        ("made with", results.suite_version),
    ]
    told = dict.fromkeys(f"- {esc(name)}: {esc(str(value))}" for name, value in facts if value)
    parts = [
        BEGIN,
        "## Evaluation",
        f"Measured with {esc(results.suite_version)}. Accuracies and recalls in per cent.",
        _grid(
            [_row(entry) for entry in results.offered],
            (
                "Task",
                "Dataset",
                "Split",
                "Metric",
                "Value",
                "Interval",
                "n",
                "Protocol",
                "Prompts",
                "Version",
            ),
        ),
        esc(COVERS),
        "Do not compare numbers of different protocols, dataset variants or prompts.",
        "\n".join(told),
    ]
    differences = {
        f"- {esc(dataset_title(entry))}, {esc(entry.record.protocol)}: {esc(str(said))}": None
        for entry in results.offered
        if (said := entry.record.notes.get("differences"))
    }
    if differences:
        parts += ["Known differences from the code that a protocol follows:", "\n".join(differences)]
    if results.left_out:
        parts += [
            "Not offered as results:",
            "\n".join(f"- {esc(dataset)}: {esc(why)}" for dataset, why in results.left_out),
        ]
    return "\n\n".join((*parts, END))


_HEAD = "Task", "Dataset", "Split", "Metric", "Value", "Interval", "n", "Protocol", "Prompts", "Task version"


def _row(entry: Entry) -> list[str]:
    r = entry.record
    return [
        _task_title(r),
        _dataset_name(r),
        r.split,
        r.measure.label,
        _text(r, r.value),
        _interval(r),
        f"{r.n:,}" if r.n else "—",
        r.protocol,
        r.prompt_hash[:12] or "—",
        str(r.task_version),
    ]


def _grid(rows: Iterable[Sequence[str]], head: Sequence[str]) -> str:
    from tabulate import tabulate

    cells = [[escape_markdown(cell) for cell in row] for row in rows]
    return tabulate(cells, head, tablefmt="pipe", disable_numparse=True)


def _yaml(entries: Sequence[Mapping[str, Any]]) -> str:
    import yaml

    return yaml.safe_dump(list(entries), sort_keys=False, allow_unicode=True, width=100)


def write_model_cards(
    loaded: Loaded, out: Path, models: Sequence[str] = (), repository: str | None = None
) -> Mapping[str, Path]:
    """Write a card of each model into a folder of its own below `out`; return model → folder.

    Args:
        loaded: the runs.
        out: holds the folders.
        models: column titles; all by default.
        repository: `owner/name` that the only card is for; its results then name it as their source.

    Raises:
        UserError: there is no such model, it has nothing to offer, or several are for one repository.
        OutputError: `out` cannot be written.
    """
    from huggingface_hub import constants, eval_result_entries_to_yaml

    chosen = list(dict.fromkeys(models)) or loaded.models
    if repository is not None and len(chosen) > 1:
        raise UserError(
            f"--push-to-hub takes the card of one model; these runs have {len(chosen)}: "
            f"{shortened(', '.join(chosen), 500)}. Choose one with --model."
        )
    every = [results_of(loaded, model) for model in chosen]
    source = f"{constants.ENDPOINT}/{repository}" if repository else None
    folders = {}
    for results in every:
        folder = out / folder_name(results.model)
        files = eval_files(results, source)
        for left in (folder / EVAL_RESULTS).glob("*.yaml"):
            # Of an earlier card; an upload takes all that lie here.
            if left.name not in files:
                left.unlink()
        for name, entries in files.items():
            write_text(folder / EVAL_RESULTS / name, _yaml(eval_result_entries_to_yaml(entries)))
        write_text(folder / "README.md", str(model_card(results)))
        folders[results.model] = folder
    return folders
