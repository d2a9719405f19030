"""What a training run continues from, where something else wrote it."""

import functools
import math
import os

import pytest
import torch
from safetensors.torch import save_file

from rwkvclip_eval.errors import CheckpointError, OutputError
from rwkvclip_models import files
from rwkvclip_train import log
from rwkvclip_train.checkpoints import Checkpoints, Progress
from rwkvclip_train.log import read_keys, read_log, require_room
from rwkvclip_train.recipe import load_recipe
from rwkvclip_train.resume import ProgressEntry


class World:
    """A folder with the state of step 7 of 100, to be changed before it is loaded."""

    def __init__(self, folder):
        self.folder = folder
        self.model = torch.nn.Linear(2, 2)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.checkpoints = Checkpoints(folder, "a", num_steps=100, every=10)
        self.checkpoints.save(Progress(step=7), self.model, self.optimizer, self.scaler)
        self.state = torch.load(folder / "resume.pt", weights_only=True)

    def changed(self, **changes):
        torch.save(self.state | changes, self.folder / "resume.pt")

    def load(self):
        return self.checkpoints.load(self.model, self.optimizer, self.scaler)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"identity": "a"},
        {"identity": "a", "progress": {"step": 1}},
        {"identity": "a", "progress": 3, "optimizer": {}},
        {"identity": "a", "progress": {"step": 7, "who": 1}, "weights": "step_000007.safetensors"},
        {"identity": "b"},
        [1, 2],
    ],
)
def test_a_state_of_another_form_is_a_message(world, content):
    torch.save(content, world.folder / "resume.pt")
    with pytest.raises(OutputError, match="delete"):
        world.load()


@pytest.mark.parametrize("step", [-3, 0, 101, True, 1.0, "1", 10**30])
def test_a_step_that_the_run_has_not_is_a_message(world, step):
    world.changed(progress=world.state["progress"] | {"step": step})
    with pytest.raises(OutputError, match="expected 1 to 100"):
        world.load()


def test_a_state_as_it_was_written_is_loaded(world):
    expected = {key: value.clone() for key, value in world.model.state_dict().items()}
    with torch.no_grad():
        world.model.weight.zero_()
    assert world.load() == Progress(step=7)
    assert all(torch.equal(value, expected[key]) for key, value in world.model.state_dict().items())


@pytest.mark.parametrize("optimizer", [{}, 3, {"state": {}, "param_groups": []}])
def test_an_optimizer_of_another_form_is_a_message(world, optimizer):
    world.changed(optimizer=optimizer)
    with pytest.raises(OutputError, match="delete"):
        world.load()


def test_weights_that_are_gone_changed_or_not_finite_are_a_message(world):
    path = world.checkpoints.path(7)
    weights = path.read_bytes()
    path.unlink()
    with pytest.raises(OutputError, match=r"step_000007\.safetensors are gone; delete|are gone\); delete"):
        world.load()
    path.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(OutputError, match="have changed since"):
        world.load()
    path.unlink()
    save_file({key: value * torch.nan for key, value in world.model.state_dict().items()}, path)
    from rwkvclip_models.disk import file_digest

    world.changed(weights_sha256=file_digest(path))
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        world.load()


def test_a_damaged_state_is_a_message(world):
    path = world.folder / "resume.pt"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="damaged"):
        world.load()


@pytest.mark.parametrize("steps", [(40,), (7, 10)])
def test_checkpoints_without_a_state_are_not_begun_over(world, steps):
    (world.folder / "resume.pt").unlink()
    weights = world.checkpoints.path(7)
    for step in steps:
        world.checkpoints.path(step).write_bytes(weights.read_bytes())
    before = sorted(path.name for path in world.folder.iterdir())
    with pytest.raises(OutputError, match=r"and no resume\.pt to continue from"):
        world.load()
    assert sorted(path.name for path in world.folder.iterdir()) == before


def test_a_kill_between_the_first_weights_and_their_state_begins_over(world):
    (world.folder / "resume.pt").unlink()
    assert world.load().step == 0


@pytest.mark.parametrize("line", ["3", "{}", '{"step": "x"}', "{", "[" * 100_000, '{"step": NaN}'])
def test_a_log_of_another_form_is_a_message(tmp_path, line):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(OutputError, match=r"log\.jsonl"):
        read_log(tmp_path / "log.jsonl", last_step=5)


@pytest.mark.parametrize("line", ["x 0 00", "", "-1 0 00", "1.5 0 00"])
def test_a_record_of_keys_of_another_form_is_a_message(tmp_path, line):
    (tmp_path / "log.keys").write_text("1 0 00\n" + line + "\n")
    with pytest.raises(OutputError, match=r"log\.keys"):
        read_keys(tmp_path / "log.keys", last_step=5)


def test_a_pipe_in_the_place_of_state_or_log_is_not_waited_for(world):
    (world.folder / "resume.pt").unlink()
    os.mkfifo(world.folder / "resume.pt")
    with pytest.raises(CheckpointError, match="a named pipe"):
        world.load()
    with pytest.raises(OutputError, match="a named pipe"):
        read_log(world.folder / "resume.pt", last_step=1)


def stepped(folder, precision="fp32"):
    """Return a world that has taken a step, with the optimizer that training has."""
    world = World(folder)
    world.optimizer = torch.optim.AdamW(world.model.parameters(), lr=0.5, fused=True)
    world.scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16")
    loss = world.scaler.scale(world.model(torch.ones(3, 2)).square().sum())
    loss.backward()
    world.scaler.step(world.optimizer)
    world.scaler.update()
    progress = Progress(step=7, skipped=1, overflowed=2, loss_sum=3.5, loss_count=2, scores={5: math.inf})
    world.checkpoints.save(progress, world.model, world.optimizer, world.scaler)
    world.state = torch.load(folder / "resume.pt", weights_only=True)
    return world


def test_the_schema_has_the_fields_of_a_runs_progress():
    assert list(ProgressEntry.model_fields) == list(vars(Progress()))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_state_goes_through_a_file_to_the_same_bytes(tmp_path, precision):
    world = stepped(tmp_path, precision)
    before = (tmp_path / "resume.pt").read_bytes()
    progress = world.load()
    assert progress.scores == {5: math.inf}
    world.checkpoints.save(progress, world.model, world.optimizer, world.scaler)
    assert (tmp_path / "resume.pt").read_bytes() == before


FIELDS = {
    "scores=None": ({"scores": None}, "progress.scores: Input should be a valid dictionary (got None)"),
    "a score by a name": ({"scores": {"a": "b"}}, "progress.scores.a"),
    "a score that is none": ({"scores": {1: math.nan}}, "scores.1: expected a mean loss, got nan"),
    "a score of later": ({"scores": {8: 1.0}}, "scores: expected steps from 1 to 7, got 8"),
    "loss_sum a list": ({"loss_sum": [1]}, "progress.loss_sum: Input should be a valid number (got a list)"),
    "loss_sum=None": ({"loss_sum": None}, "progress.loss_sum: Input should be a valid number (got None)"),
    "loss_sum=NaN": ({"loss_sum": math.nan}, "progress.loss_sum: Input should be a finite number (got nan)"),
    "loss_count a text": ({"loss_count": "x"}, "progress.loss_count: Input should be a valid integer"),
    "loss_count=-1": ({"loss_count": -1}, "progress.loss_count: Input should be greater than or equal to 0"),
    "loss_count of more": (
        {"loss_count": 8},
        "loss_count: expected at most the 7 steps",
    ),
    "skipped a text": ({"skipped": "x"}, "progress.skipped: Input should be a valid integer (got 'x')"),
    "skipped of more": ({"skipped": 6}, "skipped + overflowed: expected at most the 7 steps"),
    "skipped=-1": ({"skipped": -1}, "progress.skipped: Input should be greater than or equal to 0 (got -1)"),
    "overflowed=-1": ({"overflowed": -1}, "progress.overflowed: Input should be greater than or equal to 0"),
    "overflowed a list": ({"overflowed": [1]}, "progress.overflowed: Input should be a valid integer"),
    "who": ({"who": 1}, "progress.who: unknown key 'who'"),
}


@pytest.mark.parametrize("what", FIELDS)
def test_progress_that_does_not_fit_is_named(tmp_path, what):
    changes, said = FIELDS[what]
    world = stepped(tmp_path)
    world.changed(progress=world.state["progress"] | changes)
    with pytest.raises(OutputError) as caught:
        world.load()
    assert said in str(caught.value)
    assert str(tmp_path / "resume.pt") in str(caught.value) and "delete" in str(caught.value)


MOMENTS = {
    "of one number": ("exp_avg", torch.zeros(1), "expected 2 × 2, float32, got 1, float32"),
    "repeated": ("exp_avg", torch.zeros(1).expand(10**6), "expected 2 × 2, float32, got 1000000, float32"),
    "repeated to its shape": ("exp_avg", torch.zeros(1).expand(2, 2), "with memory of its own, got a view"),
    "a part": ("exp_avg", torch.zeros(9)[:4].view(2, 2), "with memory of its own, got a view"),
    "turned": ("exp_avg", torch.eye(2).T, "with memory of its own, got a view"),
    "with a gradient": ("exp_avg", torch.zeros(2, 2, requires_grad=True), "got a view"),
    "of another type": ("exp_avg", torch.zeros(2, 2).double(), "expected 2 × 2, float32, got 2 × 2, float64"),
    "sparse": ("exp_avg", torch.zeros(2, 2).to_sparse(), "got 2 × 2, float32, torch.sparse_coo"),
    "no tensor": ("exp_avg", 3.0, "expected 2 × 2, float32 (got 3.0)"),
    "NaN": ("exp_avg", torch.full((2, 2), math.nan), "expected finite numbers, got NaN or infinity"),
    "infinite": ("exp_avg", torch.tensor([[0, -math.inf], [0, 0]]), "expected finite numbers, got NaN"),
    "a negative square": ("exp_avg_sq", torch.tensor([[0, -1.0], [0, 0]]), "which are 0 or more, got -1"),
    "an infinite square": ("exp_avg_sq", torch.full((2, 2), math.inf), "expected finite numbers"),
    "step NaN": (
        "step",
        torch.tensor(math.nan),
        "from 0 to the 4 steps that were taken, got nan",
    ),
    "step 0.5": ("step", torch.tensor(0.5), "expected a whole number from 0 to the 4 steps"),
    "step -1": ("step", torch.tensor(-1.0), "expected a whole number from 0 to the 4 steps"),
    "step 5": ("step", torch.tensor(5.0), "from 0 to the 4 steps that were taken, got 5"),
    "step of two": ("step", torch.ones(2), "expected one number, float32, got 2, float32"),
    "step no tensor": ("step", 1.0, "expected one number, float32 (got 1.0)"),
}


@pytest.mark.parametrize("what", MOMENTS)
def test_what_the_optimizer_keeps_of_a_parameter_must_fit_it(tmp_path, what):
    name, value, said = MOMENTS[what]
    world = stepped(tmp_path)
    world.state["optimizer"]["state"][0][name] = value
    world.changed()
    before = {key: tensor.clone() for key, tensor in world.model.state_dict().items()}
    with torch.no_grad():
        world.model.weight.zero_()
    with pytest.raises(OutputError) as caught:
        world.load()
    assert f"optimizer.state.0.{name}: " in str(caught.value)
    assert said in str(caught.value)
    # Nothing was taken over.
    assert not world.model.weight.any() and before["weight"].any()


def test_two_moments_in_the_same_memory_are_refused(tmp_path):
    world = stepped(tmp_path)
    entry = world.state["optimizer"]["state"][0]
    entry["exp_avg_sq"] = entry["exp_avg"] = torch.ones(2, 2)
    world.changed()
    with pytest.raises(OutputError, match=r"state\.0\.exp_avg_sq: .*memory of its own"):
        world.load()


ENTRIES = {
    "no exp_avg": (lambda state: state[0].pop("exp_avg"), "expected step, exp_avg, exp_avg_sq, got ['exp_a"),
    "a further moment": (lambda state: state[0].update(max_exp_avg_sq=0), "'max_exp_avg_sq', 'step']"),
    "a further parameter": (
        lambda state: state.update({2: state[0]}),
        "state.2: expected parameters from 0",
    ),
    "a named parameter": (lambda state: state.update(a=state.pop(0)), "optimizer.state.a"),
    "an entry that is none": (lambda state: state.update({0: 3}), "optimizer.state.0"),
}


@pytest.mark.parametrize("what", ENTRIES)
def test_entries_of_the_optimizer_must_be_of_its_parameters(tmp_path, what):
    change, said = ENTRIES[what]
    world = stepped(tmp_path)
    change(world.state["optimizer"]["state"])
    world.changed()
    with pytest.raises(OutputError) as caught:
        world.load()
    assert said in str(caught.value)


GROUP = {
    **{"amsgrad": True, "maximize": True, "weight_decay": -1e9, "lr": [1], "betas": "ab", "foreach": "x"},
    **{"fused": None, "capturable": True, "differentiable": True, "eps": math.nan, "more": 1},
}


@pytest.mark.parametrize("key", GROUP)
def test_settings_of_the_optimizer_are_the_recipes_whatever_the_file_says(tmp_path, key):
    world = stepped(tmp_path)
    before = (tmp_path / "resume.pt").read_bytes()
    expected = dict(world.optimizer.param_groups[0])
    world.state["optimizer"]["param_groups"][0][key] = GROUP[key]
    world.changed()
    progress = world.load()
    assert {k: v for k, v in world.optimizer.param_groups[0].items() if k != "params"} == {
        k: v for k, v in expected.items() if k != "params"
    }
    world.checkpoints.save(progress, world.model, world.optimizer, world.scaler)
    assert (tmp_path / "resume.pt").read_bytes() == before


@pytest.mark.parametrize("numbers", [[0], [0, 0], [1, 0], [0, 1, 2], None, "ab"])
def test_groups_of_other_parameters_are_refused(tmp_path, numbers):
    world = stepped(tmp_path)
    world.state["optimizer"]["param_groups"][0]["params"] = numbers
    world.changed()
    with pytest.raises(OutputError, match=r"optimizer\.param_groups: expected groups of 2 parameters"):
        world.load()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scale": math.inf}, "scaler.scale: expected a finite number above 0 (got inf)"),
        ({"scale": math.nan}, "scaler.scale"),
        ({"scale": 0.0}, "scaler.scale"),
        ({"scale": 1e39}, "scaler.scale"),
        ({"scale": "x"}, "scaler.scale"),
        ({"_growth_tracker": -1}, "scaler._growth_tracker: expected a whole number from 0 to 2000 (got -1)"),
        ({"_growth_tracker": 1.0}, "scaler._growth_tracker"),
        ({"more": 1}, "scaler: expected scale, growth_factor"),
    ],
)
def test_a_loss_scale_that_does_not_fit_is_named(tmp_path, changes, said):
    world = stepped(tmp_path, "fp16")
    world.changed(scaler=world.state["scaler"] | changes)
    with pytest.raises(OutputError) as caught:
        world.load()
    assert said in str(caught.value)


def test_settings_of_the_loss_scaler_are_its_own(tmp_path):
    world = stepped(tmp_path, "fp16")
    world.changed(scaler=world.state["scaler"] | {"growth_factor": math.nan, "growth_interval": "x"})
    world.load()
    assert world.scaler.state_dict() == world.state["scaler"]


def test_a_loss_scale_where_there_is_none_is_named(tmp_path):
    world = stepped(tmp_path)
    world.changed(scaler={"scale": 1.0})
    with pytest.raises(OutputError, match="expected nothing, as the recipe's precision has none"):
        world.load()


def test_logs_of_too_many_or_too_long_lines_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n' * (files.MOST_LINES + 1))
    with pytest.raises(OutputError, match=f"has {files.MOST_LINES + 1} lines; at most {files.MOST_LINES}"):
        read_log(path, last_step=5)
    path.write_text('{"step": 1}\n{"step": 1, "a": "' + "x" * files.LINE_LIMIT_BYTES + '"}\n')
    with pytest.raises(OutputError, match=r"line 2, has \d+ characters; at most"):
        read_log(path, last_step=5)
    monkeypatch.setattr(log, "MAX_KEYS_LINES", 2)
    path.write_text("1 0 00\n" * 3)
    with pytest.raises(OutputError, match="has 3 lines; at most 2 are read"):
        read_keys(path, last_step=5)


def test_a_log_that_could_not_be_read_again_is_refused_before_the_first_step():
    recipe = functools.partial(load_recipe, "nano-digits-rwkv-clip")
    require_room(recipe(["log_every=1"]), 117_696)
    with pytest.raises(OutputError, match=r"would have 1000000 lines; .* Raise log_every \(1\)"):
        require_room(recipe(["log_every=1"]), 1_000_000)
    require_room(recipe(["log_every=100"]), 10_000_000)
    with pytest.raises(OutputError, match="20000000 steps are more than a record of keys holds"):
        require_room(recipe(["log_every=1000"]), 20_000_000)
