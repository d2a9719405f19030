"""`run --fail-below FILE` as users type it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Cli = Callable[..., subprocess.CompletedProcess[str]]

FLOORS = """\
floors:
  - {task: zero_shot_classification, dataset: colours, protocol: standard, floor: %s}
"""


def test_floors_decide_the_exit_code_and_a_finished_run_is_not_run_again(
    cli: Cli, colour_suite: Path, tmp_path: Path
) -> None:
    model = ("--model", "python:toy_factory:make")
    command = ("run", colour_suite, *model, "--no-report", "--out", "out", "--fail-below", "floors.yaml")
    (tmp_path / "floors.yaml").write_text(FLOORS.replace("colours", "colour") % 50)
    done = cli(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert "floors.yaml:2: Unknown dataset of zero_shot_classification in this suite 'colour'" in done.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "floors.yaml").write_text(FLOORS % 1)
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    assert "Floors: 0 of 1 fail" in done.stdout
    (tmp_path / "floors.yaml").write_text(FLOORS % 100)
    done = cli(*command)
    assert done.returncode == (1 if "FAILS" in done.stdout else 0)
    assert "3 were finished before" in done.stdout
    done = cli(*command, "--shard", "1/2")
    assert done.returncode == 2
