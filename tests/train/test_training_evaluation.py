"""Evaluation while training goes on: its numbers, what they decide, and that training does not notice it."""

import json
import os
import random
import signal
import threading
import time

import numpy as np
import pytest
import torch
from train_runs import Run, left_by, lines, ranks, write_recipe

import rwkvclip_eval as rc
from rwkvclip_eval.errors import EncodingFailed, UserError
from rwkvclip_eval.plan.suite import parse_suite
from rwkvclip_eval.report import write_report
from rwkvclip_train import evaluation, log, parallel
from rwkvclip_train.evaluation import undisturbed
from rwkvclip_train.loop import train
from rwkvclip_train.parallel import TorchrunRanks
from rwkvclip_train.recipe import RecipeError, load_recipe

TASKS = [
    {"task": "zero_shot_classification", "datasets": ["digits"]},
    {"task": "knn_probe", "datasets": ["digits"]},
]
EVALUATION = {"tasks": TASKS, "limit": 20}
TOP1 = "zero_shot_classification/standard/digits/top1_accuracy"
RANK = "zero_shot_retrieval/standard/digits_scenes/image_retrieval_median_rank"


@pytest.fixture(scope="module", autouse=True)
def _imported(tmp_path_factory):
    """Evaluate once in this process, so that what is imported on the way is there for all forks."""
    folder = tmp_path_factory.mktemp("imported")
    recipe = load_recipe(write_recipe(folder, steps=1, evaluation=EVALUATION))
    train(recipe, folder / "out", progress=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of a recipe and of the run of it that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    changes = {"keep_last": 1, "keep_best_by": TOP1, "evaluation": EVALUATION}
    recipe = write_recipe(folder, steps=6, checkpoint_every=2, **changes)
    run(recipe, "--out", folder / "out", output=folder / "said")
    return folder


class Found:
    """What `evaluate` returns, of given numbers."""

    records = ()

    def __init__(self, numbers):
        self._numbers = numbers

    def numbers(self):
        return self._numbers

    def mean_primary(self):
        return sum(self._numbers.values())


@pytest.fixture
def given(monkeypatch):
    """Have evaluations give numbers by their steps, instead of encoding."""

    def give(numbers):
        monkeypatch.setattr(evaluation, "evaluate", lambda spec, *_, **__: Found(numbers[spec.step]))

    return give


def run(*arguments, output, **given):
    code, said = Run(*arguments, output=output, **given).wait()
    assert code == 0, said
    return said


def without_results(out):
    """Return what a run leaves but for its evaluations' own files, which hold times."""
    return {name: what for name, what in left_by(out).items() if not name.startswith("evaluation/")}


def evaluated(out):
    return {line["step"]: line for line in lines(out) if "evaluation" in line}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_is_the_same_to_the_byte_with_and_without_evaluation(tmp_path, precision):
    for name, more in (("with", {"evaluation": EVALUATION}), ("without", {})):
        recipe = write_recipe(tmp_path / name, steps=4, checkpoint_every=2, precision=precision, **more)
        run(recipe, "--out", tmp_path / name / "out", output=tmp_path / "said")
    one, other = (without_results(tmp_path / name / "out") for name in ("with", "without"))
    assert [line["step"] for line in one["log"] if "evaluation" in line] == [2, 4]
    one["log"] = [line for line in one["log"] if "evaluation" not in line]
    for left in (one, other):
        del left["training/tiny.run.json"]
    assert one == other


def test_no_generator_notices_what_draws_in_between():
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        if drawn:
            with undisturbed(torch.device("cpu")):
                torch.rand(3), np.random.rand(3), random.random()
        drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))
    assert drawn[0] == drawn[1]


def test_the_numbers_are_those_of_the_checkpoint_and_a_report_draws_them_against_the_step(tmp_path, no_pdf):
    recipe = write_recipe(tmp_path, steps=4, checkpoint_every=2, evaluation=EVALUATION)
    run(recipe, "--out", tmp_path / "out", output=tmp_path / "said")
    found, models = evaluated(tmp_path / "out"), tmp_path / "out" / "models" / "tiny"
    suite = parse_suite(json.dumps({"name": "x", "tasks": TASKS}))
    results = rc.evaluate(f"{models / 'tiny.json'}={models / 'step_000004.safetensors'}", suite, limit=20)
    assert found[4]["evaluation"] == results.numbers()
    assert set(found) == {2, 4} and {TOP1, "knn_probe/knn/digits/top1_accuracy"} <= set(
        found[2]["evaluation"]
    )
    of_each = [
        found[4]["evaluation"][f"{task}/digits/top1_accuracy"]
        for task in ("zero_shot_classification/standard", "knn_probe/knn")
    ]
    assert found[4]["val_metric"] == pytest.approx(sum(of_each) / 2)

    places = sorted((tmp_path / "out" / "evaluation" / "tiny").iterdir())
    assert [place.name for place in places] == ["step_000002", "step_000004"]
    table = rc.load_results(places)
    assert sorted(table["model_info.step"].unique()) == [2, 4]
    page = write_report(places, tmp_path / "report").index.read_text()
    assert "against training step" in page


@pytest.mark.parametrize(
    "how", ["killed while it evaluates", "stopped while it evaluates", "stopped before it"]
)
def test_a_run_that_ends_at_an_evaluation_goes_on_as_if_nothing_had(tmp_path, monkeypatch, whole, how):
    real, keys = evaluation.evaluate, log.RunLog.keys

    def evaluate(spec, *rest, **more):
        if spec.step == 4 and "while" in how:
            os.kill(os.getpid(), signal.SIGKILL if "killed" in how else signal.SIGTERM)
        return real(spec, *rest, **more)

    def noted(self, step, *rest):
        if step == 3 and how == "stopped before it":
            os.kill(os.getpid(), signal.SIGTERM)
        keys(self, step, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "evaluate", evaluate)
        patched.setattr(log.RunLog, "keys", noted)
        code, said = Run(whole / "tiny.yaml", "--out", tmp_path / "cut", output=tmp_path / "said").wait()
    assert code == (-signal.SIGKILL if "killed" in how else 143), said
    assert set(evaluated(tmp_path / "cut")) == ({2, 4} if how == "stopped while it evaluates" else {2})
    run(whole / "tiny.yaml", "--out", tmp_path / "cut", output=tmp_path / "said")
    assert without_results(tmp_path / "cut") == without_results(whole / "out")


@pytest.mark.parametrize(
    ("by", "numbers", "best"),
    [
        (TOP1, {2: 0.1, 4: 0.5, 6: 0.9, 8: 0.5, 10: 0.3}, 6),
        ("val_metric", {2: 0.9, 4: 0.5, 6: 0.6, 8: 0.5, 10: 0.3}, 2),
        (RANK, {2: 9.0, 4: 3.0, 6: 7.0, 8: 8.0, 10: 8.0}, 4),
        (TOP1, {2: 0.1, 4: 0.2, 6: 0.2, 8: 0.4, 10: 0.9}, 10),
    ],
)
def test_the_best_checkpoint_by_a_number_stays(tmp_path, given, by, numbers, best):
    given({step: {by if "/" in by else TOP1: value} for step, value in numbers.items()})
    tasks = [*TASKS, {"task": "zero_shot_retrieval", "datasets": ["digits_scenes"]}]
    changes = {"keep_last": 1, "keep_best_by": by, "evaluation": {"tasks": tasks}}
    recipe = load_recipe(write_recipe(tmp_path, steps=10, checkpoint_every=2, **changes))
    trained = train(recipe, tmp_path / "out", progress=False)
    assert [path.name for path in trained.checkpoints] == [
        f"step_{step:06d}.safetensors" for step in sorted({best, 10})
    ]
    assert trained.best == tmp_path / "out" / "models" / "tiny" / f"step_{best:06d}.safetensors"


def test_the_command_names_the_best_and_evaluates_every_so_many_steps_and_the_last(tmp_path, given):
    given({step: {TOP1: 1 / step} for step in (4, 8, 10)})
    changes = {"keep_best_by": TOP1, "evaluation": {"tasks": TASKS, "every": 4}}
    recipe = write_recipe(tmp_path, steps=10, checkpoint_every=2, **changes)
    said = run(recipe, "--out", tmp_path / "out", output=tmp_path / "said").replace("\n", "")
    assert list(evaluated(tmp_path / "out")) == [4, 8, 10]
    assert f"Best by {TOP1} of the checkpoints that stay: " in said
    assert "step_000004.safetensors" in said


def test_an_evaluation_may_be_added_when_a_run_goes_on_and_begins_with_the_checkpoint_there(tmp_path, given):
    given({4: {TOP1: 0.5}, 6: {TOP1: 0.7}})
    for more, dies in (({}, 6), ({"evaluation": {"tasks": TASKS}}, None)):
        recipe = write_recipe(tmp_path, steps=6, checkpoint_every=2, **more)
        code, said = Run(recipe, "--out", tmp_path / "out", output=tmp_path / "said", dies_at=dies).wait()
        assert code == (0 if dies is None else -signal.SIGKILL), said
    assert [line["step"] for line in lines(tmp_path / "out")] == [1, 2, 3, 4, 4, 5, 6, 6]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"evaluation": {"tasks": [{"task": "zero_shot", "datasets": ["digits"]}]}},
            "Unknown task 'zero_shot'",
        ),
        (
            {"evaluation": {"tasks": [{"task": "knn_probe", "datasets": ["digit"]}]}},
            "Unknown dataset 'digit'",
        ),
        (
            {"evaluation": {"tasks": [{"task": "knn_probe", "datasets": ["digits_scenes"]}]}},
            "is a retrieval set",
        ),
        (
            {"evaluation": {"tasks": [{"task": "zero_shot_classification", "datasets": ["cifar10"]}]}},
            "cifar10",
        ),
        ({"evaluation": EVALUATION, "keep_best_by": f"{TOP1[:-1]}"}, f"Did you mean '{TOP1}'"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused_before_the_first_step(tmp_path, changes, said):
    recipe = load_recipe(write_recipe(tmp_path, steps=2, **changes))
    with pytest.raises(UserError) as caught:
        train(recipe, tmp_path / "out", progress=False)
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keep_best_by": TOP1}, "keep_best_by: there is no evaluation to have"),
        (
            {"evaluation": {"tasks": TASKS, "every": 15}},
            "evaluation.every: 15 is no multiple of checkpoint_every 10",
        ),
        ({"evaluation": {"tasks": []}}, "evaluation.tasks: the list is empty"),
        ({"evaluation": {"task": TASKS}}, "Did you mean 'tasks'"),
        (
            {"evaluation": {"tasks": [{"task": "knn_probe", "datasets": ["digits"], "protocol": "best"}]}},
            "Unknown protocol 'best'",
        ),
        (
            {"evaluation": {"tasks": [{"task": "knn_probe", "datasets": ["digits"], "options": {"k": 0}}]}},
            "options.k: Input should be greater",
        ),
    ],
)
def test_a_recipe_whose_measures_do_not_fit_is_named_with_its_key(tmp_path, changes, said):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write_recipe(tmp_path, **changes))
    assert said in str(caught.value)


def test_a_dataset_that_fails_on_the_way_is_null_in_the_log_said_once_and_ends_nothing(
    tmp_path, monkeypatch, capsys
):
    from rwkvclip_eval.run import unit

    score = unit._scored

    def fails(task, *rest):
        if task.name == "knn_probe":
            raise EncodingFailed("the disk is gone")
        return score(task, *rest)

    monkeypatch.setattr(unit, "_scored", fails)
    recipe = load_recipe(
        write_recipe(
            tmp_path,
            steps=2,
            checkpoint_every=2,
            keep_best_by="knn_probe/knn/digits/top1_accuracy",
            evaluation=EVALUATION,
        )
    )
    trained = train(recipe, tmp_path / "out", progress=False)
    (line,) = evaluated(tmp_path / "out").values()
    assert line["evaluation"]["knn_probe/knn/digits"] is None
    assert line["evaluation"][TOP1] >= 0
    assert "the disk is gone" in capsys.readouterr().err
    assert trained.best is None


class Store(dict):
    """What ranks ask each other by, in one process."""

    def check(self, keys):
        return all(key in self for key in keys)

    def set(self, key, value):
        self[key] = value.encode()

    def add(self, key, value):
        self[key] = self.get(key, 0) + value
        return self[key]


def test_other_ranks_wait_for_rank_0_without_an_exchange_whose_time_could_run_out(monkeypatch):
    store, done = Store(), []
    monkeypatch.setattr(parallel, "LED_POLL_S", 0.01)
    # No process group is there: an exchange would fail. The last wait is for ranks that are all done.
    monkeypatch.setattr(TorchrunRanks, "wait", lambda self: done.append(f"{self.rank} waits"))
    first, other = (TorchrunRanks.__new__(TorchrunRanks) for _ in range(2))
    for rank, one in enumerate((first, other)):
        one.rank, one.size, one._store, one._num_led, one._said = rank, 2, store, 0, False
    for number in (1, 2):
        waiting = threading.Thread(
            target=lambda: (other.led(lambda: done.append("other")), done.append("went on"))
        )
        waiting.start()
        time.sleep(0.1)
        assert waiting.is_alive() and len(done) == 4 * (number - 1)
        first.led(lambda: done.append("first"))
        waiting.join(10)
        assert done[-4] == "first"
        assert set(done[-3:]) == {"0 waits", "1 waits", "went on"}
    with pytest.raises(ZeroDivisionError):
        first.led(lambda: 1 / 0)
    with pytest.raises(UserError, match="Rank 1 of 2 lost the others"):
        other.led(lambda: None)


def test_one_of_two_ranks_evaluates(tmp_path, given):
    given({2: {TOP1: 0.25}, 4: {TOP1: 0.5}})
    recipe = write_recipe(tmp_path, steps=4, checkpoint_every=2, evaluation={"tasks": TASKS})
    for one in ranks(2, recipe, "--out", tmp_path / "out", output=tmp_path / "said"):
        code, said = one.wait()
        assert code == 0, said
    assert {step: line["evaluation"] for step, line in evaluated(tmp_path / "out").items()} == {
        2: {TOP1: 0.25},
        4: {TOP1: 0.5},
    }


def test_an_evaluation_that_fails_ends_all_ranks_with_one_message(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise UserError("the model gives NaN")

    monkeypatch.setattr(evaluation, "evaluate", fails)
    recipe = write_recipe(tmp_path, steps=4, checkpoint_every=2, evaluation={"tasks": TASKS})
    ends = [one.wait(60) for one in ranks(2, recipe, "--out", tmp_path / "out", output=tmp_path / "said")]
    assert all(code not in (0, 143) for code, _ in ends)
    assert sum(said.count("Error") for _, said in ends) == 1
    assert sum(said.count("the model gives NaN") for _, said in ends) == 1
    assert (tmp_path / "out" / "models" / "tiny" / "step_000002.safetensors").exists()
