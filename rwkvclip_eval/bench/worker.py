"""The parent's side of a measuring process: starts it, asks it, watches its memory, ends it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from rwkvclip_eval.errors import shortened

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

TIMEOUT_S = 900.0
"""One answer may take this long: a compiler may be at work."""


class WorkerFailed(Exception):
    """A process ended or said that it cannot.

    Attributes:
        status: as in `Measured.status`.
        reason: in words.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Worker:
    """One process with one model.

    Args:
        threads: that torch and OpenMP take on a CPU.
        arguments: of `child`: spec, device, precision, implementation.

    Raises:
        WorkerFailed: it could not load the model.
    """

    def __init__(self, *, threads: int, **arguments: Any) -> None:
        # Threads that wander between cores, or share one, make times of two kinds.
        pinned = {"OMP_NUM_THREADS": str(threads), "OMP_PROC_BIND": "true", "OMP_PLACES": "cores"}
        paths = [path for path in sys.path if Path(path).is_absolute()]
        environment = {**os.environ, **pinned, "PYTHONPATH": os.pathsep.join(paths)}
        self._killed_before = _killed_for_memory()
        text = json.dumps({**arguments, "threads": threads})
        try:
            self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "rwkvclip_eval.bench.child", text],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env=environment,
            )
        except OSError as error:  # no room for temporary files, no memory for a process
            raise WorkerFailed(
                "crashed", f"its process could not be started: {error.strerror or error}."
            ) from error
        self._buffer = b""
        try:
            self.facts = self._answer(TIMEOUT_S)
            self.baseline_bytes = self.resident_bytes()
            self._peak = _Peak(self._process.pid)
        except psutil.Error:
            failed = self._ended()
            self.close()
            raise failed from None
        except BaseException:  # Ctrl-C too: no process stays behind.
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, do: str, *, timeout: float = TIMEOUT_S, **what: Any) -> dict[str, Any]:
        """Return the answer to a command.

        Raises:
            WorkerFailed: the process cannot do it, or ended.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # why it ended is told by the answer that lacks
            self._process.stdin.write(json.dumps({"do": do, **what}).encode() + b"\n")
            self._process.stdin.flush()
        return self._answer(timeout)

    def resident_bytes(self) -> int:
        """Return the memory of the process now."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def peak_bytes(self) -> int | None:
        """Return the most memory of the process since it was started; None where the system does not tell."""
        return self._peak.read()

    def close(self) -> None:
        """End the process, if it has not ended."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._process.kill()
        self._process.wait()
        self._said.close()

    def _answer(self, timeout: float) -> dict[str, Any]:
        line = self._line(time.monotonic() + timeout)
        if line is None:
            self._process.kill()
            raise WorkerFailed("crashed", f"its process gave no answer within {timeout:.0f} s.")
        if not line:
            raise self._ended()
        found: dict[str, Any] = json.loads(line)
        if "failed" in found:
            raise WorkerFailed(found["failed"], found["reason"])
        return found

    def _line(self, deadline: float) -> bytes | None:
        """Return the next line, empty at the end of the process, None after the deadline."""
        assert self._process.stdout is not None
        handle = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            if select.select([handle], [], [], left)[0]:
                part = os.read(handle, 1 << 16)
                if not part:
                    return b""
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _ended(self) -> WorkerFailed:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            before, now = self._killed_before, _killed_for_memory()
            if before is not None and before == now:
                return WorkerFailed(
                    "crashed", "its process was killed (SIGKILL), not by the system for memory."
                )
            return WorkerFailed(
                "out_of_memory", "its process was killed (SIGKILL), which the system does when memory ends."
            )
        if code < 0:
            return WorkerFailed("crashed", f"its process was ended by {signal.Signals(-code).name}.")
        self._said.seek(0)
        said = self._said.read()[-4000:].decode(errors="replace").strip().rpartition("\n")[2]
        words = f": {shortened(said, 300)}" if said else "."
        return WorkerFailed("crashed", f"its process ended with exit code {code}{words}")


def _killed_for_memory(path: Path = Path("/proc/vmstat")) -> int | None:
    """Return how many processes Linux has ended for lack of memory; None where it does not tell."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


class _Peak:
    """Reads the high-water mark of a process from outside; Linux keeps one and lets it be set back."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            self._status = Path()

    def read(self) -> int | None:
        try:
            lines = self._status.read_text(encoding="ascii").splitlines()
        except OSError:
            return None
        found = [line for line in lines if line.startswith("VmHWM:")]
        return int(found[0].split()[1]) * 1024 if found else None
