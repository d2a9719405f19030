"""What an implementation must do before "auto" takes it. The CPU's stands for those of GPUs."""

import pytest
import torch

from rwkvclip_models.ops import agreement, choice, compilers, library


@pytest.fixture
def spoil(monkeypatch):
    """Replaces a function of the CPU's implementation by one that changes its result."""

    def replace(module, name, change):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *operands: change(real(*operands)))

    return replace


@pytest.fixture
def missing(monkeypatch):
    """Implementations that cannot run; the others can."""
    names = set()

    def status(name):
        reason, cure = (f"No {name}.", "Install it.") if name in names else ("", "")
        return choice.ImplementationStatus(name=name, available=not reason, reason=reason, cure=cure)

    monkeypatch.setattr(choice, "status", status)
    monkeypatch.setattr(choice, "_warned", set())
    choice._decide.cache_clear()
    yield names
    choice._decide.cache_clear()


@pytest.mark.parametrize(
    ("without", "taken", "message"),
    [
        ({"cuda"}, "triton", r"'triton', not 'cuda': No cuda\. Install it\.$"),
        (
            {"cuda", "triton"},
            "torch",
            r"'torch', not 'cuda': No cuda\. Install it\. Nor 'triton': No triton\. Install it\.$",
        ),
    ],
)
def test_on_a_gpu_auto_takes_the_next_implementation_and_warns_once(missing, without, taken, message):
    missing |= without
    with pytest.warns(choice.ImplementationWarning, match=message) as seen:
        for dtype in (torch.float32, torch.bfloat16):
            assert choice.resolve("auto", device="cuda", dtype=dtype) == taken
    assert len(seen) == 1


def test_on_a_gpu_auto_takes_cuda_without_a_warning(missing, recwarn):
    assert choice.resolve("auto", device="cuda") == "cuda"
    assert not recwarn


def test_why_a_gpu_does_not_run_the_kernels_comes_with_the_versions_that_must_fit(monkeypatch):
    def fails(*_):
        raise RuntimeError("CUDA driver version is insufficient for CUDA runtime version")

    monkeypatch.setattr(agreement, "recurrence_error", fails)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    monkeypatch.setattr(choice, "_driver", lambda: "12.2")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "3.6")
    monkeypatch.setattr(compilers, "nvcc", lambda: ("nvcc",))
    monkeypatch.setattr(compilers, "output", lambda _: "Cuda compilation tools, release 13.0, V13.0.88\n")
    reason, cure = choice._try("cuda", torch.device("cuda", 0))
    assert "on NVIDIA H200, driver for CUDA 12.2, Cuda compilation tools, release 13.0" in reason
    assert reason.endswith("RuntimeError: CUDA driver version is insufficient for CUDA runtime version")
    assert "driver" in cure
    assert ", Triton 3.6" in choice._place("triton", torch.device("cuda", 0))


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
