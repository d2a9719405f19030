"""Suites and recipes that are no suites and recipes: one short message, soon, and nothing runs."""

import itertools
import os
import time

import pytest

from rwkvclip_eval.errors import SuiteError, UserError
from rwkvclip_eval.plan.suite import load_suite, parse_suite
from rwkvclip_eval.plan.units import plan
from rwkvclip_train.recipe import RecipeError, load_recipe

HEAD = "name: s\ntasks:\n - task: zero_shot_classification\n   datasets:\n"
LETTERS = "abcdefghijklmnopqrstuvw"


def nested(last: str, form: str) -> str:
    """YAML in which every key stands for nine times the one before."""
    lines = [f"a: &a {last}"]
    lines += [f"{b}: &{b} " + form % ",".join([f"*{a}"] * 9) for a, b in itertools.pairwise(LETTERS)]
    return "\n".join(lines)


MISTAKES = {
    "aliases that grow": (nested("[x]", "[%s]"), "more than 20000 keys"),
    "merges that grow": (nested("{x: 1}", "{<<: [%s]}"), "more than 20000 keys"),
    "an alias inside itself": ("name: &a [*a]", "stands inside what it stands for"),
    "300,000 datasets": (HEAD + "   - cifar10\n" * 300_000, "at most 1048576 are read"),
    "40,000 datasets": (HEAD + "   - cifar10\n" * 40_000, "more than 20000 keys"),
    "4,000 datasets": (HEAD + "   - cifar10\n" * 4_000, "at most 1000 items after validation, not 4000"),
    "800 × 5 units": (
        HEAD.replace("datasets", "protocol: [standard, standard, standard]\n   datasets")
        + "   - cifar10\n" * 800,
        "2400 units of work; at most 2000 are run",
    ),
    "1,000 unknown datasets": (HEAD + "".join(f"   - x{i}\n" for i in range(1000)), "more"),
    "9,000 unknown keys": (HEAD + "   - cifar10\n" + "".join(f"k{i}: 1\n" for i in range(9000)), "more"),
    "9,000 keys twice": ("a: 1\n" * 9000, "the key 'a' occurs twice"),
    "lists too deep": ("[" * 100_000, "nested too deeply"),
    "mappings too deep": ("{a: " * 100_000, "nested too deeply"),
    "a number of 5,000 digits": ("name: " + "9" * 5000, "Exceeds the limit"),
    "a date that is none": (
        "name: 2001-99-99",
        "s:1: not valid YAML: a value of the kind timestamp;",
    ),
    "a name of 900,000 letters": ("name: " + "x" * 900_000, "at most 300 characters"),
    "a key of 100,000 letters": ("? " + "x" * 100_000 + "\n: 3\n" + HEAD + "   - cifar10", "unknown key"),
    "a number as key": ("1: 2\n" + HEAD + "   - cifar10", "Keys should be strings (got 1)"),
    "a list as key": ("? [a, b]\n: 2\n", "unhashable"),
    "a control character": ("name: \x1b[31m", "#x001b"),
    "an escaped control character": ('name: "\\e[31m"\n' + HEAD[8:] + "   - cifar10", "name: String should"),
    "an object": ("name: !!python/object/apply:os.system ['touch PWNED']", "a value of the kind"),
    "models": ("models: ['python:os:system']\n" + HEAD + "   - cifar10", "unknown key 'models'"),
    "a plugin": ("plugin: x.py\n" + HEAD + "   - cifar10", "unknown key 'plugin'"),
    "a billion draws": (
        "name: s\ntasks:\n - task: few_shot_linear_probe\n   options: {num_seeds: 1000000000000}\n"
        "   datasets: [cifar10]",
        "s:4: tasks.0.options.num_seeds: Input should be less than or equal to 1000 (got 1000000000000)",
    ),
    "an infinite strength": (
        "name: s\ntasks:\n - task: linear_probe\n   options: {C: .inf}\n   datasets: [cifar10]",
        "tasks.0.options.C: Input should be a finite number (got inf)",
    ),
    "true for a strength": (
        "name: s\ntasks:\n - task: linear_probe\n   options: {C: true}\n   datasets: [cifar10]",
        "s:4: tasks.0.options.C: Input should be a valid number (got True)",
    ),
    "true for a count": (
        "name: s\ntasks:\n - task: few_shot_linear_probe\n   options: {num_seeds: true}\n"
        "   datasets: [cifar10]",
        "tasks.0.options.num_seeds: Input should be a valid integer (got True)",
    ),
    "a number for true": (
        "name: s\ntasks:\n - task: linear_probe\n   options: {normalize: 1}\n   datasets: [cifar10]",
        "s:4: tasks.0.options.normalize: Input should be a valid boolean (got 1)",
    ),
    "a text for true": (
        "name: s\ntasks:\n - task: knn_probe\n   options: {standardize: 'on'}\n   datasets: [cifar10]",
        "tasks.0.options.standardize: Input should be a valid boolean (got 'on')",
    ),
    "true in a list of shots": (
        "name: s\ntasks:\n - task: few_shot_linear_probe\n   options: {shots: [4, true]}\n"
        "   datasets: [cifar10]",
        "tasks.0.options.shots.1: Input should be a valid integer (got True)",
    ),
    "a metric that no task gives": (
        HEAD + "   - {name: cifar10, metric: banana}\n",
        "s:5: Unknown metric of zero_shot_classification 'banana'",
    ),
    "another task's metric": (
        HEAD + "   - {name: cifar10, metric: roc_auc}\n",
        "Unknown metric of zero_shot_classification 'roc_auc'",
    ),
    "an average's metric that no task gives": (
        HEAD
        + "   - cifar10\naverages:\n - {name: a, task: zero_shot_classification, metric: top1_accurac}\n",
        "s:7: Unknown metric of zero_shot_classification 'top1_accurac'. Did you mean 'top1_accuracy'",
    ),
    "a split with a space": (
        HEAD + "   - {name: cifar10, split: 'test '}\n",
        "tasks.0.datasets.0.split: String should match pattern",
    ),
    "a split in wide letters": (
        HEAD + "   - {name: cifar10, split: ｔｅｓｔ}\n",
        "s:5: Unknown split of cifar10 'ｔｅｓｔ'",
    ),
    "a split that the set has not": (
        HEAD + "   - {name: cifar10, split: tset}\n",
        "Unknown split of cifar10 'tset'. Did you mean 'test'?",
    ),
    "nothing": ("", "expected a mapping"),
    "a number": ("3", "expected a mapping"),
}


@pytest.mark.parametrize("text, said", MISTAKES.values(), ids=MISTAKES)
def test_a_suite_that_is_none_is_one_short_message(text, said):
    started = time.monotonic()
    with pytest.raises(SuiteError) as caught:
        plan(parse_suite(text, source="s"))
    assert said in str(caught.value)
    assert len(str(caught.value)) < 2000
    # A hang, not a speed, is what this looks for.
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "mistake", ["aliases that grow", "lists too deep", "an object", "a plugin", "nothing"]
)
def test_a_recipe_that_is_none_is_one_short_message(tmp_path, mistake):
    (tmp_path / "r.yaml").write_text(MISTAKES[mistake][0])
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 10**30), ("steps", 10**30), ("lr", ".inf"), ("batch_size", 10**12), ("name", "../x")],
)
def test_a_recipe_asks_for_no_absurd_number(tmp_path, key, value):
    keys = {"batch_size": 2, "lr": 1, "steps": 1, "name": "a", "data": "[]", "model": "{}", key: value}
    (tmp_path / "r.yaml").write_text("\n".join(f"{k}: {v}" for k, v in keys.items()))
    with pytest.raises(RecipeError, match=rf"r\.yaml:\d: {key}: "):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("load", [load_suite, load_recipe])
def test_a_pipe_and_a_device_are_not_read(tmp_path, load):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name, kind in (("pipe", "a named pipe"), ("zero", "a device")):
        with pytest.raises(UserError, match=f"expected a file, found {kind}"):
            load(tmp_path / f"{name}.yaml")


def test_a_suite_that_is_not_utf_8_is_said(tmp_path):
    (tmp_path / "s.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(SuiteError, match="not UTF-8 text: byte 6 is 0xff"):
        load_suite(tmp_path / "s.yaml")


def test_a_true_step_of_a_recipe_is_no_number(tmp_path):
    keys = {"batch_size": 2, "lr": 1, "steps": "true", "name": "a", "data": "[]", "model": "{}"}
    (tmp_path / "r.yaml").write_text("\n".join(f"{k}: {v}" for k, v in keys.items()))
    with pytest.raises(RecipeError, match=r"r\.yaml:3: steps: Input should be a valid integer \(got True\)"):
        load_recipe(tmp_path / "r.yaml")


def test_what_may_be_true_or_false_still_is():
    options = "{standardize: true, C: 1}"
    text = f"name: s\ntasks:\n - task: linear_probe\n   options: {options}\n   datasets: [cifar10]"
    (unit,) = plan(parse_suite(text))
    assert "standardize=True" in unit.protocol.name and "C=1" in unit.protocol.name


@pytest.mark.parametrize("metric", ["top1_accuracy", "mean_per_class_accuracy", "top1_accuracy_4_shot"])
def test_a_metric_of_few_shots_may_be_named_with_or_without_them(metric):
    text = "name: s\ntasks:\n - task: few_shot_linear_probe\n   datasets: [{name: cifar10, metric: METRIC}]\n"
    assert len(plan(parse_suite(text.replace("METRIC", metric)))) == 1


def test_an_alias_may_stand_for_a_list_of_datasets():
    text = "name: s\ntasks:\n - task: zero_shot_classification\n   datasets: &all [cifar10, mnist]\n"
    text += " - task: linear_probe\n   datasets: *all\n"
    assert len(plan(parse_suite(text))) == 4
