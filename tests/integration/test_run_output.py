"""What a run says: what is missing once, how far it is, the numbers at the end; and what a dry run says."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from toy import COLOURS

import rwkvclip_eval as rc
from rwkvclip_eval.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]

MODEL = ("--model", "python:toy_factory:make", "--batch-size", "4")
PROBES = "datasets: [cifar10, kinetics700, sun397, {name: colours, folder: colours}]"
SUITE = f"""\
name: mixed
tasks:
  - task: zero_shot_classification
    protocol: [standard, official-rwkv-clip]
    datasets:
      - cifar10
      - kinetics700
      - sun397
      - {{name: colours, folder: colours, templates: ["a {{c}} picture"]}}
  - {{task: linear_probe, {PROBES}}}
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, colour in COLOURS.items():
            folder = tmp_path / "colours" / split / name
            folder.mkdir(parents=True)
            for i in range(6):
                pixels = np.clip(np.array(colour) + rng.normal(0, 60, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    (tmp_path / "data").mkdir()
    path = tmp_path / "mixed.yaml"
    path.write_text(SUITE)
    return path


def test_a_run_says_what_is_missing_once_how_far_it_is_and_its_numbers(
    run: Run, suite: Path, tmp_path: Path
) -> None:
    code, out, err = run("run", suite, *MODEL, "--data-root", tmp_path / "data", "--out", tmp_path / "out")
    assert code == 3
    lines = err.splitlines()
    assert lines[0] == f"1 of 4 datasets found under {tmp_path / 'data'}."
    for dataset in ("cifar10", "kinetics700", "sun397@partition1"):
        (line,) = [line for line in lines if line.startswith(f"  {dataset}: ")]
        assert "no test, train" in line and len(line) < 100
    commands = [line.strip() for line in lines if line.startswith("  rwkvclip-eval ")]
    root = shlex.quote(str(tmp_path / "data"))
    assert commands == [
        f"rwkvclip-eval data download cifar10 sun397@partition1 --data-root {root}",
        f"rwkvclip-eval data list kinetics700 --data-root {root}",
    ]
    assert run(*shlex.split(commands[1])[1:])[0] == 0
    assert (out + err).count("cifar10") == 2
    assert "missing_data" not in out + err and "No data for" not in out + err
    assert "9 units without data, of 3 datasets" in out

    units = [re.match(r"\[unit (\d+) of 12, about \S+ \S+ left\] \S+  top-1 ", line) for line in lines]
    assert [found[1] for found in units if found] == ["4", "8", "12"]

    table = [line.split("\t") for line in out.splitlines() if "\t" in line]
    assert table[0] == ["task", "dataset", "metric", "python:toy_factory:make"]
    assert [row[:3] for row in table[1:]] == [
        ["Zero-shot classification · standard", "colours", "top-1, %"],
        ["Zero-shot classification · official-rwkv-clip", "colours", "top-1, %"],
        ["Linear probe · clip-certified", "colours", "top-1, %"],
    ]
    assert all(re.fullmatch(r"\d+\.\d \[\d+\.\d, \d+\.\d\]", row[3]) for row in table[1:])


def test_a_dry_run_says_what_is_to_be_done_and_leaves_nothing(run: Run, suite: Path, tmp_path: Path) -> None:
    command = ("run", suite, *MODEL, "--data-root", tmp_path / "data", "--out", tmp_path / "out")
    code, out, _ = run(*command, "--dry-run")
    assert code == 3
    rows = [line.split("\t") for line in out.splitlines() if line.count("\t") == 6]
    assert rows[0] == ["model", "task", "dataset", "protocol", "images", "texts", "state"]
    states = {(row[1], row[2], row[3]): row[4:] for row in rows[1:]}
    zero_shot, colours = "zero_shot_classification", "colours"
    assert states[zero_shot, colours, "standard"] == ["18", "3", "to encode"]
    assert states[zero_shot, colours, "official-rwkv-clip"] == ["0", "0", "stored, to score"]
    assert states["linear_probe", colours, "clip-certified"] == ["18", "0", "to encode"]
    assert states["linear_probe", "kinetics700", "clip-certified"] == ["0", "0", "no data"]
    assert "1 of 4 datasets found" in out
    assert "12 units to do, 0 finished; 36 images and 3 texts to encode." in out
    assert re.search(r"takes about .* images/s on colours\)", out)
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "cache").glob("features/**/*.npy"))
    assert run(*command, "--no-report")[0] == 3
    again = run(*command, "--dry-run")[1]
    assert "9 units to do, 3 finished; 0 images and 0 texts to encode." in again
    assert run(*command, "--dry-run", "--limit", "3")[0] == 2
    # Another run finds in the store what this one encoded.
    other = run(*command[:-1], tmp_path / "other", "--dry-run")[1]
    assert "12 units to do, 0 finished; 0 images and 0 texts to encode." in other
    assert "Encoding takes" not in other


def test_a_run_of_something_else_says_in_what_it_differs(suite: Path, tmp_path: Path) -> None:
    def start(*models: str, text: str = "", **options: object) -> None:
        loaded = suite.with_name("other.yaml")
        loaded.write_text(text or SUITE)
        rc.run_suite(
            loaded,
            models,
            tmp_path / "out",
            options=rc.RunOptions(cache_dir=tmp_path / "cache", **options),
        )

    model = "python:toy_factory:make"
    start(model)
    with pytest.raises(
        OutputError, match=r"another run \(precision: 'fp32' there, 'bf16' now; limit: none there, 3 now\)"
    ):
        start(model, limit=3, precision="bf16")
    with pytest.raises(OutputError, match=r"\(models only now: python:toy_factory:make=random:1\)"):
        start(model, f"{model}=random:1")
    with pytest.raises(OutputError, match=r"\(another text of the suite mixed\)"):
        start(model, text=SUITE + "# a remark\n")
    with pytest.raises(OutputError, match=r"\(suite mixed there, other now\)") as caught:
        start(model, text=SUITE.replace("name: mixed", "name: other", 1))
    assert "{" not in str(caught.value)
