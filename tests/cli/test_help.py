"""What `--help` and `models` show, at the width of a plain terminal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import typer

from rwkvclip_eval.cli.main import app
from rwkvclip_eval.cli.outlines import outlined

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")


def panels(text: str) -> dict[str, list[str]]:
    """Return title of a panel → its lines."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if title := re.match(r"╭─ (.+?) ─+╮$", line):
            own = found.setdefault(title[1], [])
        elif line.startswith("│"):
            own.append(line.strip("│"))
    return found


def test_the_options_of_run_stand_in_groups_with_room_for_what_they_mean(run: Run) -> None:
    code, out, _ = run("run", "--help")
    assert code == 0
    groups = panels(out)
    assert {"What to run", "Data", "Computing", "Stored features"} <= set(groups)
    assert [line for line in groups["Options"] if "--" in line] == [
        line for line in groups["Options"] if "--help" in line
    ]
    assert not re.search(r"<(path|int|float|str|list)", "".join(out.split("╭─ What to run")[1:]))
    for name in ("What to run", "Data", "Computing", "Stored features"):
        lines = groups[name]
        assert len(lines) < 20
        # Where the text of most lines begins; 78 columns lie between the borders.
        begins = max(len(line) - len(line.lstrip()) for line in lines)
        assert 78 - begins >= 28, name


def test_examples_stand_in_lines_of_their_own(run: Run) -> None:
    for command in (("run",), ("published",), ("data", "list"), ("data", "verify"), ("data", "download")):
        _, out, _ = run(*command, "--help")
        examples = out.split("Examples:")[1].split("╭─")[0]
        assert examples.count("• rwkvclip-eval") == examples.count("rwkvclip-eval") >= 2, command


def test_models_says_each_form_of_a_checkpoint_once(run: Run) -> None:
    code, out, err = run("models")
    assert code == 0
    assert (out + err).count("averaged weights") == 2  # RWKV-CLIP's and open_clip's differ.
    assert "*.json, rwkv-clip-b16, rwkv-clip-b32 = file" in err
    assert out.splitlines()[0] == "name\tfamily\texample"


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "",
        "run --help",
        "data --help",
        "data list --help",
        "bench --help",
        "bench ops --help",
        "lst",
    ],
)
def test_help_is_the_same_where_only_the_command_asked_for_is_built(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for application in (app, outlined(app, words.split())):
        code = None
        try:
            code = application(args=words.split(), standalone_mode=False)
        except Exception as error:  # what it is, is compared
            code = repr(error), str(error)
        texts.append((code, *capsys.readouterr()))
    assert texts[0] == texts[1]
    assert texts[0] != (0, "", "")


def test_only_the_command_asked_for_is_built() -> None:
    built = typer.main.get_group(outlined(app, ["data", "list"]))
    groups = {
        name: command
        for name, command in built.commands.items()
        if isinstance(command, typer.core.TyperGroup)
    }
    assert set(groups) == {"data", "cache", "bench"}
    with_options = {name for name, command in built.commands.items() if command.params}
    assert with_options == set()
    assert {name for name, command in groups["data"].commands.items() if command.params} == {"list"}
