"""What the documents show is executed: README's examples, the notebook, the commands they name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Cli = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readmes_python_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    found = re.search(r"## From Python\n\n```python\n(.*?)```", README, re.DOTALL)
    assert found
    exec(found[1], {})
    assert "digits_scenes" in capsys.readouterr().out


def test_every_suite_the_readme_lists_is_shipped() -> None:
    from rwkvclip_eval.plan.suite import list_suites

    section = README.split("## What it measures")[1].split("Every number belongs")[0]
    assert set(re.findall(r"^\| `([\w-]+)`", section, re.MULTILINE)) == set(list_suites())


def test_every_command_the_readme_names_exists(cli: Cli) -> None:
    named = set(re.findall(r"rwkvclip-eval ([a-z]+)", README))
    for command in named:
        assert cli(command, "--help").returncode == 0, command


def test_the_notebook_runs_from_top_to_bottom_to_outputs_like_those_it_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat

    monkeypatch.setenv("PYTHONPATH", ":".join(str(ROOT / folder) for folder in (".", "models", "train")))
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    execute = importlib.import_module("execute")
    stored = nbformat.read(execute.NOTEBOOK, as_version=4)
    fresh = execute.executed(tmp_path)
    assert kinds(stored) == kinds(fresh)
    codes = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in codes)
    # Numbers may differ in the last digits from machine to machine; what was computed may not.
    for before, now in zip(codes, (cell for cell in fresh.cells if cell.cell_type == "code"), strict=True):
        for one, other in zip(before.outputs, now.outputs, strict=True):
            assert words(one["data"]["text/plain"]) == words(other["data"]["text/plain"])
    text = execute.NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)


def kinds(notebook: Any) -> list[list[tuple[str, ...]]]:
    """Return of each cell what kinds of output it has."""
    return [[tuple(sorted(o.get("data", {}))) for o in cell.get("outputs", [])] for cell in notebook.cells]


def words(text: str) -> list[str]:
    """Return the words of an output without its numbers and hashes."""
    return [word for word in re.findall(r"[A-Za-z_@]+", text) if not re.fullmatch("[a-f]+|e", word)]


def test_the_picture_of_a_report_is_taken_by_the_documented_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess as processes

    from PIL import Image

    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    script = importlib.import_module("report_picture")
    contributing, makefile = ((ROOT / name).read_text() for name in ("CONTRIBUTING.md", "Makefile"))
    assert "make picture" in contributing and "docs/report_picture.py" in makefile
    with Image.open(script.PICTURE) as image:
        assert image.size == script.SIZE_PX
    assert script.PICTURE.stat().st_size < 200_000
    page, asked = tmp_path / "index.html", []
    monkeypatch.setattr(script.shutil, "which", lambda name: f"/bin/{name}" if name == "chromium" else None)

    def browse(command: list[str], **_: Any) -> processes.CompletedProcess[str]:
        asked.extend(command)
        (shot,) = (part.partition("=")[2] for part in command if part.startswith("--screenshot="))
        Image.new("RGB", script.SIZE_PX, "white").save(shot)
        return processes.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(script.subprocess, "run", browse)
    with pytest.raises(SystemExit, match="is no report; `make quickstart`"):
        script.take(page)
    page.write_text("<p>a page")
    script.take(page, tmp_path / "out.png")
    assert asked[0] == "/bin/chromium" and asked[-1] == page.as_uri()
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == script.SIZE_PX
    monkeypatch.setattr(script.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="install one of chromium"):
        script.take(page, tmp_path / "none.png")
