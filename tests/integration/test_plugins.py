"""`--plugin FILE` brings a user's encoder, dataset and task into suites and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rwkvclip_eval as rc

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Cli = Callable[..., subprocess.CompletedProcess[str]]

PLUGIN = Path(__file__).with_name("my_plugin.py")
SUITE = """\
name: mine
tasks:
  - task: margin
    datasets: [my-images]
  - task: zero_shot_classification
    datasets: [my-images]
"""


def test_a_plugins_encoder_dataset_and_task_run_to_a_report(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SUITE)
    assert cli("validate", "mine.yaml", "--plugin", PLUGIN).returncode == 0
    done = cli("run", "mine.yaml", "--model", "my-colours", "--plugin", PLUGIN, "--out", "run")
    assert done.returncode == 0, done.stderr
    frame = rc.load_results(tmp_path / "run").set_index("metric")
    assert frame.loc["mean_margin", "value"] > 0
    assert frame.loc["mean_margin", "n"] == 12
    unit = frame.loc["mean_margin", "unit"]
    assert len(rc.load_predictions(tmp_path / "run", unit)) == 12
    assert "mean margin" in (tmp_path / "run" / "report" / "report.md").read_text()


def test_without_the_plugin_its_names_are_unknown(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SUITE)
    done = cli("validate", "mine.yaml")
    assert done.returncode == 2
    assert "mine.yaml:3: Unknown task 'margin'" in done.stderr
    assert "mine.yaml:4: Unknown dataset 'my-images'" in done.stderr


def test_a_plugin_that_fails_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("1 / 0\n")
    done = cli("validate", "smoke", "--plugin", "bad.py")
    assert done.returncode == 2
    assert "bad.py failed: ZeroDivisionError" in done.stderr
