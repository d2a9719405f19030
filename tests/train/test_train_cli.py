import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from test_loop import recipe

from rwkvclip_eval.records.reading import training_seeds
from rwkvclip_train import gradients
from rwkvclip_train.cli import main
from rwkvclip_train.recipe import shipped_recipes


class Result(NamedTuple):
    exit_code: int
    output: str


@pytest.fixture
def run(monkeypatch, capsys):
    """Run `rwkvclip-train ARGUMENTS` in this process."""

    def call(arguments):
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["rwkvclip-train", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        shown = capsys.readouterr()
        return Result(left.value.code, shown.out + shown.err)

    return call


def write(folder: Path, **changes: object) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe("open_clip", **changes).model_dump(mode="json", exclude_none=True)))
    return str(path)


def test_help_shows_examples(run):
    result = run(["--help"])
    assert result.exit_code == 0
    assert "nano-digits-rwkv-clip" in result.output


def test_list_names_every_shipped_recipe(run):
    result = run(["--list"])
    assert result.exit_code == 0
    assert all(name in result.output for name in shipped_recipes())


def test_a_run_ends_with_the_spec_for_evaluation(tmp_path, run):
    result = run([write(tmp_path, steps=1), "--out", str(tmp_path / "out"), "--quiet", "--threads", "1"])
    assert result.exit_code == 0, result.output
    out = tmp_path / "out" / "models" / "tiny"
    assert f"--model open_clip:{out / 'tiny.json'}={out / 'step_000001.safetensors'}" in result.output


def test_a_seed_of_the_command_line_is_trained_with_and_kept_in_the_log(tmp_path, run):
    path = write(tmp_path, steps=1, seed=0)
    options = ["--quiet", "--threads", "1"]
    checkpoints = []
    for seed in ("3", "4"):
        out = tmp_path / seed
        assert run([path, "--seed", seed, "--out", str(out), *options]).exit_code == 0
        assert training_seeds(out) == {int(seed)}
        checkpoints.append((out / "models" / "tiny" / "step_000001.safetensors").read_bytes())
    assert checkpoints[0] != checkpoints[1]


def test_check_trains_nothing(tmp_path, run):
    result = run([write(tmp_path), "--check", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nano-digit-clip"], "Did you mean 'nano-digits-clip'"),
        ([], "give a recipe"),
        (["nano-digits-clip", "--device", "tpu9"], "Unknown device 'tpu9'"),
        (["nano-digits-clip", "--num-workers", "-1"], "--num-workers"),
        (["nano-digits-clip", "--seed", "-1"], "--seed"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(arguments, said, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    result = run(arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


def test_debug_shows_the_traceback(run):
    result = run(["nano-digit-clip", "--debug"])
    assert result.exit_code == 2
    assert "Traceback" in result.output
    assert "RecipeError" in result.output


def test_an_interrupt_exits_with_130(tmp_path, monkeypatch, run, request):
    def stop(*args, **given):
        signal.raise_signal(signal.SIGINT)

    # Of a test run in the background it may be switched off.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    monkeypatch.setattr(gradients, "global_contrastive_loss", stop)
    result = run([write(tmp_path), "--out", str(tmp_path / "out"), "--quiet"])
    assert result.exit_code == 130
    assert "to continue" in result.output


def test_help_loads_no_torch():
    code = "import sys, rwkvclip_train.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=_environment()).returncode == 0


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
