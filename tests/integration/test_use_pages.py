"""Pages of docs/ for one use each: their commands and files are executed on small data, in their order."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from command import environment
from PIL import Image
from toy import write_shards

from rwkvclip_models import load_model

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).resolve().parents[2]
NANO: dict[str, Any] = {
    "input_size": 32, "image_depth": 1, "image_embed_dims": 32, "image_patch_size": 16,
    "image_hidden_rate": 2, "image_num_heads": 2, "ctx_len": 77, "vocab_size": 49408,
    "head_size": 16, "head_size_divisor": 8, "n_layer": 1, "n_embd": 32, "dim_att": 32,
    "dim_ffn": 64, "drop_path_rate": 0.0,
}  # fmt: skip


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def commands(text: str) -> list[str]:
    """Return every command line of a page, in its order."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.splitlines()]


def block(text: str, marker: str) -> str:
    """Return the fenced block after the comment `<!-- test: MARKER -->`."""
    found = re.search(rf"<!-- test: {marker} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found, marker
    return found[1]


def execute(line: str, run: Run, *codes: int) -> str:
    """Run a command in this process; return what it printed."""
    program, *arguments = shlex.split(line)
    assert program == "rwkvclip-eval", line
    code, out, err = run(*arguments)
    assert code in (codes or (0,)), f"{line}\n{code}\n{out}\n{err}"
    return out


def write_nano(folder: Path, *checkpoints: str) -> None:
    """Write nano.json and random weights, each checkpoint of a seed of its own."""
    (folder / "nano.json").write_text(json.dumps(NANO))
    for seed, name in enumerate(checkpoints):
        torch.save(load_model(NANO, seed=seed).state_dict(), folder / name)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_gate_a_checkpoint_in_ci(place: Path, run: Run, tmp_path: Path) -> None:
    text = page("gate-in-ci.md")
    evaluate_main, pin, evaluate, compare, groups = commands(text)
    write_nano(place, "main.pt", "candidate.pt", "third.pt", "fourth.pt")
    (place / "floors.yaml").write_text(block(text, "floors"))
    (place / "baselines").mkdir()
    execute(evaluate_main, run)
    execute(pin, run)
    # A gate that fails says which floor; random weights may reach either side of them.
    assert "Floors: " in execute(evaluate, run, 0, 1)
    said = execute(compare, run, 0, 1, 3)
    assert said.startswith("### ")
    assert {one.name for one in (place / "comparison").iterdir()} >= {"comparison.md", "comparison.xml"}
    check_workflow(yaml.safe_load(block(text, "workflow")), (evaluate, compare), place, tmp_path)
    for name, checkpoint in (("main-1", "third.pt"), ("mine-1", "fourth.pt")):
        line = evaluate_main.replace("main.pt", checkpoint).replace("runs/main", f"runs/{name}")
        execute(line, run)
    for name, other in (("main", "main-0"), ("candidate", "mine-0")):
        shutil.copytree(place / "runs" / name, place / "runs" / other)
    assert "WEAK EVIDENCE of mine beside main" in execute(groups, run, 3)


def check_workflow(workflow: Any, ours: tuple[str, str], place: Path, scratch: Path) -> None:
    """Fail unless the workflow has the page's commands, and its comparison does in a shell what it says."""
    steps = {step["name"]: step["run"] for step in workflow["jobs"]["gate"]["steps"] if "name" in step}
    evaluate, compare = ours
    assert steps["Evaluate"] == evaluate
    script = steps["Compare with the baseline"]
    assert compare in script
    programs = scratch / "programs"
    programs.mkdir()
    program = programs / "rwkvclip-eval"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m rwkvclip_eval "$@"\n')
    program.chmod(0o755)
    extra = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "GITHUB_STEP_SUMMARY": str(scratch / "summary"),
    }
    # As GitHub runs a step.
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=place, env=environment(scratch / "cache", **extra), capture_output=True, text=True, check=False,
    )  # fmt: skip
    summary = (scratch / "summary").read_text()
    failed = summary.startswith("### ❌ REGRESSION")
    assert done.returncode == (1 if failed else 0), done.stderr
    assert summary.startswith("### ")
    assert "| set | metric |" in summary


def test_reproduce_the_tables(place: Path, run: Run) -> None:
    write_nano(place, "model_31.pt")
    write_shards(place / "DATA", "cifar10", "test", [i % 10 for i in range(40)], 80)
    (place / "DATA" / "wds_cifar10" / "classnames.txt").write_text("".join(f"thing {i}\n" for i in range(10)))
    for line in commands(page("reproduce-tables.md")):
        if " published " in line:
            assert "cifar10" in execute(line, run)
            continue
        # Few of the suite's data are here, which is said (3).
        partly = (3,) if " run " in line else (0, 3)
        execute(line.replace("rwkv-clip-b32=", "nano.json="), run, *partly)
    assert list((place / "comparison" / "tables").glob("*.tex"))
    assert (place / "comparison" / "index.html").is_file()


def test_bring_your_own(place: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page("bring-your-own.md")
    for name, marker in (
        ("my_model.py", "own model"),
        ("birds.yaml", "own dataset"),
        ("marked.yaml", "own manifest"),
        ("my_task.py", "own task"),
        ("margins.yaml", "own task's suite"),
    ):
        (place / name).write_text(block(text, marker))
    rng = np.random.default_rng(0)
    rows = ["image,label"]
    (place / "images").mkdir()
    for name in ("owl", "wren"):
        (place / "birds" / name).mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "birds" / name / f"{i}.jpg")
            shutil.copy(place / "birds" / name / f"{i}.jpg", place / "images" / f"{name}{i}.jpg")
            rows.append(f"{name}{i}.jpg,{name}")
    (place / "labels.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.syspath_prepend(str(place))
    for line in commands(text):
        said = execute(line, run)
    assert "mean margin" in said
    results = (place / "runs" / "margins" / "results.jsonl").read_text()
    assert json.loads(results)["n"] == 4


def test_get_the_datasets(place: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(ref: Any, *args: Any, **options: Any) -> str:
        asked.append(ref.name)
        return f"{ref.name}: fetched"

    # Nothing here opens a socket.
    monkeypatch.setattr("rwkvclip_eval.data.download.download_dataset", download)
    write_shards(place / "DATA", "cifar10", "test", [i % 10 for i in range(10)], 80)
    names = ("/a/abbey", "/z/zoo")
    for name in names:
        (place / "SUN397" / name[1:]).mkdir(parents=True)
        for split in ("Training", "Testing"):
            Image.new("RGB", (8, 8), "red").save(place / "SUN397" / name[1:] / f"sun_{split}.jpg")
    (place / "SUN397" / "ClassName.txt").write_text("".join(f"{name}\n" for name in names))
    for split in ("Training", "Testing"):
        text = "".join(f"{name}/sun_{split}.jpg\n" for name in names)
        (place / "SUN397" / f"{split}_01.txt").write_text(text)
    for line in commands(page("get-the-datasets.md")):
        execute(line, run, 0, 1, 3)
    assert asked[0] == "cifar10"
    assert {"food101", "dtd", "pets"} <= set(asked)
    assert (place / "DATA" / "wds_sun397@partition1").is_dir()


def test_the_table_of_datasets_is_the_catalogue_s() -> None:
    spec = importlib.util.spec_from_file_location("dataset_table", ROOT / "docs" / "dataset_table.py")
    assert spec and spec.loader
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    assert len(table.rows()) == 27
    text = page("get-the-datasets.md")
    assert text == table.with_table(text), "run `python docs/dataset_table.py`"


@pytest.mark.parametrize(
    "name", ["gate-in-ci.md", "reproduce-tables.md", "bring-your-own.md", "get-the-datasets.md"]
)
def test_pages_point_at_what_is_there_and_the_readme_at_them(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page(name)):
        assert (
            target.startswith("https://") or target.startswith("http://") or (ROOT / "docs" / target).exists()
        )
    assert f"(docs/{name})" in (ROOT / "README.md").read_text(encoding="utf-8")
