"""What a training run continues from, where something else wrote it."""

import os

import pytest
import torch

from rwkvclip_eval.errors import CheckpointError, OutputError
from rwkvclip_train.loop import read_log, resume


@pytest.fixture
def model():
    return torch.nn.Linear(2, 2)


@pytest.mark.parametrize(
    "content",
    [
        {"identity": "a"},
        {"identity": "a", "model": 3, "optimizer": {}, "step": 1},
        {"identity": "a", "model": {"w": torch.zeros(1)}, "optimizer": {}, "step": 1},
        {"identity": "b"},
        [1, 2],
    ],
)
def test_a_state_of_another_form_is_a_message(tmp_path, model, content):
    torch.save(content, tmp_path / "resume.pt")
    with pytest.raises(OutputError, match="delete"):
        resume(tmp_path / "resume.pt", "a", model, torch.optim.AdamW(model.parameters()), 100)


@pytest.mark.parametrize("step", [-3, 0, 101, True, 1.0, "1", 10**30])
def test_a_step_that_the_run_has_not_is_a_message(tmp_path, model, step):
    optimizer = torch.optim.AdamW(model.parameters())
    state = {"identity": "a", "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state | {"step": step}, tmp_path / "resume.pt")
    with pytest.raises(OutputError, match="expected 1 to 100"):
        resume(tmp_path / "resume.pt", "a", model, optimizer, 100)
    with torch.no_grad():
        bad = {key: value * float("nan") for key, value in state["model"].items()}
    torch.save(state | {"step": 7, "model": bad}, tmp_path / "resume.pt")
    with pytest.raises(OutputError, match="weights that are not finite"):
        resume(tmp_path / "resume.pt", "a", torch.nn.Linear(2, 2), optimizer, 100)
    torch.save(state | {"step": 7}, tmp_path / "resume.pt")
    assert resume(tmp_path / "resume.pt", "a", model, optimizer, 100) == 7


def test_a_damaged_state_is_a_message(tmp_path, model):
    torch.save({"identity": "a", "model": model.state_dict()}, tmp_path / "resume.pt")
    (tmp_path / "resume.pt").write_bytes((tmp_path / "resume.pt").read_bytes()[:500])
    with pytest.raises(CheckpointError, match="damaged"):
        resume(tmp_path / "resume.pt", "a", model, torch.optim.AdamW(model.parameters()), 100)


@pytest.mark.parametrize("line", ["3", "{}", '{"step": "x"}', "{", "[" * 100_000, '{"step": NaN}'])
def test_a_log_of_another_form_is_a_message(tmp_path, line):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(OutputError, match=r"log\.jsonl"):
        read_log(tmp_path / "log.jsonl", last_step=5)


def test_a_pipe_in_the_place_of_state_or_log_is_not_waited_for(tmp_path, model):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="a named pipe"):
        resume(tmp_path / "pipe", "a", model, torch.optim.AdamW(model.parameters()), 100)
    with pytest.raises(OutputError, match="a named pipe"):
        read_log(tmp_path / "pipe", last_step=1)
