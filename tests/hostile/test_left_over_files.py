"""Temporary files of killed processes go when the same file is written next; those in use stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rwkvclip_eval.errors import OutputError
from rwkvclip_models import disk
from rwkvclip_models.disk import TemporaryFolder, atomic_path, write_text

PATHS = [str(Path(__file__).resolve().parents[2] / name) for name in (".", "models", "train")]

HELD = """
import sys, time
sys.path[:0] = {paths!r}
from pathlib import Path
from rwkvclip_models.disk import TemporaryFolder, atomic_path
{work}
print("ready", flush=True)
time.sleep(60)
"""
WRITING = "writer = atomic_path(Path({path!r})); open(writer.__enter__(), 'w').write('half')"
KEEPING = "kept = TemporaryFolder('rwkvclip-features'); (kept.path / 'features').mkdir()"


def start(work: str, **environment: str) -> subprocess.Popen[str]:
    code = HELD.format(paths=PATHS, work=work)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_what_a_killed_writer_left_goes_with_the_next_writing_of_the_same_file(tmp_path: Path) -> None:
    mine = [
        tmp_path / name for name in (".a.json.tmp", ".a.json.x.tmp", "a.json.abcdefgh.tmp", ".b.abcdefgh.tmp")
    ]
    for path in mine:
        path.write_text("mine")
    (tmp_path / ".a.json.linklink.tmp").symlink_to(mine[0])
    process = start(WRITING.format(path=str(tmp_path / "a.json")))
    before = set(tmp_path.iterdir())
    write_text(tmp_path / "a.json", "whole")
    assert set(tmp_path.iterdir()) == before | {tmp_path / "a.json"}, "swept what is being written"
    kill(process)
    write_text(tmp_path / "a.json", "whole again")
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", ".a.json.linklink.tmp", *(p.name for p in mine)}
    assert all(path.read_text() == "mine" for path in mine)


def test_a_killed_process_temporary_features_go_when_the_next_makes_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "rwkvclip-features-mine").mkdir()
    (tmp_path / "rwkvclip-features-abcdefgh").symlink_to(tmp_path / "rwkvclip-features-mine")
    process = start(KEEPING, TMPDIR=str(tmp_path))
    (theirs,) = [p for p in tmp_path.iterdir() if (p / ".held").exists()]
    TemporaryFolder("rwkvclip-features").cleanup()
    assert (theirs / "features").is_dir()
    kill(process)
    kept = TemporaryFolder("rwkvclip-features")
    assert not theirs.exists()
    names = {"rwkvclip-features-mine", "rwkvclip-features-abcdefgh", kept.path.name}
    assert {p.name for p in tmp_path.iterdir()} == names
    kept.cleanup()
    assert not kept.path.exists()


def test_without_locks_only_what_nobody_touched_for_a_day_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    new, old = tmp_path / ".a.newnewne.tmp", tmp_path / ".a.oldoldol.tmp"
    for path in (new, old):
        path.write_text("half")
    os.utime(old, (time.time() - 1.1 * disk.UNTOUCHED_S,) * 2)
    write_text(tmp_path / "a", "whole")
    assert {p.name for p in tmp_path.iterdir()} == {"a", new.name}


def test_an_error_of_the_block_that_is_not_the_disks_is_not_called_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not a gzipped file") as caught, atomic_path(tmp_path / "a"):
        raise OSError("not a gzipped file")
    assert not isinstance(caught.value, OutputError)
    assert list(tmp_path.iterdir()) == []
