"""`--plugin FILE` brings a user's encoder, dataset and task into suites and the command line."""

from __future__ import annotations

import re
import shlex
import shutil
import textwrap
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command import ROOT, run_cli

import rwkvclip_eval as rc
from rwkvclip_eval.errors import UserError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Cli = Callable[..., subprocess.CompletedProcess[str]]

PLUGIN = Path(__file__).with_name("my_plugin.py")
TOLD = PLUGIN.read_text().split('"""')[1]
SUITE = textwrap.dedent(TOLD.split("as mine.yaml\n")[1].split("\nit runs by")[0]).lstrip()


def test_a_plugins_encoder_dataset_and_task_run_to_a_report_by_the_command_it_tells(tmp_path: Path) -> None:
    """As a reader would: the file alone, and nothing of the tests on the path."""
    (tmp_path / "mine.yaml").write_text(SUITE)
    shutil.copy(PLUGIN, tmp_path)
    paths = ":".join(str(ROOT / folder) for folder in (".", "models", "train"))
    extra = {"PYTHONPATH": paths}
    checked = run_cli(tmp_path, tmp_path / "c", "validate", "mine.yaml", "--plugin", "my_plugin.py", **extra)
    assert checked.returncode == 0, checked.stderr
    told = re.search(r"`rwkvclip-eval (run .*?)`", TOLD)
    assert told
    done = run_cli(tmp_path, tmp_path / "c", *shlex.split(told[1]), **extra)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "mine"
    frame = rc.load_results(run).set_index("metric")
    assert frame.loc["mean_margin", "value"] > 0
    assert frame.loc["mean_margin", "n"] == 12
    assert len(rc.load_predictions(run, frame.loc["mean_margin", "unit"])) == 12
    value = f"{frame.loc['mean_margin', 'value']:.4g}"
    shown = [done.stdout, *((run / "report" / name).read_text() for name in ("report.md", "report.tex"))]
    page = unescape(re.sub(r"<[^>]*>", " ", (run / "report" / "index.html").read_text()))
    for text in (*shown, page):
        assert "mean margin" in text
        assert "mean margin, %" not in text
        assert value in text
    for text in (shown[1], page):
        own, _, after = text.partition("Cosine to the right class's text less that to the best wrong one.")
        assert after, "its own description"
        # The protocol's own words speak of templates, and belong to the other task.
        assert "templates" not in own[-200:] + after[:200]


def test_without_the_plugin_its_names_are_unknown(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SUITE)
    done = cli("validate", "mine.yaml")
    assert done.returncode == 2
    assert "mine.yaml:3: Unknown task 'margin'" in done.stderr
    assert "mine.yaml:4: Unknown dataset 'my-images'" in done.stderr


@pytest.mark.parametrize(
    ("base", "registered", "told"),
    [
        (
            "",
            "Margin()",
            "The task Margin is not a Task: derive its class from rwkvclip_eval.tasks.base.Task",
        ),
        ("(Task)", "Margin", "The task Margin is not a Task: register an object: register_task(Margin())"),
    ],
)
def test_a_task_that_is_none_is_refused_with_what_to_do(base: str, registered: str, told: str) -> None:
    own = PLUGIN.read_text().partition("class Margin(Task):")
    text = f"{own[0].partition('COLOURS')[0]}class Margin{base}:{own[2].partition('rc.register')[0]}"
    with pytest.raises(UserError, match=re.escape(told)):
        exec(f"{text}rc.register_task({registered})", {})


def test_a_plugin_that_fails_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("1 / 0\n")
    done = cli("validate", "smoke", "--plugin", "bad.py")
    assert done.returncode == 2
    assert "bad.py failed: ZeroDivisionError" in done.stderr
