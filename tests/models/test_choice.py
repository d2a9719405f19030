"""What an implementation must do before "auto" takes it. The CPU's stands for those of GPUs."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from rwkvclip_models.config import load_config
from rwkvclip_models.errors import UserError
from rwkvclip_models.ops import agreement, attempt, build, choice, compilers, library, trial


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


@pytest.fixture
def undecided(monkeypatch):
    """Nothing is known of the CPU's library, which is not built for this."""
    monkeypatch.setattr(choice, "_warned", set())
    monkeypatch.setattr(build, "library", lambda name: None)
    for cached in (choice.status, choice._decide):
        cached.cache_clear()
    yield
    for cached in (choice.status, choice._decide):
        cached.cache_clear()


def test_a_library_with_an_instruction_that_the_processor_lacks_is_passed_over(undecided, answers):
    answers("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    said = r"'torch', not 'cpu': its trial on cpu was ended by SIGILL\. Set CXX to another compiler"
    with pytest.warns(choice.ImplementationWarning, match=said):
        assert choice.resolve("auto") == "torch"
    with pytest.raises(UserError, match="was ended by SIGILL"):
        choice.resolve("cpu")


def test_the_process_of_a_trial_starts_no_trial(undecided, monkeypatch):
    monkeypatch.setattr(choice, "_trusted", set())
    monkeypatch.setattr(trial, "verdict", lambda *_: pytest.fail("a trial"))
    choice.trust("cpu")
    assert choice.resolve("cpu") == "cpu"


@pytest.fixture
def answers(monkeypatch, tmp_path):
    """Gives the trial's process another program; verdicts go to a folder of their own."""
    monkeypatch.setenv("RWKVCLIP_BUILD_DIR", str(tmp_path))
    monkeypatch.setattr(trial, "_kept_in", lambda name, place: tmp_path / "verdict.json")

    def program(code):
        monkeypatch.setattr(trial, "_command", lambda: [sys.executable, "-c", code])

    return program


def test_why_a_gpu_does_not_run_the_kernels_comes_with_the_versions_that_must_fit(monkeypatch, answers):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    monkeypatch.setattr(trial, "driver", lambda: "12.2")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "3.6")
    monkeypatch.setattr(compilers, "nvcc", lambda: ("nvcc",))
    monkeypatch.setattr(compilers, "output", lambda _: "Cuda compilation tools, release 13.0, V13.0.88\n")
    said = "RuntimeError: CUDA driver version is insufficient for CUDA runtime version"
    answers(f"print({json.dumps(json.dumps({'error': said, 'wrong': ''}))})")
    reason, cure = trial.verdict("cuda", "cuda:0")
    assert "on NVIDIA H200, driver for CUDA 12.2, Cuda compilation tools, release 13.0" in reason
    assert reason.endswith(said)
    assert "driver" in cure
    assert ", Triton 3.6" in trial.where("triton", "cuda:0")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.abort()", "its trial on cpu was ended by SIGABRT."),
        ("import ctypes; ctypes.string_at(0)", "its trial on cpu was ended by SIGSEGV."),
        ("import sys; sys.exit('no such kernel')", "ended with exit code 1: no such kernel"),
        ("print('{')", "ended with exit code 0"),
        ('print(\'{"error": null, "wrong": null}\')', "ended with exit code 0"),
        ('print(\'{"error": "", "wrong": "", "more": ""}\')', "ended with exit code 0"),
        ("print('[]')", "ended with exit code 0"),
        ('print(\'{"error": "", "wrong": ""}\'); raise SystemExit(1)', "ended with exit code 1"),
        ("import time; time.sleep(60)", "did not end within 2 s."),
    ],
)
def test_a_crash_a_hang_and_nonsense_stay_in_the_process_of_the_trial(monkeypatch, answers, code, said):
    monkeypatch.setattr(trial, "TIMEOUT_S", 2.0)
    answers(code)
    reason, cure = trial.verdict("cpu", "cpu")
    assert said in reason
    assert cure


def test_a_verdict_is_kept_and_one_cut_short_is_asked_for_again(answers, tmp_path):
    answers('print(\'{"error": "", "wrong": "its errors are large"}\')')
    first = trial.verdict("cpu", "cpu")
    assert first[0] == "its errors are large"
    answers("raise SystemExit('asked again')")
    assert trial.verdict("cpu", "cpu") == first
    kept = tmp_path / "verdict.json"
    for half in (
        kept.read_bytes()[:20],
        b"[]",
        b'{"reason": 1, "cure": "", "expires": null}',
        b'{"reason": "", "cure": "Report this.", "expires": null}',
        b'{"reason": "", "cure": "", "expires": "never"}',
        b'{"reason": "", "cure": ""}',
    ):
        kept.write_bytes(half)
        assert "asked again" in trial.verdict("cpu", "cpu")[0]


def test_a_trial_that_did_not_end_is_tried_again_after_a_day(monkeypatch, answers):
    monkeypatch.setattr(trial, "TIMEOUT_S", 0.5)
    answers("import time; time.sleep(60)")
    first = trial.verdict("cpu", "cpu")
    assert "did not end within" in first[0]
    answers('print(\'{"error": "", "wrong": ""}\')')
    assert trial.verdict("cpu", "cpu") == first
    now = trial.time.time()
    monkeypatch.setattr(trial.time, "time", lambda: now + 90_000)
    monkeypatch.setattr(trial, "TIMEOUT_S", 60.0)
    assert trial.verdict("cpu", "cpu") == ("", "")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ('print(\'{"error": "CUDA out of memory", "wrong": ""}\')', "out of memory"),
        (
            'print(\'{"error": "DefaultCPUAllocator: can\\\'t allocate memory", "wrong": ""}\')',
            "allocate memory",
        ),
        ("raise MemoryError", "exit code 1: MemoryError"),
        (
            "import sys; sys.exit('libgomp: Thread creation failed: Resource temporarily unavailable')",
            "temporarily unavailable",
        ),
    ],
)
def test_a_machine_that_was_full_is_no_verdict(answers, tmp_path, code, said):
    answers(code)
    assert said in trial.verdict("cpu", "cpu")[0]
    assert not (tmp_path / "verdict.json").exists()


def test_a_trial_that_the_system_ended_or_never_started_is_no_verdict(monkeypatch, answers, tmp_path):
    answers("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert "was ended by SIGKILL" in trial.verdict("cpu", "cpu")[0]
    monkeypatch.setattr(trial, "_command", lambda: [str(tmp_path / "no-python")])
    assert "no process could be started" in trial.verdict("cpu", "cpu")[0]
    assert not (tmp_path / "verdict.json").exists()


@pytest.mark.parametrize("command", [None, ""])
def test_where_python_does_not_know_its_command_nothing_is_tried_and_no_verdict_kept(
    monkeypatch, tmp_path, command
):
    monkeypatch.setattr(trial, "_kept_in", lambda name, place: tmp_path / "verdict.json")
    monkeypatch.setattr(sys, "executable", command)
    assert "no process could be started" in trial.verdict("cpu", "cpu")[0]
    assert not (tmp_path / "verdict.json").exists()


def test_verdicts_are_of_one_library_device_and_torch(monkeypatch, tmp_path):
    library = SimpleNamespace(_name="/cache/rwkvclip_cpu-0123.so")
    monkeypatch.setattr(build, "library", lambda name: library)
    names = {trial._kept_in("cpu", "one GPU"), trial._kept_in("cpu", "another GPU")}
    library._name = "/cache/rwkvclip_cpu-4567.so"
    names.add(trial._kept_in("cpu", "one GPU"))
    monkeypatch.setattr(torch, "__version__", "9.9")
    names |= {trial._kept_in("cpu", "one GPU"), trial._kept_in("triton", "one GPU")}
    assert len(names) == 5


def test_a_trial_imports_nothing_from_the_current_folder(monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('taken from the current folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setattr(trial, "_kept_in", lambda name, place: tmp_path / "verdict.json")
    assert trial.verdict("cpu", "cpu") == ("", "")


def test_a_sound_implementation_passes_its_trial_whatever_mode_the_caller_is_in():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        assert attempt.attempt("cpu", torch.device("cpu")) == {"error": "", "wrong": ""}


def test_an_implementation_whose_gradients_fail_is_not_taken(spoil):
    def fails(_):
        raise RuntimeError("too many resources requested for launch")

    spoil(library.recurrence("cpu"), "bi_wkv6_backward", fails)
    assert "RuntimeError: too many resources" in attempt.attempt("cpu", torch.device("cpu"))["error"]


@pytest.mark.parametrize("wrong", [1.01, float("nan")])
def test_an_implementation_that_computes_something_else_is_not_taken(spoil, wrong):
    spoil(library.elementwise("cpu"), "relu_square", lambda y: y * wrong)
    said = attempt.attempt("cpu", torch.device("cpu"))["wrong"]
    assert "its errors in torch.float32 on this cpu" in said


def test_what_takes_the_place_of_its_operand_is_tried_too(monkeypatch):
    module = library.elementwise("cpu")
    monkeypatch.setattr(module, "relu_square_", lambda x: x.copy_(1.01 * module.relu_square(x)))
    assert "its errors in torch.float32" in attempt.attempt("cpu", torch.device("cpu"))["wrong"]


def test_every_form_that_a_tower_uses_is_tried(monkeypatch):
    tried = []
    for kind in (agreement.Recurrence, agreement.Elementwise):

        def errors(problem, name, device, dtype):
            form = getattr(problem, "grid", problem.num_tokens)
            tried.append((dtype, form, problem.heads, problem.head_width))
            return {"y": 0.0}

        monkeypatch.setattr(kind, "errors", errors)
    attempt.attempt("cpu", torch.device("cpu"))
    b32, b16 = load_config("rwkv-clip-b32"), load_config("rwkv-clip-b16")
    text = b32.n_embd // b32.head_size, b32.head_size
    forms = {(b32.ctx_len, *text), ((b32.ctx_len, 1, 2), *text)}
    for config in (b32, b16):
        side = config.input_size // config.image_patch_size
        heads = config.image_num_heads
        image = heads, config.image_embed_dims // heads
        forms |= {(side**2, *image), ((side, side, 4), *image), (1024, *image)}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert {tuple(form) for own, *form in tried if own == dtype} == forms
