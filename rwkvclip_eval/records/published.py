"""Published numbers: rows of CSV files with sources, checked against types, never completed. Needs no torch.

Every CSV file of `reports/published/` is read, so that adding a paper is adding a file; its README says what
the columns mean. `counterparts` says which rows may be of a model that was run.
"""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator

from rwkvclip_eval.errors import UserError, joined, near_matches, shortened, shown
from rwkvclip_eval.printable import printable, unreadable
from rwkvclip_eval.protocols import PROTOCOLS
from rwkvclip_eval.records.metrics import NONE, PRIMARY, STANDARD, Metric, median_rank, recall, standard
from rwkvclip_eval.schema import MAX_PROBLEMS, Strict, empty_or_readable, misfits, readable
from rwkvclip_models.files import read_text
from rwkvclip_models.resources import resource_dir

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

FILE_LIMIT_BYTES = 4 << 20
MAX_ROWS = 50_000
AVERAGE = "average"
"""What the files call a dataset that is a mean; its metric then says over which set."""
UNKNOWN = "unknown"

PublishedTask = Literal[
    "zero_shot_classification",
    "zero_shot_robustness",
    "zero_shot_retrieval",
    "linear_probe",
    "few_shot_linear_probe",
    "knn_probe",
]
Precision = Literal["fp32", "bf16", "fp16", "amp", "unknown"]
PublishedStatus = Literal["published", "derived", "read_from_figure"]

_FEW_SHOT = "few_shot_linear_probe"
_RECORD_TASKS = {"zero_shot_robustness": "zero_shot_classification"}
"""Published task → that of records, where the literature has a name of its own for some datasets of one."""
_OF_CLASSES = tuple(metric.name for metric in STANDARD.values() if metric not in (NONE, PRIMARY))
_OF_RETRIEVAL = tuple(
    metric.name
    for retrieved in ("image", "text")
    for metric in (*(recall(retrieved, k) for k in (1, 5, 10)), median_rank(retrieved))
)
"""Those that messages name; recalls at other k are known, too."""
_AVERAGES = re.compile(r"average(_[1-9][0-9]{0,3})?")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
_DATASET = re.compile(r"[\w.+-]{1,100}(@[\w.+-]{1,100})?")


def _one_line(text: str) -> str:
    if printable(text) != text or any(sign in text for sign in "\n\t"):
        raise ValueError("expected one line without control characters")
    if text != text.strip():
        raise ValueError("expected no spaces around it")
    return text


Text = Annotated[str, Field(max_length=200), AfterValidator(_one_line), AfterValidator(empty_or_readable)]
"""Empty where nobody says it."""


class PublishedRow(Strict):
    """One published number; the fields are the columns of the files, in their order.

    Attributes:
        task: as the literature has it.
        method: as its source has it; a released checkpoint that has a spec of ours (`open_clip:…`) is called
            by it.
        backbone: architecture; empty where unknown.
        pretrain_data: what the model was trained on; empty where unknown.
        dataset: record name, with the variant where the source tells it; `average` for a mean over datasets.
        metric: metric name; `average` or `average_N` for a mean.
        value: as printed: per cent, or what the metric is in; empty where nobody printed it.
        protocol: the protocol of ours that follows what the source did; `unknown` where it does not say.
        precision: of the arithmetic; `amp` is autocast of either half precision.
        status: `published`: printed as a number; `derived`: follows from printed ones; `read_from_figure`: by
            eye.
        source: document with its table, page or commit.
    """

    task: PublishedTask
    method: Annotated[Text, AfterValidator(readable)]
    backbone: Text
    pretrain_data: Text
    dataset: str
    metric: Annotated[str, Field(max_length=200)]
    value: Annotated[str, Field(max_length=20)]
    protocol: Annotated[str, Field(max_length=200)]
    precision: Precision
    status: PublishedStatus
    source: Annotated[str, Field(max_length=500), AfterValidator(_one_line), AfterValidator(readable)]

    @field_validator("dataset")
    @classmethod
    def _record_name(cls, name: str) -> str:
        if not _DATASET.fullmatch(name) or unreadable(name):
            raise ValueError("expected a dataset's record name, or NAME@VARIANT, or 'average'")
        return name

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, name: str, info: ValidationInfo) -> str:
        if info.data.get("dataset") == AVERAGE:
            if not _AVERAGES.fullmatch(name):
                raise ValueError(
                    "expected 'average' or 'average_N' (over N datasets) beside dataset 'average'"
                )
        elif not _is_of(info.data.get("task"), standard(name)):
            task = info.data.get("task")
            known = _metrics_of(task)
            hint = f"{near_matches(name, known)} Known: {', '.join(known)}"
            raise ValueError(f"expected the name of a metric of {task or 'a task'}.{hint}")
        return name

    @field_validator("value")
    @classmethod
    def _as_printed(cls, value: str, info: ValidationInfo) -> str:
        metric = _measure(info.data.get("metric", ""))
        least, most = (0, 100) if metric.in_percent else (1, 1e9) if metric.unit == "rank" else (0, 1e9)
        if value and not (_NUMBER.fullmatch(value) and least <= float(value) <= most):
            unit = "per cent, without the sign" if metric.in_percent else metric.unit
            raise ValueError(
                f"expected digits with a decimal point from {least} to {most:,.0f} ({unit}), nothing where "
                "none was printed"
            )
        return value

    @field_validator("protocol")
    @classmethod
    def _known_protocol(cls, name: str) -> str:
        if name != UNKNOWN and name not in PROTOCOLS:
            known = [*PROTOCOLS, UNKNOWN]
            hint = near_matches(name, known)
            raise ValueError(f"expected a protocol or 'unknown'.{hint} Known: {', '.join(known)}")
        return name

    @property
    def number(self) -> float | None:
        """The value as a number, in per cent where its metric is a fraction; None where there is none."""
        return float(self.value) if self.value else None

    @property
    def text(self) -> str:
        """The value as shown: as printed, `~` before one that was read from a figure."""
        return f"~{self.value}" if self.value and self.status == "read_from_figure" else self.value

    @property
    def measure(self) -> Metric:
        """What the number means."""
        return _measure(self.metric)

    @property
    def record_task(self) -> str:
        """The task of records that gives such numbers."""
        return _RECORD_TASKS.get(self.task, self.task)

    @property
    def who(self) -> str:
        """The method with its backbone and training data, where they are known and it does not say them."""
        named_so = self.method if self.backbone in self.method else f"{self.method} {self.backbone}"
        return named_so if self.pretrain_data in self.method else f"{named_so}, {self.pretrain_data}"

    @property
    def where_from(self) -> str:
        """The source, how the number was had from it, and what is known of how it was made."""
        status = "" if self.status == "published" else f" ({self.status.replace('_', ' ')})"
        precision = "" if self.precision == UNKNOWN else f", {self.precision}"
        return f"{self.source}{status}; protocol {self.protocol}{precision}"


def _metrics_of(task: str | None) -> tuple[str, ...]:
    """Return the names of the metrics that a task's numbers are of, as messages list them."""
    few = tuple(f"{name}_16_shot" for name in _OF_CLASSES)
    own = {"zero_shot_retrieval": _OF_RETRIEVAL, _FEW_SHOT: few, None: (*_OF_CLASSES, *_OF_RETRIEVAL)}
    return own.get(task, _OF_CLASSES)


def _is_of(task: str | None, metric: Metric | None) -> bool:
    """Return whether a task's numbers may be of a metric; any where the task is not known."""
    if metric in (None, NONE, PRIMARY):
        return False
    of_retrieval = task == "zero_shot_retrieval"
    fits = bool(metric.direction) == of_retrieval and (metric.shots is not None) == (task == _FEW_SHOT)
    return fits or task is None


COLUMNS = tuple(PublishedRow.model_fields)


def _measure(name: str) -> Metric:
    if _AVERAGES.fullmatch(name):
        return Metric(name=name, title=name.replace("_", " of "))
    # Nothing is said of a value whose metric is refused.
    return standard(name) or Metric(name=name, title=name, unit="number")


def read_published(folders: Sequence[Path] = ()) -> list[PublishedRow]:
    """Return the shipped rows, then those of the CSV files in `folders`.

    Raises:
        UserError: a folder is none or holds no CSV file, or a file does not fit; the text names file, line,
            field, what was expected and what came.
    """
    found: list[tuple[PublishedRow, str]] = []
    problems: list[str] = []
    once = {folder.resolve(): folder for folder in (resource_dir("published"), *folders)}
    for folder in once.values():
        files = sorted(folder.glob("*.csv")) if folder.is_dir() else []
        if not files:
            raise UserError(
                f"{folder}: expected a folder of CSV files with published numbers, found none there."
            )
        for path in files:
            for line, cells in _cells(path, problems):
                try:
                    found.append((PublishedRow.model_validate(cells), f"{path}:{line}"))
                except ValidationError as error:
                    problems += [f"{path}:{line}: {text}." for text in misfits(error)]
                if len(problems) >= MAX_PROBLEMS:
                    raise UserError(joined(problems))
    problems += _twice(found)
    if problems:
        raise UserError(joined(problems))
    return [row for row, _ in found]


def _cells(path: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line and cells by column of each row of a file; what is no row goes to `problems`."""
    text = read_text(path, what="table of published numbers", limit=FILE_LIMIT_BYTES)
    # Spreadsheets mark their UTF-8 so.
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    head: list[str] = []
    line, empty = 1, True
    try:
        for number, cells in enumerate(reader):
            if not head:
                head = cells
                if wrong := _wrong_columns(head):
                    problems += [f"{path}:{line}: {text}" for text in wrong]
                    return
            elif number > MAX_ROWS:
                problems.append(f"{path}: more than {MAX_ROWS} rows; split the file.")
                return
            elif cells and len(cells) != len(head):
                problems.append(
                    f"{path}:{line}: expected {len(head)} fields, came {len(cells)}; a field with a comma in "
                    "it stands in quotation marks."
                )
            elif cells:
                empty = False
                yield line, dict(zip(head, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        problems.append(
            f"{path}:{line}: not valid CSV ({error}); is a quotation mark in this row not closed, or not "
            "doubled?"
        )
        return
    if not head:
        problems.append(f"{path}:1: expected the columns {', '.join(COLUMNS)}; the file is empty.")
    elif empty:
        problems.append(f"{path}:1: expected a number in every file, found no row below the columns' names.")


def _wrong_columns(head: Sequence[str]) -> list[str]:
    """Return what is wrong with the first line of a file."""
    if len(head) > 2 * len(COLUMNS):
        return [f"expected the columns {', '.join(COLUMNS)}; came {len(head)} columns."]
    missing = [name for name in COLUMNS if name not in head]
    wrong = [f"the column {name!r} is missing; expected {', '.join(COLUMNS)}." for name in missing]
    for name in dict.fromkeys(head):
        if name not in COLUMNS:
            wrong.append(f"unknown column {shown(name)}.{near_matches(name, COLUMNS)}")
        elif head.count(name) > 1:
            wrong.append(f"the column {name!r} stands there {head.count(name)} times; expected once.")
    return wrong


def _twice(found: Iterable[tuple[PublishedRow, str]]) -> Iterator[str]:
    """Yield which rows give the number of another: the same of all but its value and status."""
    first: dict[tuple[str, ...], tuple[PublishedRow, str]] = {}
    for row, where in found:
        key = tuple(str(getattr(row, name)) for name in COLUMNS if name not in ("value", "status"))
        if key not in first:
            first[key] = row, where
        else:
            other, at = first[key]
            yield (
                f"{where}: value: {shown(row.value)} of {shortened(row.who)} on {row.dataset}, {row.metric}: "
                f"{at} has it already ({shown(other.value)}), of the same source; keep one."
            )


_OPEN_CLIP = {"clip-vit-b32": "ViT-B-32", "clip-vit-b16": "ViT-B-16", "clip-vit-l14": "ViT-L-14"}
"""Our short names → open_clip's."""
_METHODS = {
    "rwkv-clip-b32": ("RWKV-CLIP", ("B/32", "ViT-B/32")),
    "rwkv-clip-b16": ("RWKV-CLIP", ("B/16", "ViT-B/16")),
    "alip-vit-b32": ("ALIP", ("ViT-B/32",)),
    "clip-vit-b32": ("CLIP", ("ViT-B/32",)),
    "clip-vit-b16": ("CLIP", ("ViT-B/16",)),
    "clip-vit-l14": ("CLIP", ("ViT-L/14",)),
}
"""Model of a spec → method, and backbones as papers write them."""
_DATA_OF_TAGS = {"openai": "WIT400M"}
"""Tag of released weights → what papers call the data they were trained on."""
_RANDOM = "random:"


def checkpoint_spec(spec: str) -> str:
    """Return a model's spec with our short names as open_clip's: `open_clip:ViT-B-32=openai`."""
    model, equals, checkpoint = spec.partition("=")
    return f"open_clip:{_OPEN_CLIP[model]}{equals}{checkpoint}" if model in _OPEN_CLIP else spec


def counterparts(spec: str, rows: Iterable[PublishedRow]) -> list[PublishedRow]:
    """Return the rows that may be of a model that was run.

    Rows of the very checkpoint come first. A checkpoint in a file does not say what it was trained on, so
    rows of its method and backbone are counterparts whatever their training data; released weights, named by
    their tag, have those of their own data only, and random weights none.

    Args:
        spec: of the model, as records have it in `model_info`: `rwkv-clip-b32=model_31.pt`.
        rows: published numbers.
    """
    rows = list(rows)
    own = checkpoint_spec(spec)
    model, _, checkpoint = spec.partition("=")
    if checkpoint.startswith(_RANDOM):
        return []
    short = {f"open_clip:{name}": ours for ours, name in _OPEN_CLIP.items()}
    method, backbones = _METHODS.get(short.get(model, model), ("", ()))
    released = own.startswith("open_clip:") and not re.search(r"[./]", checkpoint)
    data = _DATA_OF_TAGS.get(checkpoint, "") if released else None
    exact = [row for row in rows if row.method == own]
    return exact + [
        row
        for row in rows
        # "CLIP (RealSyn run)" is CLIP, trained by others.
        if row.method.partition(" (")[0] == method
        and row.backbone in backbones
        and (data is None or row.pretrain_data in (data, ""))
    ]
