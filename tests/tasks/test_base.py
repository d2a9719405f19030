"""What a task of a user's own gets from its base class, and how its options get from suite to record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import Field
from toy import ColourDataset, ColourEncoder, register, task_suite

import rwkvclip_eval as rc
from rwkvclip_eval.errors import SuiteError
from rwkvclip_eval.plan.overrides import overridden
from rwkvclip_eval.plan.suite import parse_suite
from rwkvclip_eval.plan.units import plan
from rwkvclip_eval.protocols import PROTOCOLS
from rwkvclip_eval.records.metrics import Metric
from rwkvclip_eval.tasks import TASKS
from rwkvclip_eval.tasks.base import MetricValue, Task, TaskOptions, TaskResult, hash_prompts

if TYPE_CHECKING:
    from rwkvclip_eval.protocols import Protocol
    from rwkvclip_eval.records.schema import Record
    from rwkvclip_eval.tasks.base import Features, Samples


REDNESS = Metric(name="redness", title="redness")


class Redness(Task):
    """No more than a task must have."""

    name = "redness"

    def score(self, samples: Samples, features: Features, protocol: Protocol) -> TaskResult:
        """Return the mean share of the first feature, to the power that a task with options reads."""
        power = self.Options.of(protocol).model_dump().get("power", 1)
        mean = float((features.image_embedding[:, 0] ** power).mean())
        value = MetricValue(metric=REDNESS, value=mean, n=len(samples.keys))
        return TaskResult(metrics=[value], predictions={})


class PowerOptions(TaskOptions):
    power: int = Field(1, ge=1, le=9)
    unread: bool = False


class Powered(Redness):
    name = "powered"
    Options = PowerOptions


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, colours=ColourDataset())
    own = {"redness": Redness(), "powered": Powered()}
    monkeypatch.setattr(TASKS, "_entries", {name: TASKS.get(name) for name in TASKS} | own)


def record(task: str, **more: Any) -> Record:
    (found,) = rc.evaluate(ColourEncoder(), task_suite({"task": task, **more})).records
    return found


def test_a_task_of_a_name_and_a_score_runs_under_the_standard_protocol_or_any_other() -> None:
    found = record("redness")
    assert (found.status, found.protocol, found.task_version) == ("ok", "standard", 1)
    assert found.prompt_hash == hash_prompts(("red", "green", "blue"), (), "")
    assert record("redness", protocol="clip-benchmark").value == found.value
    assert set(Redness().protocols) == set(PROTOCOLS)


def test_a_tasks_own_options_change_its_numbers_and_stand_in_its_protocol() -> None:
    plain, squared = record("powered"), record("powered", options={"power": 2, "unread": False})
    assert (plain.protocol, squared.protocol) == ("standard", "standard (power=2)")
    assert plain.value is not None and squared.value is not None
    assert 0 < squared.value < plain.value
    given = overridden(task_suite("powered", "redness"), ["powered.power=3"], None)
    assert [unit.protocol.name for unit in plan(given)] == ["standard (power=3)", "standard"]


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("powered", "{power: 10}", "tasks.0.options.power: Input should be less than or equal to 9 (got 10)"),
        ("powered", "{powr: 2}", "tasks.0.options.powr: unknown key 'powr'. Did you mean 'power'?"),
        ("powered", "{C: 2}", "powered does not read the option 'C'. It reads power, unread."),
        ("linear_probe", "{power: 2}", "linear_probe does not read the option 'power'. It reads C,"),
        ("redness", "{power: 2}", "options belong to probes; redness has none."),
    ],
)
def test_options_that_do_not_fit_a_task_are_said_with_their_line(task: str, options: str, said: str) -> None:
    text = f"name: s\ntasks:\n- task: {task}\n  options: {options}\n  datasets: [colours]\n"
    with pytest.raises(SuiteError) as caught:
        plan(parse_suite(text, source="s.yaml"))
    assert str(caught.value).startswith(f"s.yaml:4: {said}")


def test_every_task_describes_itself_in_one_sentence() -> None:
    for name in set(TASKS) - {"redness", "powered"}:
        said = TASKS.get(name).description
        assert said.endswith(".") and ". " not in said, name


class Named(Redness):
    name = "named"
    gives = frozenset({"recall_accuracy_4_shot", "accuracy"})


def test_a_metric_of_a_tasks_own_is_taken_by_its_name_before_shots_are_read_from_it() -> None:
    Named().check_metric("recall_accuracy_4_shot")
    Named().check_metric("accuracy_4_shot")
    with pytest.raises(SuiteError, match="metric of named 'recall_accuracy_8_shot'"):
        Named().check_metric("recall_accuracy_8_shot")
