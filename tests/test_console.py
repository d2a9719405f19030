"""What the command lines print: tables on a pipe, one bar for what is being done and one for the whole."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rwkvclip_eval import console
from rwkvclip_eval.progress import Progress

ERASE_LINE = "\x1b[2K"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal would be sent."""
    sent = io.StringIO()
    monkeypatch.setattr(console, "stderr", Console(file=sent, force_terminal=True, width=80))
    return sent


def shown(progress: Progress) -> list[str]:
    return [task.description for task in progress._bars.tasks]


def test_a_piped_table_has_tabs_and_no_cell_breaks_it(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(["a", "b"], [["1\t2", "x\ny"], ["", 3]])
    assert capsys.readouterr().out == "a\tb\n1 2\tx y\n\t3\n"


def test_what_has_ended_leaves_no_bar(terminal: io.StringIO) -> None:
    with Progress() as progress:
        progress.whole("unit 1 of 2", 0.0)
        progress.update(3, 10, "images")
        assert shown(progress) == ["unit 1 of 2", "images"]
        # The first of the two never reached its end.
        progress.update(0, 5, "texts")
        assert shown(progress) == ["unit 1 of 2", "texts"]
        progress.end()
        progress.whole("unit 2 of 2, about 5 s left", 0.5)
        assert shown(progress) == ["unit 2 of 2, about 5 s left"]
        progress.update(5, 5, "texts")
        assert shown(progress) == ["unit 2 of 2, about 5 s left"]
        progress.clear()
        assert shown(progress) == []


def test_a_bar_that_is_kept_stays_with_what_was_said_of_it(terminal: io.StringIO) -> None:
    with Progress(keep=True) as progress:
        progress.update(4, 5, "nano", "loss 1.625")
        progress.update(5, 5, "nano", "loss 1.500")
        assert shown(progress) == ["nano"]
    last = terminal.getvalue().rpartition("nano")[2]
    assert "5/5  loss 1.500" in last
    assert ERASE_LINE not in last


def test_without_a_terminal_there_are_no_bars(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress.whole("unit 1 of 2", 0.0)
        progress.update(3, 10, "images")
        progress.say("a line")
    assert capsys.readouterr().err == "a line\n"
    assert not progress.shown
