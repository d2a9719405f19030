"""`--set TASK.OPTION=VALUE` and its short form `--shots`: options in the place of a suite's own.

They are part of what makes a run the run it is: `LoadedSuite.sha256` covers them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from rwkvclip_eval.errors import SuiteError, UserError, joined, shortened
from rwkvclip_eval.plan.suite import check_options, why_unread
from rwkvclip_eval.registry import unknown_name
from rwkvclip_eval.schema import misfits, whole_number
from rwkvclip_eval.tasks import TASKS
from rwkvclip_eval.tasks.probe_options import MAX_SHOTS
from rwkvclip_eval.yaml_file import parse_yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.plan.suite import LoadedSuite


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One option of one task.

    Attributes:
        task: record name.
        option: a field of its `Options`.
        value: as YAML gives it.
    """

    task: str
    option: str
    value: Any

    def __str__(self) -> str:
        """Return how messages name it."""
        return f"--set {shortened(self.task)}.{shortened(self.option)}"


def overridden(loaded: LoadedSuite, settings: Sequence[str], shots: str | None) -> LoadedSuite:
    """Return the suite as the command line's `--set` and `--shots` change it.

    Raises:
        UserError: one is of another form, sets what there is not, or both set the same.
    """
    parsed = [parse_setting(text) for text in settings]
    if shots is not None:
        if twice := [setting for setting in parsed if setting.option == "shots"]:
            raise UserError(f"{twice[0]} and --shots set the same; give one of them.")
        loaded = with_shots(loaded, parse_shots(shots))
    return with_settings(loaded, parsed) if parsed else loaded


def parse_setting(text: str) -> Setting:
    """Return what a text such as `linear_probe.C=0.316` sets; VALUE is YAML.

    Raises:
        UserError: it is of another form.
    """
    name, equals, value = text.partition("=")
    task, dot, option = name.strip().rpartition(".")
    if not (equals and dot and task and option):
        raise UserError(
            f"--set {shortened(text)!r}: expected TASK.OPTION=VALUE, such as linear_probe.C=0.316 or "
            "few_shot_linear_probe.shots=[1,4]."
        )
    return Setting(task=task, option=option, value=parse_yaml(value, f"--set {shortened(name)}")[1])


def with_settings(loaded: LoadedSuite, settings: Sequence[Setting]) -> LoadedSuite:
    """Return the suite with other options of its tasks, in every entry of each.

    Raises:
        SuiteError: the suite has no such task, the task reads no such option or not this value, or one option
            is set twice.
    """
    given: dict[str, dict[str, Any]] = {}
    for setting in settings:
        _check_names(loaded, setting)
        own = given.setdefault(setting.task, {})
        if setting.option in own:
            raise SuiteError(f"{setting} stands there twice; give it once.")
        own[setting.option] = setting.value
    tasks = []
    for entry in loaded.suite.tasks:
        if entry.task in given:
            options = {**(entry.options or {}), **given[entry.task]}
            try:
                check_options(TASKS.get(entry.task), options)
            except ValidationError as error:
                raise SuiteError(f"--set {entry.task}: {joined(misfits(error), '; ')}") from error
            entry = entry.model_copy(update={"options": options})
        tasks.append(entry)
    said = json.dumps(given, sort_keys=True, default=str)
    return replace(
        loaded,
        suite=loaded.suite.model_copy(update={"tasks": tuple(tasks)}),
        sha256=hashlib.sha256(f"{loaded.sha256}\n--set {said}".encode()).hexdigest(),
    )


def _check_names(loaded: LoadedSuite, setting: Setting) -> None:
    listed = {entry.task for entry in loaded.suite.tasks}
    if setting.task not in listed or setting.task not in TASKS:
        raise SuiteError(f"{setting}: {unknown_name('task of this suite', setting.task, listed)}")
    task = TASKS.get(setting.task)
    settable = task.Options.settable()
    if setting.option in settable:
        return
    if not settable or setting.option in task.Options.BY_PROTOCOL:
        raise SuiteError(f"{setting}: {why_unread(task, setting.option)}")
    raise SuiteError(f"{setting}: {unknown_name(f'option of {setting.task}', setting.option, settable)}")


def parse_shots(text: str) -> list[int]:
    """Return the numbers in a text such as `1,2,4,8,16`.

    Raises:
        UserError: it is another text.
    """
    numbers = [number for part in text.split(",") if (number := whole_number(part)) is not None]
    if len(numbers) > 20 or len(numbers) != text.count(",") + 1:
        raise UserError(
            f"--shots {shortened(text)!r}: expected numbers divided by commas, such as 1,2,4,8,16 (at most "
            "20)."
        )
    return numbers


def with_shots(loaded: LoadedSuite, shots: Sequence[int]) -> LoadedSuite:
    """Return the suite with other numbers of training images a class in its few-shot tasks.

    Raises:
        SuiteError: it has no task that reads `shots`, or they are not numbers from 1.
    """

    def reads(name: str) -> bool:
        return name in TASKS and "shots" in TASKS.get(name).Options.settable()

    given = dict.fromkeys(shots)
    if not given or min(given) < 1 or max(given) > MAX_SHOTS:
        raise SuiteError(
            f"Shots are training images a class, from 1 up, not {', '.join(map(str, shots))}, and at most "
            f"{MAX_SHOTS}."
        )
    able = dict.fromkeys(entry.task for entry in loaded.suite.tasks if reads(entry.task))
    if not able:
        known = " or ".join(sorted(name for name in TASKS if reads(name)))
        raise SuiteError(
            f"{loaded.source} has no task that draws shots: --shots is for suites with {known}, such as "
            "few-shot-10."
        )
    changed = with_settings(loaded, [Setting(task=name, option="shots", value=[*given]) for name in able])
    # A run that was begun with --shots goes on: its identity holds the hash of this text.
    said = f"{loaded.text}\n--shots {','.join(map(str, given))}"
    return replace(changed, sha256=hashlib.sha256(said.encode()).hexdigest())
