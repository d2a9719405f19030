"""`--set` and `--shots`: options in the place of a suite's own."""

from __future__ import annotations

import hashlib

import pytest

from rwkvclip_eval.errors import SuiteError, UserError
from rwkvclip_eval.plan.overrides import overridden, parse_setting, parse_shots, with_settings, with_shots
from rwkvclip_eval.plan.suite import LoadedSuite, parse_suite
from rwkvclip_eval.plan.units import plan

PROBES = """\
name: mine
tasks:
- task: few_shot_linear_probe
  options: {num_seeds: 5}
  datasets: [cifar10]
- task: linear_probe
  protocol: [clip-certified, clip-lbfgs]
  datasets: [cifar10]
- {task: zero_shot_classification, datasets: [cifar10]}
"""


def changed(*settings: str, text: str = PROBES) -> LoadedSuite:
    return with_settings(parse_suite(text), [parse_setting(one) for one in settings])


def protocols(loaded: LoadedSuite) -> list[str]:
    return [unit.protocol.name for unit in plan(loaded)]


def test_a_setting_stands_in_the_protocol_of_every_unit_of_its_task_and_of_no_other() -> None:
    assert protocols(changed("linear_probe.C=0.316", "linear_probe.normalize=true")) == [
        "clip-certified (num_seeds=5)",
        "clip-certified (C=0.316, normalize=True)",
        "clip-lbfgs (C=0.316, normalize=True)",
        "standard",
    ]
    few = protocols(changed("few_shot_linear_probe.shots=[1, 4]"))
    assert few[0] == "clip-certified (shots=1+4, num_seeds=5)"


def test_settings_are_part_of_what_makes_a_run_the_run_it_is() -> None:
    plain = parse_suite(PROBES)
    one, two = "linear_probe.C=1", "linear_probe.normalize=true"
    assert len({plain.sha256, *(changed(*s).sha256 for s in ((one,), (two,), (one, two)))}) == 4
    assert changed(one, two).sha256 == changed(two, one).sha256
    assert changed(one).sha256 == changed("linear_probe.C= 1").sha256
    assert changed(one).text == plain.text


def test_shots_are_short_for_a_setting_with_the_hash_that_they_always_had() -> None:
    plain = parse_suite(PROBES)
    short, long = with_shots(plain, [1, 4, 1]), changed("few_shot_linear_probe.shots=[1,4]")
    assert short.suite == long.suite
    assert short.sha256 == hashlib.sha256(f"{PROBES}\n--shots 1,4".encode()).hexdigest()
    both = with_settings(short, [parse_setting("linear_probe.C=1")])
    assert both.sha256 not in (short.sha256, changed("linear_probe.C=1").sha256)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("linear_prob.C=1", "Unknown task of this suite 'linear_prob'. Did you mean 'linear_probe'"),
        ("knn_probe.k=1", "Unknown task of this suite 'knn_probe'."),
        ("linear_probe.c=1", "Unknown option of linear_probe 'c'."),
        ("linear_probe.serch=grid", "Unknown option of linear_probe 'serch'. Did you mean 'search'?"),
        ("linear_probe.method=lbfgs", "The protocol decides it: clip-certified or clip-lbfgs."),
        ("zero_shot_classification.C=1", "does not read the option 'C'. It has none."),
        ("linear_probe.C=much", "--set linear_probe: C: Input should be a valid number"),
        ("few_shot_linear_probe.shots=1,4", "--set few_shot_linear_probe: shots: Input should be a valid"),
        ("linear_probe", "expected TASK.OPTION=VALUE, such as linear_probe.C=0.316"),
        ("C=1", "expected TASK.OPTION=VALUE"),
        ("linear_probe.C=[", "--set linear_probe.C:1: not valid YAML"),
    ],
)
def test_a_slip_in_a_setting_is_named(setting: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        changed(setting)
    assert said in str(caught.value)


def test_an_option_is_set_once() -> None:
    with pytest.raises(SuiteError, match=r"--set linear_probe\.C stands there twice"):
        changed("linear_probe.C=1", "linear_probe.C=2")
    with pytest.raises(SuiteError, match="C fixes the strength, so search would not be read"):
        changed("linear_probe.C=1", "linear_probe.search=grid")


def test_the_command_line_takes_both_forms_but_not_of_the_same_option() -> None:
    plain = parse_suite(PROBES)
    assert overridden(plain, [], None) is plain
    both = overridden(plain, ["linear_probe.C=1"], "1,4")
    assert protocols(both)[:2] == ["clip-certified (shots=1+4, num_seeds=5)", "clip-certified (C=1.0)"]
    with pytest.raises(UserError, match=r"--set few_shot_linear_probe.shots and --shots set the same"):
        overridden(plain, ["few_shot_linear_probe.shots=[1]"], "1,4")


def test_shots_can_be_given_to_the_tasks_that_read_them_and_to_no_other() -> None:
    loaded = parse_suite(PROBES)
    few, linear, _ = with_shots(loaded, [1, 4]).suite.tasks
    assert few.options == {"num_seeds": 5, "shots": [1, 4]} and linear.options is None
    assert len({loaded.sha256, with_shots(loaded, [1]).sha256, with_shots(loaded, [1, 4]).sha256}) == 3
    with pytest.raises(SuiteError, match="from 1 up, not 0"):
        with_shots(loaded, [0])
    with pytest.raises(SuiteError, match=r"has no task that draws shots: .* with few_shot_linear_probe"):
        with_shots(parse_suite(PROBES.partition("- task")[0] + "- " + PROBES.rpartition("- ")[2]), [1])


@pytest.mark.parametrize("text", ["1,x", "", "1;2", "-1"])
def test_shots_that_are_no_numbers_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected numbers divided by commas, such as 1,2,4,8,16"):
        parse_shots(text)
