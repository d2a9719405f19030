"""Suites: YAML files that name tasks over datasets. Every mistake is reported with file and line."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rwkvclip_eval.data.types import DatasetRef, Name, PromptFiles, Source
from rwkvclip_eval.errors import SuiteError, joined, shortened
from rwkvclip_eval.protocols import PROTOCOLS, ProbeOptions
from rwkvclip_eval.records.schema import PRIMARY
from rwkvclip_eval.registry import unknown_name
from rwkvclip_eval.schema import came
from rwkvclip_eval.yaml_file import YAML_LIMIT_BYTES, line_of, parse_yaml
from rwkvclip_models.files import read_text
from rwkvclip_models.resources import resource_dir

if TYPE_CHECKING:
    import yaml

    from rwkvclip_eval.tasks.base import Task

Location = tuple[str | int, ...]


class SuiteTask(BaseModel):
    """One task over several datasets, under one or several protocols."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Name
    protocol: tuple[str, ...] | None = Field(
        None, min_length=1, max_length=20, description="a name or a list of names; the task's own by default"
    )
    options: ProbeOptions | None = Field(
        None, description="of a probe, where they differ from the protocol's"
    )
    datasets: tuple[DatasetRef, ...] = Field(min_length=1, max_length=1000)

    @field_validator("protocol", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("datasets", mode="before")
    @classmethod
    def _short_names(cls, value: object) -> object:
        return [_expand_short_name(entry) for entry in value] if isinstance(value, list | tuple) else value

    @field_validator("protocol")
    @classmethod
    def _known_protocol(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if name not in PROTOCOLS:
                raise ValueError(unknown_name("protocol", name, PROTOCOLS))
        return names


class SuiteAverage(BaseModel):
    """A mean over datasets of the suite that reports show under its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    task: Name
    protocol: str | None = Field(None, description="every one its datasets run under by default")
    datasets: tuple[str, ...] = Field(
        (), max_length=100, description="names as under tasks; all that the task runs on by default"
    )
    leaves_out: tuple[str, ...] = Field(
        (), max_length=100, description="those of the task's datasets that it is not over"
    )
    metric: str = Field(PRIMARY, description="'primary': every dataset's own; or the name of one")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.datasets and self.leaves_out:
            raise ValueError("give 'datasets' or 'leaves_out', not both.")
        return self


class Suite(BaseModel):
    """What a suite file says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    description: str = Field("", max_length=10_000)
    tasks: tuple[SuiteTask, ...] = Field(min_length=1, max_length=100)
    averages: tuple[SuiteAverage, ...] = Field((), max_length=50)


@dataclass(frozen=True, kw_only=True)
class LoadedSuite:
    """A validated suite with its text.

    Attributes:
        suite: its content.
        text: the file, word for word.
        sha256: of the text, and of what the command line puts in its place.
        base_dir: folder that relative paths in the suite start from.
        source: file name for messages.
        tree: the text's nodes, for line numbers.
    """

    suite: Suite
    text: str
    sha256: str
    base_dir: Path
    source: str = "suite"
    tree: yaml.Node | None = field(default=None, repr=False, compare=False)

    def where(self, *location: str | int) -> str:
        """Return `file:line` of the entry at `location`, such as ("tasks", 0, "datasets", 2)."""
        return f"{self.source}:{line_of(self.tree, location)}"


def _expand_short_name(entry: object) -> object:
    if isinstance(entry, str):
        name, _, variant = entry.partition("@")
        return {"name": name, "variant": variant or None}
    return entry


def list_suites() -> dict[str, Path]:
    """Return the shipped suites: name → file."""
    return {path.stem: path for path in sorted(resource_dir("suites").glob("*.yaml"))}


def load_suite(name_or_path: str | Path) -> LoadedSuite:
    """Return the suite called `name_or_path`: a shipped one's name, or the path of a YAML file.

    Raises:
        SuiteError: there is no such suite, or it says something wrong; the text names file and line.
    """
    path = Path(name_or_path)
    shipped = list_suites()
    if str(name_or_path) in shipped:
        path = shipped[str(name_or_path)]
    elif path.is_dir():
        raise SuiteError(f"{path} is a folder; give the path of a YAML file in it.")
    elif not path.exists():
        raise SuiteError(
            unknown_name("suite", str(name_or_path), shipped) + " Or give the path of a YAML file."
        )
    text = read_text(path, what="suite", limit=YAML_LIMIT_BYTES, error=SuiteError)
    return parse_suite(text, source=str(path), base_dir=path.resolve().parent)


def parse_suite(text: str, *, source: str = "suite", base_dir: Path | None = None) -> LoadedSuite:
    """Return the suite written in `text`.

    Args:
        text: YAML.
        source: file name for messages.
        base_dir: folder that relative paths start from; the working directory by default.

    Raises:
        SuiteError: the text is not a suite; every mistake is listed with its line.
    """
    node, data = parse_yaml(text, source, error=SuiteError)
    if not isinstance(data, dict):
        raise SuiteError(
            f"{source}:1: expected a mapping with 'name' and 'tasks', got {type(data).__name__}."
        )
    try:
        suite = Suite.model_validate(data)
    except ValidationError as error:
        messages = [_message(problem, node, source) for problem in _own_problems(error)]
        raise SuiteError(joined(messages)) from error
    return LoadedSuite(
        suite=suite,
        text=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        base_dir=base_dir or Path.cwd(),
        source=source,
        tree=node,
    )


def check_names(loaded: LoadedSuite) -> None:
    """Check task and dataset names against the registries and the catalogue, and datasets against tasks.

    Raises:
        SuiteError: a name is unknown; every mistake is listed with its line.
    """
    from rwkvclip_eval.data.catalogue import catalogue, record_name
    from rwkvclip_eval.data.open import DATASETS
    from rwkvclip_eval.tasks import TASKS

    problems: list[str] = []
    for i, entry in enumerate(loaded.suite.tasks):
        if entry.task not in TASKS:
            where = loaded.where("tasks", i, "task")
            problems.append(f"{where}: {unknown_name('task', entry.task, TASKS)}")
        else:
            problems += _protocol_problems(loaded, i, entry, TASKS.get(entry.task))
        for j, ref in enumerate(entry.datasets):
            free = ref.source is not None or ref.folder is not None or ref.name.startswith("wds_")
            where = loaded.where("tasks", i, "datasets", j)
            record = record_name(ref.name)
            if not free and record is None and ref.name not in DATASETS:
                hint = " A set of your own needs 'folder' or 'source', or a name that starts with 'wds_'."
                unknown = unknown_name("dataset", ref.name, {*catalogue(), *DATASETS})
                problems.append(f"{where}: {unknown}{hint}")
            if record is None:
                continue
            known = catalogue()[record]
            if ref.variant is not None and not known.has_variant(ref.variant):
                unknown = unknown_name(f"variant of {record}", ref.variant, known.variants)
                problems.append(f"{where}: {unknown}")
                continue
            kind = known.kind if ref.variant is None else known.kind_of(ref.variant)
            if entry.task in TASKS and kind not in TASKS.get(entry.task).kinds:
                kinds = " or ".join(sorted(TASKS.get(entry.task).kinds))
                problems.append(f"{where}: {entry.task} scores {kinds} sets; {record} is a {kind} set.")
    if problems:
        raise SuiteError(joined(problems))


def protocols_of(task: Task) -> tuple[str, ...]:
    """Return the names of the protocols a task can follow, its default first; all where it has no say."""
    return getattr(task, "protocols", ("standard", *PROTOCOLS))


def _protocol_problems(loaded: LoadedSuite, index: int, entry: SuiteTask, task: Task) -> list[str]:
    allowed = protocols_of(task)
    where = loaded.where("tasks", index, "protocol")
    problems = [
        f"{where}: {entry.task} follows {' or '.join(allowed)}, not {name}."
        for name in entry.protocol or ()
        if name not in allowed
    ]
    if entry.options is None:
        return problems
    if PROTOCOLS.get(allowed[0]).probe is None:
        where = loaded.where("tasks", index, "options")
        return [*problems, f"{where}: options belong to probes; {entry.task} has none."]
    known = set(ProbeOptions.model_fields) - {"method"}
    read = getattr(task, "options", known)
    for name in sorted(entry.options.model_fields_set - read):
        where = loaded.where("tasks", index, "options", name)
        instead = f" It reads {', '.join(sorted(read))}."
        if name == "method":
            instead = f" The protocol decides it: {' or '.join(allowed)}."
        problems.append(f"{where}: {entry.task} does not read the option {name!r}.{instead}")
    return problems


_SOURCES: dict[str, type[BaseModel]] = {
    kind: model
    for model in get_args(get_args(Source)[0])
    for kind in get_args(model.model_fields["kind"].annotation)
}
_PARTS: dict[str, type[BaseModel]] = {
    "tasks": SuiteTask,
    "averages": SuiteAverage,
    "datasets": DatasetRef,
    "options": ProbeOptions,
    "prompts": PromptFiles,
}
_MAX_PROBLEMS = 100
_PROMPTS = "expected 'dataset', 'clip-benchmark', or a mapping with 'labels' and 'templates'."
_PLAIN_TEXTS = {
    "too_short": "the list is empty; it needs at least one entry.",
    "tuple_type": "expected a list.",
    "model_type": "expected a name or a mapping with 'name'.",
    "model_attributes_type": f"expected a mapping with 'kind': {', '.join(_SOURCES)}.",
    "union_tag_not_found": f"the key 'kind' is missing. Allowed: {', '.join(_SOURCES)}.",
}


def _own_problems(error: ValidationError) -> list[Any]:
    """Return the mistakes without those that only follow from another.

    Such are lists called empty because an entry is wrong, keys called missing where one was misspelt, and
    the forms of `prompts` that were not meant.
    """
    # Each is compared with all others below.
    problems = error.errors()[:_MAX_PROBLEMS]
    misspelt = {
        (*one["loc"][:-1], near[0])
        for one in problems
        if one["type"] == "extra_forbidden" and (near := _near_keys(one["loc"]))
    }

    def follows(one: Any) -> bool:
        inside = [p for p in problems if p is not one and p["loc"][: len(one["loc"])] == one["loc"]]
        if one["type"] == "literal_error" and "prompts" in one["loc"]:
            form = one["loc"][:-1]
            return any(
                p["loc"][: len(form)] == form and p["type"] not in ("literal_error", "model_type")
                for p in problems
            )
        return (
            (one["type"] == "too_short" and bool(inside))
            or (one["type"] == "missing" and one["loc"] in misspelt)
            or (one["type"] == "model_type" and "prompts" in one["loc"])
        )

    return [one for one in problems if not follows(one)]


def _message(problem: Any, node: yaml.Node | None, source: str) -> str:
    location, model = _place(problem["loc"])
    text = str(problem["msg"]).removeprefix("Value error, ")
    where = ".".join(shortened(str(part)) for part in location)
    if problem["type"] == "extra_forbidden":
        near = _near_keys(problem["loc"])
        hint = f" Did you mean {near[0]!r}?" if near else f" Allowed: {', '.join(model.model_fields)}."
        text = f"unknown key {shortened(str(location[-1]))!r}.{hint}"
    elif problem["type"] == "missing":
        text = f"the key {location[-1]!r} is missing."
        location = location[:-1]
    elif problem["type"] == "union_tag_invalid":
        text = unknown_name("kind of source", problem["ctx"]["tag"], _SOURCES)
    elif problem["type"] == "literal_error" and "prompts" in location:
        text = _PROMPTS
    elif problem["type"] not in (*_PLAIN_TEXTS, "value_error"):
        text += came(problem["input"])
    text = _PLAIN_TEXTS.get(problem["type"], text)
    return f"{source}:{line_of(node, location)}: {where}: {text}"


def _near_keys(location: Location) -> list[str]:
    own, model = _place(location)
    return difflib.get_close_matches(shortened(str(own[-1])), list(model.model_fields), n=1)


def _place(location: Location) -> tuple[Location, type[BaseModel]]:
    """Return `location` as the file has it (pydantic adds the forms it tried), and what holds its key."""
    kept: list[str | int] = []
    model: type[BaseModel] = Suite
    for i, (before, part) in enumerate(zip(("", *location), location, strict=False)):
        if before == "source" and part in _SOURCES:
            model = _SOURCES[str(part)]
        elif before != "prompts" or part in PromptFiles.model_fields:
            kept.append(part)
            # The key itself, as the last part, is its holder's.
            if i < len(location) - 1:
                model = _PARTS.get(str(part), model)
    return tuple(kept), model
