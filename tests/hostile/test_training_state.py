"""What a training run continues from, where something else wrote it."""

import os

import pytest
import torch
from safetensors.torch import save_file

from rwkvclip_eval.errors import CheckpointError, OutputError
from rwkvclip_train.checkpoints import Checkpoints, Progress
from rwkvclip_train.log import read_keys, read_log


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
