"""What an implementation must do before "auto" takes it. The CPU's stands for those of GPUs."""

import pytest
import torch

from rwkvclip_models.ops import choice, library


@pytest.fixture
def spoil(monkeypatch):
    """Replaces a function of the CPU's implementation by one that changes its result."""

    def replace(module, name, change):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *operands: change(real(*operands)))

    return replace


def test_a_sound_implementation_passes_its_trial_whatever_mode_the_caller_is_in():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        assert choice._trial("cpu") == ("", "")


def test_an_implementation_whose_gradients_fail_is_not_taken(spoil):
    def fails(_):
        raise RuntimeError("too many resources requested for launch")

    spoil(library.recurrence("cpu"), "bi_wkv6_backward", fails)
    assert "RuntimeError: too many resources" in choice._trial("cpu")[0]


@pytest.mark.parametrize("wrong", [1.01, float("nan")])
def test_an_implementation_that_computes_something_else_is_not_taken(spoil, wrong):
    spoil(library.elementwise("cpu"), "relu_square", lambda y: y * wrong)
    reason, cure = choice._trial("cpu")
    assert "its errors in torch.float32 on this cpu" in reason
    assert "doctor" in cure
