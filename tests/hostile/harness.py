"""Cases of hostile input, and how the real program is run on them and judged.

A case is a valid small world of files (`small_world`), one mutation of it and a command. It passes where the
program ends with the exit code that the case allows, one short message, no traceback, in time, in little
memory, with nothing written outside the folders it was given and nothing executed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MOST_S, MOST_BYTES, MOST_LETTERS = 30.0, 3_000_000_000, 2000
REFUSED = frozenset({2, 3})
FOUND = frozenset({1, 2})
"""What `data verify` may end with: it found damage, or it could not begin."""
GIVEN = ("work/out", "work/data", "work/cache", "work/tmp", "work/runs", "work/trained")
"""Folders of a case that its command names; whatever else changes is a fault."""
SHIMS = ("sh", "bash", "wget", "curl", "touch", "python", "python3", "perl", "id", "rm")


def operator_folder() -> Path:
    """Return where the compiled operators are kept, so that no case builds its own."""
    from rwkvclip_models.ops.build import cache_dir

    return cache_dir()


Change = Callable[[Path], object]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One malformed input and the command that meets it.

    Attributes:
        kind: of file or input; a row of the table.
        name: what is wrong.
        argv: the command line; paths are relative to the case's `work` folder.
        change: damages the copy of the world, given `work`.
        parts: names of the world's files and folders that the command needs.
        program: the package whose `main` is called.
        env: more environment variables.
        codes: exit codes that are right.
        tolerated: why exit code 0 is right; empty where it is not.
        given: more paths in `work` that the command names and may write to.
        check: returns what is wrong with what the command left in `work`.
    """

    kind: str
    name: str
    argv: Sequence[str]
    change: Change = lambda work: None
    parts: Sequence[str] = ()
    program: str = "rwkvclip_eval"
    env: Mapping[str, str] = field(default_factory=dict)
    codes: frozenset[int] = REFUSED
    tolerated: str = ""
    given: Sequence[str] = ()
    check: Callable[[Path], list[str]] = lambda work: []


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a case ended; `faults` is empty where it passed."""

    code: int | None
    seconds: float
    bytes: int
    stdout: str
    stderr: str
    faults: tuple[str, ...]

    @property
    def word(self) -> str:
        """Column of the table."""
        return f"exit {self.code}" if not self.faults else "FAILED"


def environment(base: Path) -> dict[str, str]:
    """Return all environment variables of a process whose files are below `base`."""
    work = base / "work"
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": ":".join(str(ROOT / folder) for folder in (".", "models", "train", "tests")),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(base / "home"),
        "TMPDIR": str(work / "tmp"),
        "RWKVCLIP_EVAL_CACHE": str(work / "cache"),
        "RWKVCLIP_BUILD_DIR": str(operator_folder()),
        "HF_HUB_CACHE": str(work / "cache" / "hub"),
        "HF_DATASETS_CACHE": str(work / "cache" / "datasets"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "LANG": "C.UTF-8",
        "CANARY": str(base / "canary"),
    }


class Harness:
    """A running fork server, and a place for the cases, one after the other in the same folder.

    Args:
        world: the valid files; cases get copies.
        place: emptied and filled for each case.
    """

    def __init__(self, world: Path, place: Path) -> None:
        self.world, self.place = world, place
        place.mkdir(parents=True)
        self.shims = place / "shims"
        self.shims.mkdir()
        for name in SHIMS:
            (self.shims / name).write_text('#!/bin/sh\n: >> "$CANARY"\nexit 1\n')
            (self.shims / name).chmod(0o755)
        self.log = (place / "server.log").open("w")
        self.server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=self._environment(place / "none"),
        )
        ready = self._line()
        assert ready == {"ready": True}

    def close(self) -> None:
        """End the server."""
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(60)
        self.log.close()

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, case: Case) -> Outcome:
        """Run a case in a fork of the server."""
        base = self.lay_out(case)
        before = snapshot(base, case.given)
        return self._judge(case, base, before, self.start(case, base))

    def start(self, case: Case, base: Path, **more: object) -> dict[str, Any]:
        """Run a case's command in a fork; return the server's answer.

        Args:
            case: says what to run.
            base: the folder that `lay_out` made.
            more: `kill_after` and `kill_group`, see `fork_server`.
        """
        assert self.server.stdin is not None
        request = {
            "program": case.program,
            "argv": list(case.argv),
            "cwd": str(base / "work"),
            "env": self._environment(base) | dict(case.env),
            "stdout": str(base / "stdout"),
            "stderr": str(base / "stderr"),
        }
        print(json.dumps(request | more), file=self.server.stdin, flush=True)
        return self._line()

    def run_for_real(self, case: Case) -> tuple[int, str]:
        """Run a case as `python -m PROGRAM`; return exit code and messages."""
        base = self.lay_out(case)
        done = subprocess.run(
            [sys.executable, "-m", case.program, *case.argv],
            cwd=base / "work",
            env=self._environment(base) | dict(case.env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stderr.decode(errors="replace")

    def _environment(self, base: Path) -> dict[str, str]:
        found = environment(base)
        return found | {
            "PATH": f"{self.shims}:{found['PATH']}",
            "MPLCONFIGDIR": str(self.place / "matplotlib"),
        }

    def lay_out(self, case: Case) -> Path:
        """Make a case's folder anew and damage the copy of the world in it."""
        base = self.place / "case"
        shutil.rmtree(base, ignore_errors=True)
        for folder in ("work/tmp", "work/out", "home", "outside"):
            (base / folder).mkdir(parents=True)
        (base / "outside" / "sentinel.txt").write_text("untouched")
        (base / "outside" / "secret.png").write_bytes((self.world / "picture.png").read_bytes())
        for part in case.parts:
            source, target = self.world / part, base / "work" / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
            else:
                shutil.copy2(source, target)
        case.change(base / "work")
        for name in ("stdout", "stderr"):
            (base / name).touch()
        return base

    def _line(self) -> dict[str, Any]:
        assert self.server.stdout is not None
        line = self.server.stdout.readline()
        assert line, f"the server ended: {(self.place / 'server.log').read_text()[-2000:]}"
        return dict(json.loads(line))

    def _judge(self, case: Case, base: Path, before: dict[str, object], answer: dict[str, Any]) -> Outcome:
        texts = [(base / name).read_bytes().decode(errors="replace") for name in ("stdout", "stderr")]
        faults = list(message_faults(*texts, answer["code"]))
        allowed = frozenset({0}) if case.tolerated else case.codes
        if answer["ended"]:
            faults.append(answer["ended"])
        elif answer["code"] not in allowed:
            how = f"signal {answer['signal']}" if answer["signal"] else f"exit {answer['code']}"
            faults.append(f"{how}, expected {' or '.join(map(str, sorted(allowed)))}")
        if answer["seconds"] > MOST_S:
            faults.append(f"{answer['seconds']:.0f} s")
        if answer["bytes"] > MOST_BYTES:
            faults.append(f"{answer['bytes'] / 1e9:.1f} GB")
        if (base / "canary").exists():
            faults.append("something was executed")
        faults += [f"outside: {name}" for name in changed(before, snapshot(base, case.given))]
        faults += case.check(base / "work")
        return Outcome(
            code=answer["code"],
            seconds=answer["seconds"],
            bytes=answer["bytes"],
            stdout=texts[0],
            stderr=texts[1],
            faults=tuple(faults),
        )


_STRANGE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_WARNING = re.compile(r"\.py:\d+: \w*Warning")


def message_faults(stdout: str, stderr: str, code: int | None) -> list[str]:
    """Return what is wrong with what the program said."""
    faults = []
    both = f"{stdout}\n{stderr}"
    if "Traceback (most recent call last)" in both:
        faults.append("a traceback")
    if "Internal error" in both:
        faults.append("an internal error")
    if _WARNING.search(both):
        faults.append("a Python warning")
    if found := _STRANGE.search(both):
        faults.append(f"control character {found[0]!r} printed")
    if code:
        for name, text in (("stdout", stdout), ("stderr", stderr)):
            if len(text) >= MOST_LETTERS:
                faults.append(f"{len(text)} letters on {name}")
        if not both.strip():
            faults.append("no message")
        if len(re.findall(r"^Error: ", stderr, re.MULTILINE)) > 1:
            faults.append("more than one error message")
    return faults


def snapshot(base: Path, more: Sequence[str] = ()) -> dict[str, object]:
    """Return path → kind, size and time of change of everything outside the folders that were given."""
    found: dict[str, object] = {}
    given = {f"{base}/{folder}" for folder in GIVEN}
    given |= {os.path.normpath(base / "work" / path) for path in more}
    ours = {f"{base}/{name}" for name in ("stdout", "stderr", "canary")}
    for folder, folders, files in os.walk(base):
        folders[:] = [name for name in folders if f"{folder}/{name}" not in given]
        files = [name for name in files if f"{folder}/{name}" not in given]
        for name in (*folders, *files):
            path = f"{folder}/{name}"
            if path in ours:
                continue
            about = os.lstat(path)
            is_folder = (about.st_mode & 0o170000) == 0o040000
            # A folder changes with what is in it, which is looked at itself.
            found[path] = about.st_mode if is_folder else (about.st_mode, about.st_size, about.st_mtime_ns)
    return found


def changed(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """Return the names of what was made, changed or deleted."""
    names = sorted(before.keys() | after.keys())
    return [os.path.relpath(n) if len(n) < 300 else n[:300] for n in names if before.get(n) != after.get(n)][
        :5
    ]


_NUMBERS = re.compile(r"\d+(\.\d+)? ?(s|%|ms|MiB)\b")


def comparable(text: str) -> str:
    """Return a message without the times and shares in it, and whatever way the program was started."""
    return _NUMBERS.sub("#", re.sub(r"python -m rwkvclip_\w+|__main__\.py", "PROGRAM", text)).strip()


def table(results: Sequence[tuple[Case, Outcome]]) -> str:
    """Return kind × outcome as a Markdown table, with the slowest and largest of each kind."""
    words = sorted({outcome.word for _, outcome in results})
    kinds = list(dict.fromkeys(case.kind for case, _ in results))
    lines = [
        f"| input | cases | {' | '.join(words)} | tolerated | longest s | largest GB |",
        "|---|" + "--:|" * (len(words) + 4),
    ]
    for kind in [*kinds, "all"]:
        own = [(c, o) for c, o in results if kind in (c.kind, "all")]
        counts = Counter(o.word for _, o in own)
        cells = [str(len(own)), *(str(counts[word] or "") for word in words)]
        cells.append(str(sum(bool(c.tolerated) for c, _ in own) or ""))
        cells.append(f"{max(o.seconds for _, o in own):.1f}")
        cells.append(f"{max(o.bytes for _, o in own) / 1e9:.2f}")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
