"""docs/exchange.md: its commands are executed, in its order, in a folder that has what it speaks of."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hub_stub import ask_here

if TYPE_CHECKING:
    from collections.abc import Callable

    from hub_stub import Hub

    Run = Callable[..., tuple[int, str, str]]

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "exchange.md").read_text(encoding="utf-8")
ROOT = Path(__file__).resolve().parents[2]


def commands(section: str = "") -> list[str]:
    """Return the command lines of a section, of the whole page by default."""
    text = PAGE.split(f"## {section}\n")[1].split("\n## ")[0] if section else PAGE
    return [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def place(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> Path:
    """A folder with the page's files, in which its first command ran."""
    shutil.copytree(world / "wds_colours", tmp_path / "DATA" / "wds_birds")
    shutil.copy(world / "nano.json", tmp_path / "my_config.json")
    shutil.copy(world / "nano.pt", tmp_path / "model.pt")
    (tmp_path / "suite.yaml").write_text(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])
    monkeypatch.chdir(tmp_path)
    execute(commands()[0], run)
    return tmp_path


def execute(line: str, run: Run) -> str:
    """Run a command of ours in this process; return what it printed."""
    program, *arguments = shlex.split(line)
    assert program == "rwkvclip-eval", line
    code, out, err = run(*arguments)
    assert code == 0, f"{line}\n{err}"
    return out


def as_process(line: str, **extra: str) -> None:
    """Run a command of others as a shell does, on this checkout."""
    folders = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    path = ":".join(str(ROOT / folder) for folder in (".", "models", "train"))
    done = subprocess.run(
        line,
        shell=True,
        env=os.environ | {"PATH": folders, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | extra,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"


def test_every_command_stands_in_a_section_that_a_test_here_executes() -> None:
    sections = [*re.findall(r"^## (.*)$", PAGE, re.MULTILINE)]
    assert sections == [
        "A model card",
        "CLIP_benchmark's files",
        "Our models in CLIP_benchmark",
        "MTEB",
        "TensorBoard and Weights & Biases",
    ]
    assert 1 + sum(len(commands(section)) for section in sections) == len(commands())


def test_a_model_card(place: Path, run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, push = commands("A model card")
    execute(first, run)
    execute(second, run)
    for folder in ("runs/mine/report", "cards"):
        assert (place / folder / "model_card" / "my_config" / "README.md").is_file()
    ask_here(hub, place / "hub", monkeypatch)
    execute(push, run)
    assert b"birds" in hub.files["README.md"]


def test_clip_benchmarks_files(place: Path, run: Run) -> None:
    export, build, bring, report = commands("CLIP_benchmark's files")
    assert "2 result files" in execute(export, run)
    # The package's script, without asking where it is installed.
    as_process(build.replace("clip_benchmark", "python -m clip_benchmark.cli", 1))
    execute(bring, run)
    execute(report, run)
    text = (place / "comparison" / "report.md").read_text()
    assert re.search(r"my\\_config.json model.pt \(rwkvclip-eval", text)


def test_our_models_in_clip_benchmark(place: Path, run: Run) -> None:
    entry, bring = commands("Our models in CLIP_benchmark")
    as_process(entry)
    assert "3 numbers of 1 models" in execute(bring, run)


def test_mteb(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mteb = pytest.importorskip("mteb", reason="mteb is not installed")
    from mteb.models import EncoderProtocol

    (line,) = commands("MTEB")
    model = re.search(r"--model mteb:(\S+)", line)
    # Loading it needs the network; that it is known does not.
    assert model and "image" in mteb.get_model_meta(model[1]).modalities
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    asked: list[Any] = []
    monkeypatch.setattr(mteb, "evaluate", lambda model, tasks: asked.append((model, tasks)))
    exec(code, {})
    ((model, tasks),) = asked
    assert isinstance(model, EncoderProtocol)
    assert [task.metadata.name for task in tasks] == ["CIFAR10ZeroShot"]


def test_tensorboard_and_weights_and_biases(place: Path, run: Run) -> None:
    tensorboard, wandb = commands("TensorBoard and Weights & Biases")
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    assert "6 numbers of 1 models" in execute(tensorboard, run)
    pytest.importorskip("wandb", reason="wandb is not installed")
    as_process(wandb.replace("rwkvclip-eval", "python -m rwkvclip_eval"))
    assert list((place / "wandb").rglob("results_*.table.json"))
