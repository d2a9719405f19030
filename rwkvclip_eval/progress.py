"""Progress bars on a terminal, with rate and time left.

Beside `console.py`, because the library for bars takes a tenth of what a command takes to start.
"""

from __future__ import annotations

from rich.progress import (
    BarColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from rwkvclip_eval import console
from rwkvclip_eval.printable import printable


class _Detail(ProgressColumn):
    """Count, rate (or what was said) and time left of what is being done; the whole's text says its own."""

    def __init__(self) -> None:
        super().__init__()
        self._left = TimeRemainingColumn()

    def render(self, task: Task) -> Text:
        if task.total is None or task.fields.get("whole"):
            return Text("")
        said = task.fields.get("said") or (f"{task.speed:,.1f}/s" if task.speed else "")
        count = f"{task.completed:,.0f}/{task.total:,.0f}"
        return Text("  ".join(filter(None, (count, said, str(self._left.render(task))))))


class Progress:
    """Progress bars on a terminal, none elsewhere; `say` prints on both.

    One line tells how far the whole is, one bar what is being done now.

    Args:
        bars: False shows none on a terminal either.
        keep: leave the bar of what was done on the terminal.

    Attributes:
        shown: whether there are bars.
    """

    def __init__(self, *, bars: bool = True, keep: bool = False) -> None:
        self.shown = bars and console.stderr.is_terminal
        self._keep = keep
        self._bars = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            _Detail(),
            console=console.stderr,
            transient=not keep,
            disable=not self.shown,
        )
        self._whole: TaskID | None = None
        self._now: tuple[str, TaskID] | None = None

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def whole(self, text: str, share: float) -> None:
        """Say how far the whole is: `share` of it, from 0 to 1, and in words."""
        if self._whole is None:
            self._whole = self._bars.add_task(text, total=1.0, whole=True)
        self._bars.update(self._whole, description=text, completed=share)

    def update(self, done: int, total: int, what: str, said: str = "") -> None:
        """Show that `done` of `total` items of `what` are done; what was shown before has ended.

        Args:
            done: items.
            total: items in all.
            what: names the bar.
            said: stands in place of the rate.
        """
        if self._now is None or self._now[0] != what:
            self.end()
            self._now = (what, self._bars.add_task(printable(what), total=total, completed=done, said=said))
        else:
            self._bars.update(self._now[1], completed=done, total=total, said=said)
        if done >= total:
            self.end()

    def end(self) -> None:
        """Take away the bar of what was being done, or leave it where bars are kept."""
        if self._now is not None:
            if not self._keep:
                self._bars.remove_task(self._now[1])
            self._now = None

    def clear(self) -> None:
        """Take away all bars."""
        self.end()
        if self._whole is not None:
            self._bars.remove_task(self._whole)
            self._whole = None

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        console.note(text)
