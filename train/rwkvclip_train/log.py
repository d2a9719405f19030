"""What a run writes down step by step: the log, the record of its samples, the bar on the terminal.

training/NAME.jsonl      a line every `log_every` steps, and one for each of `MEASURED` when it was measured
training/NAME.keys       a line a step: step, epoch, digest of the samples' keys in their order
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from typing import IO, TYPE_CHECKING, Any

from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.progress import Progress
from rwkvclip_eval.schema import whole_number
from rwkvclip_models.disk import write_text
from rwkvclip_models.files import MOST_LINES, parse_json, read_text, whole_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import torch

    from rwkvclip_train.recipe import Recipe

MAX_LOG_BYTES = 256 << 20
MAX_LOG_LINES = MOST_LINES - 10_000
"""Of what a recipe asks for; each stop on the way adds one."""
MAX_KEYS_LINES = 10_000_000
MAX_KEYS_BYTES = 320 << 20

VARYING = ("data_wait", "memory_bytes", "samples_per_s")
"""Fields of a log line that two runs of the same recipe may differ in; all others are equal to the byte."""

MEASURED = ("val_loss", "evaluation")
"""Fields that are measured beside training, now and then, and have a line of their own."""


_MEASURED = frozenset(MEASURED)


class RunLog:
    """Appends to the log and the record of keys.

    Args:
        path: of the log.
        writes: False for a rank that reads none and writes none.

    Attributes:
        measured: the lines that have a field of `MEASURED`, in order; none on a rank that does not write.
    """

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path, self.keys_path = path, path.with_name(f"{path.stem}.keys")
        self._writes = writes
        self.measured: list[dict[str, Any]] = []
        self._files: list[tuple[Path, IO[bytes]]] = []

    def cut(self, last_step: int) -> None:
        """Open the files, after the lines of work that was lost, those behind `last_step`, have gone.

        Raises:
            OutputError: what is there is no training log, or the files cannot be written.
        """
        if not self._writes:
            return
        kept = read_log(self.path, last_step=last_step)
        self.measured = [row for line in kept if not _MEASURED.isdisjoint(row := json.loads(line))]
        write_text(self.path, "".join(kept))
        write_text(self.keys_path, "".join(read_keys(self.keys_path, last_step=last_step)))
        # Unbuffered: a line is written once, and no other write follows when the file is closed.
        self._files = [(each, each.open("ab", buffering=0)) for each in (self.path, self.keys_path)]

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        for _path, file in self._files:
            file.close()

    def line(self, fields: dict[str, Any]) -> None:
        """Write one line of the log; numbers that are not finite become null."""
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in fields.items()
        }
        self._write(0, json.dumps(finite) + "\n")
        if self._writes and not _MEASURED.isdisjoint(finite):
            self.measured.append(finite)

    def has(self, field: str, step: int) -> bool:
        """Whether a line says one of `MEASURED` of a step."""
        return any(field in row and row["step"] == step for row in self.measured)

    def keys(self, step: int, epoch: int, digest: int) -> None:
        """Write the line of a step into the record of keys."""
        self._write(1, f"{step} {epoch} {digest:016x}\n")

    def sync(self) -> None:
        """Wait until all lines are on the disk: a state there must not be ahead of the log."""
        for _path, file in self._files:
            os.fsync(file.fileno())

    def _write(self, which: int, text: str) -> None:
        if not self._files:
            return
        path, file = self._files[which]
        data = text.encode()
        try:
            if file.write(data) != len(data):
                raise OSError(0, "the disk is full")
        except OSError as error:
            raise OutputError(
                f"Cannot write {path}: {error.strerror or error}. What was saved before is whole; free "
                "space, then run the same command again."
            ) from error


def require_room(recipe: Recipe, num_steps: int) -> None:
    """Refuse a run whose log or record of keys would be too long to be read again when it goes on.

    Raises:
        OutputError: it is.
    """
    measured = [part.every for part in (recipe.validation, recipe.evaluation) if part is not None]
    num_lines = sum(
        num_steps // (every or recipe.checkpoint_every) for every in (recipe.log_every, *measured)
    )
    if num_lines > MAX_LOG_LINES:
        raise OutputError(
            f"{recipe.name}: the log of {num_steps} steps would have {num_lines} lines; at most "
            f"{MAX_LOG_LINES} are read again. Raise log_every ({recipe.log_every}), or every of "
            "validation and evaluation."
        )
    if num_steps > MAX_KEYS_LINES:
        raise OutputError(
            f"{recipe.name}: {num_steps} steps are more than a record of keys holds; expected at most "
            f"{MAX_KEYS_LINES}. Raise batch_size, or lower steps or epochs."
        )


def read_log(path: Path, *, last_step: int) -> list[str]:
    """Return the lines of a training log up to `last_step`; later ones are of work that was lost.

    Raises:
        OutputError: it is no training log, or too long for one, see `require_room`.
    """
    if not path.exists():
        return []
    text = read_text(path, what="training log", limit=MAX_LOG_BYTES, error=OutputError)
    kept = []
    lines = whole_lines(text, f"training log {path}", error=OutputError)
    del text
    for number, line in enumerate(lines, start=1):
        row = parse_json(line, f"training log {path}, line {number},", error=OutputError)
        step = row.get("step") if isinstance(row, dict) else None
        if not isinstance(step, int):
            raise OutputError(f"{path}:{number}: not a training log line; delete the file to start over.")
        if step <= last_step:
            kept.append(line + "\n")
    return kept


def read_keys(path: Path, *, last_step: int) -> list[str]:
    """Return the lines of a record of keys up to `last_step`.

    Raises:
        OutputError: it is none, or too long for one.
    """
    if not path.exists():
        return []
    text = read_text(path, what="record of keys", limit=MAX_KEYS_BYTES, error=OutputError)
    kept = []
    lines = whole_lines(text, f"record of keys {path}", most=MAX_KEYS_LINES, error=OutputError)
    del text
    for number, line in enumerate(lines, start=1):
        step = whole_number(line.partition(" ")[0])
        if step is None:
            raise OutputError(f"{path}:{number}: not the keys of a step; delete the file to start over.")
        if step <= last_step:
            kept.append(line + "\n")
    return kept


@contextlib.contextmanager
def progress_bar(name: str, num_steps: int, *, shown: bool) -> Iterator[Callable[[int, str], None]]:
    """Yield a function that shows (steps done, what to say of them), with steps per second and the time left.

    Its first call says where the run goes on from. In a log file, a line about every tenth of the way instead
    of a bar.
    """
    started, first_step, said = 0.0, -1, 0
    with Progress(bars=shown, keep=True) as progress:
        logged = shown and not progress.shown

        def show(done: int, text: str) -> None:
            nonlocal started, first_step, said
            if first_step < 0:
                started, first_step, said = time.perf_counter(), done, done * 10 // num_steps
                progress.update(done, num_steps, name)
                return
            rate = (done - first_step) / (time.perf_counter() - started)
            text, tenth = f"{text}, {rate:.1f} steps/s", done * 10 // num_steps
            progress.update(done, num_steps, name, text)
            if logged and tenth > said:
                said = tenth
                progress.say(f"{name}: step {done} of {num_steps}, {text}")

        yield show


class Meter:
    """Measures what a run waits for data, how fast it is and what memory it takes.

    Args:
        device: that the model is on.
        batch_size: pairs of a step.
    """

    def __init__(self, device: torch.device, batch_size: int) -> None:
        self._device, self._batch_size = device, batch_size
        self._start()

    def _start(self) -> None:
        self._started, self._waited, self._steps = time.perf_counter(), 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block's time as waiting for data."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the block's time out."""
        started = time.perf_counter()
        yield
        self._started += time.perf_counter() - started

    def count(self) -> None:
        """Count a step."""
        self._steps += 1

    def read(self) -> dict[str, float | int]:
        """Return the fields `VARYING`, as they were since the last call.

        They are the share of the time that was spent waiting for data, the most memory of the process so far
        (where it computes on a GPU: of that), and pairs per second over all processes.
        """
        seconds = time.perf_counter() - self._started
        fields = {
            "data_wait": round(self._waited / seconds, 4),
            "memory_bytes": self._memory_bytes(),
            "samples_per_s": round(self._steps * self._batch_size / seconds, 2),
        }
        self._start()
        return fields

    def _memory_bytes(self) -> int:
        if self._device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self._device)
        try:
            import resource
        except ImportError:  # not on Windows
            return 0
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
