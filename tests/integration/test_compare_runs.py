"""Real runs compared by a real process: with themselves, with a damaged model, over another copy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from command import environment, run_cli

if TYPE_CHECKING:
    from pathlib import Path

Cli = Callable[..., subprocess.CompletedProcess[str]]
MARGIN = ("--margin", "15")
"""Points: 60 images and 12 captioned ones prove no less."""


@pytest.fixture(scope="module")
def runs(colour_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three runs: of a model, of the same model again, and of a damaged one."""
    base = tmp_path_factory.mktemp("compared")
    # The same pictures in other files, listed in another order.
    copy = base / "copy"
    shutil.copytree(colour_suite.parent, copy)
    for name in ("red", "green", "blue"):
        for path in sorted((copy / "colours" / name).glob("*.png")):
            path.rename(path.with_name(f"{99 - int(path.stem):02d}.png"))
    for name, suite, model in (
        ("good", colour_suite, "make"),
        ("again", copy / "suite.yaml", "make"),
        ("damaged", colour_suite, "colour_blind"),
    ):
        spec = ("--model", f"python:toy_factory:{model}", "--batch-size", "7")
        done = run_cli(base, base / "cache", "run", suite, *spec, "--no-report", "--out", name)
        assert done.returncode == 0, done.stderr
    return base


def test_a_run_and_itself_pass_and_nothing_flips(cli: Cli, runs: Path) -> None:
    done = cli("compare", runs / "good", runs / "good", *MARGIN, "--format", "json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["verdict"] == "PASS"
    assert {row["dataset"] for row in content["rows"]} == {"colours", "pictures"}
    for row in content["rows"]:
        assert row["baseline"] == row["candidate"]
        assert row.get("flipped", {"gained": [], "lost": []}) == {"gained": [], "lost": []}


def test_a_damaged_model_is_a_regression(cli: Cli, runs: Path) -> None:
    done = cli("compare", runs / "good", runs / "damaged", *MARGIN)
    assert done.returncode == 1, done.stderr
    assert "REGRESSION: the mean is" in done.stdout
    assert cli("compare", runs / "damaged", runs / "good", *MARGIN).returncode == 0


def test_another_copy_of_the_images_is_paired_by_content(cli: Cli, runs: Path) -> None:
    done = cli("compare", runs / "good", runs / "again", *MARGIN, "--format", "json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    copied = [row for row in rows if "paired by what the images hold" in "".join(row["notes"])]
    assert {row["dataset"] for row in copied} == {"colours"}
    assert [row["difference"]["value"] for row in rows] == [0] * len(rows)


def test_a_comparison_needs_no_torch(runs: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rwkvclip_eval.compare.pairing import read_side\n"
        "from rwkvclip_eval.compare.result import compare_runs\n"
        "sides = [read_side(Path(name)) for name in ('good', 'damaged')]\n"
        "print(compare_runs(*sides).judgement.verdict)\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=runs, env=environment(runs / "cache"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "REGRESSION\n"), done.stderr
