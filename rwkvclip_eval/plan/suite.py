"""Suites: YAML files that name tasks over datasets. Every mistake is reported with file and line."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from rwkvclip_eval.data.prompts import check_class_names, check_each_once, normalise_templates
from rwkvclip_eval.data.types import DatasetRef, Name, VersionName
from rwkvclip_eval.errors import SuiteError, UserError, joined
from rwkvclip_eval.protocols import PROTOCOLS
from rwkvclip_eval.records.grid import GridName, Grids
from rwkvclip_eval.records.metrics import PRIMARY_WORD
from rwkvclip_eval.registry import unknown_name
from rwkvclip_eval.schema import Strict
from rwkvclip_eval.tasks import TASKS
from rwkvclip_eval.yaml_file import YAML_LIMIT_BYTES, line_of, mistakes, parse_yaml
from rwkvclip_models.files import read_text
from rwkvclip_models.resources import resource_dir

if TYPE_CHECKING:
    import yaml
    from pydantic import ValidationInfo

    from rwkvclip_eval.tasks.base import Task


class SuiteTask(Strict):
    """One task over several datasets, under one or several protocols."""

    task: Name
    protocol: tuple[str, ...] | None = Field(
        None, min_length=1, max_length=20, description="a name or a list of names; the task's own by default"
    )
    options: dict[Any, Any] | None = Field(
        None, description="of the task, where they differ from the protocol's"
    )
    datasets: tuple[DatasetRef, ...] = Field(min_length=1, max_length=1000)

    @field_validator("protocol", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("datasets", mode="before")
    @classmethod
    def _short_names(cls, value: object) -> object:
        return tuple(map(_expand_short_name, value)) if isinstance(value, tuple) else value

    @field_validator("protocol")
    @classmethod
    def _known_protocol(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if name not in PROTOCOLS:
                raise ValueError(unknown_name("protocol", name, PROTOCOLS))
        return names

    @field_validator("options")
    @classmethod
    def _fit_the_task(cls, given: dict[Any, Any] | None, info: ValidationInfo) -> dict[Any, Any] | None:
        if given is not None and info.data.get("task") in TASKS:
            check_options(TASKS.get(info.data["task"]), given)
        return given


class SuiteAverage(Strict):
    """A mean over datasets of the suite that reports show under its name."""

    name: Name
    task: Name
    protocol: str | None = Field(None, description="every one its datasets run under by default")
    datasets: tuple[VersionName, ...] = Field(
        (), max_length=100, description="names as under tasks; all that the task runs on by default"
    )
    leaves_out: tuple[VersionName, ...] = Field(
        (), max_length=100, description="those of the task's datasets that it is not over"
    )
    metric: str = Field(PRIMARY_WORD, description="'primary': every dataset's own; or the name of one")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.datasets and self.leaves_out:
            raise ValueError("give 'datasets' or 'leaves_out', not both.")
        return self


class Suite(Strict):
    """What a suite file says."""

    name: Name
    description: str = Field("", max_length=10_000)
    tasks: tuple[SuiteTask, ...] = Field((), max_length=100)
    averages: tuple[SuiteAverage, ...] = Field((), max_length=50)
    grids: dict[GridName, Grids] = Field(
        {}, description="what `bench` measures: quick, on a cpu, on a gpu; in a suite without tasks"
    )

    @model_validator(mode="after")
    def _tasks_or_grids(self) -> Self:
        if bool(self.tasks) == bool(self.grids):
            raise ValueError("give 'tasks' of at least one entry, or 'grids' for `rwkvclip-eval bench`.")
        if self.grids and self.averages:
            raise ValueError("'averages' are over the datasets of 'tasks'; 'grids' have none.")
        return self


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
        return {"name": name, "variant": variant} if name and variant else {"name": entry}
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
        texts = {"model_type": "expected a name or a mapping with 'name'."}
        raise SuiteError(joined(mistakes(error, node, source, texts=texts))) from error
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
            problems += _prompt_problems(ref, where)
            if entry.task in TASKS and ref.metric is not None:
                problems += _metric_problems(TASKS.get(entry.task), ref.metric, where)
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
            versions = known.variants.values() if ref.variant is None else [known.variant(ref.variant)]
            splits = dict.fromkeys(split for version in versions for split in version.counts)
            if ref.split is not None and not free and ref.split not in splits:
                problems.append(f"{where}: {unknown_name(f'split of {record}', ref.split, splits)}")
    for i, average in enumerate(loaded.suite.averages):
        if average.task in TASKS and average.metric != PRIMARY_WORD:
            where = loaded.where("averages", i, "metric")
            problems += _metric_problems(TASKS.get(average.task), average.metric, where)
    if problems:
        raise SuiteError(joined(problems))


def _prompt_problems(ref: DatasetRef, where: str) -> list[str]:
    try:
        names = ref.class_names or ()
        check_class_names(names, f"{ref.name}: in class_names of the suite")
        check_each_once(names, ref.name)
        normalise_templates(ref.templates or (), ref.name)
    except UserError as error:
        return [f"{where}: {error}"]
    return []


def _metric_problems(task: Task, metric: str, where: str) -> list[str]:
    try:
        task.check_metric(metric)
    except SuiteError as error:
        return [f"{where}: {error}"]
    return []


def _protocol_problems(loaded: LoadedSuite, index: int, entry: SuiteTask, task: Task) -> list[str]:
    allowed = task.protocols
    where = loaded.where("tasks", index, "protocol")
    problems = [
        f"{where}: {entry.task} follows {' or '.join(allowed)}, not {name}."
        for name in entry.protocol or ()
        if name not in allowed
    ]
    if entry.options is None:
        return problems
    here = ("tasks", index, "options")
    if not task.Options.model_fields:
        return [*problems, f"{loaded.where(*here)}: options belong to probes; {entry.task} has none."]
    problems += [
        f"{loaded.where(*here, name)}: {why_unread(task, name)}"
        for name in sorted(_unread(task, entry.options))
    ]
    try:
        check_options(task, entry.options)
    except ValidationError as error:
        # Of a task that was registered after the suite was read.
        problems += mistakes(error, loaded.tree, loaded.source, below=here)
    return problems


def why_unread(task: Task, option: str) -> str:
    """Return why a suite may not set `option` of `task`, and what it may."""
    settable = task.Options.settable()
    instead = f" It reads {', '.join(sorted(settable))}." if settable else " It has none."
    if option in task.Options.BY_PROTOCOL:
        instead = f" The protocol decides it: {' or '.join(task.protocols)}."
    return f"{task.name} does not read the option {option!r}.{instead}"


def _unread(task: Task, given: dict[Any, Any]) -> set[str]:
    """Return the options that there are, but that are not this task's to set: no misspelt ones."""
    known = {name for other in TASKS for name in TASKS.get(other).Options.model_fields}
    return {name for name in given if name in known} - task.Options.settable()


def check_options(task: Task, given: dict[Any, Any]) -> None:
    """Check what a suite sets of `task`, but for options of other tasks, which `check_names` tells.

    Raises:
        ValidationError: pydantic's.
    """
    if task.Options.model_fields:
        unread = _unread(task, given)
        task.Options.model_validate({name: value for name, value in given.items() if name not in unread})
