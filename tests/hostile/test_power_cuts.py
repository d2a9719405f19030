"""After a power cut the same command gives what it would have given, and nothing is stuck.

Everywhere a model of the worst disk (`power_cut.Disk`); where the tests run as root, a real file system whose
image is copied while the work goes on, mounted again and worked on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from power_cut import cuts, drop
from toy import ColourDataset, ColourEncoder, engine, register, suite

import rwkvclip_eval as rc
from rwkvclip_eval.data.folder import open_folder
from rwkvclip_eval.data.prepare import write_split
from rwkvclip_eval.data.webdataset import open_webdataset
from rwkvclip_eval.features.store import FeatureStore
from rwkvclip_eval.features.upkeep import entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

linux = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="asks /proc for the names of open files"
)
TEXTS = ["a red one", "a blue one", "green", "red and blue"]


def encode(root: Path) -> tuple[Any, Any, Any, int]:
    encoder = ColourEncoder()
    store = FeatureStore(root)
    images = store.images(encoder, ColourDataset(damaged=(5,)), engine(batch_size=8))
    texts = store.texts(encoder, TEXTS, engine(batch_size=2))["embedding"]
    return np.array(images.embedding), np.array(images.probe), texts, encoder.images + encoder.texts


def go_on(root: Path, expected: tuple[Any, ...]) -> int:
    """Encode in what a cut left; return how many images and texts were encoded for it."""
    *again, encoded = encode(root)
    for found, wanted in zip(again, expected, strict=False):
        np.testing.assert_array_equal(found, wanted)
    assert all(entry["complete"] for entry in entries(root))
    assert encode(root)[3] == 0, "encoded again without need"
    return encoded


@linux
def test_a_store_survives_a_cut_at_any_step_with_the_batches_it_had_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = encode(tmp_path / "whole")
    made = cuts(tmp_path / "cut", tmp_path / "cuts", monkeypatch, lambda: encode(tmp_path / "cut"), every=3)
    assert len(made) >= 20
    left = []
    for cut in made:
        left.append(go_on(cut, expected))
        drop(cut)
    assert left[0] == expected[3]
    assert left[-2:] == [0, 0]
    # What was on the disk is not encoded again, on either disk.
    assert left[::2] == sorted(left[::2], reverse=True)
    assert left[1::2] == sorted(left[1::2], reverse=True)
    assert len(set(left)) > 4


@linux
def test_a_run_directory_survives_ten_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, colours=ColourDataset())
    loaded = suite("colours")

    def work(place: Path) -> list[tuple[str, float | None, float | None]]:
        options = rc.RunOptions(cache_dir=place / "cache")
        ended = rc.run_suite(loaded, ["python:toy_factory:make"], place / "run", options=options)
        rc.load_predictions(place / "run", ended.records[0].unit)
        return [(r.metric, r.value, r.ci_low) for r in ended.records]

    expected = work(tmp_path / "whole")
    made = cuts(tmp_path / "cut", tmp_path / "cuts", monkeypatch, lambda: work(tmp_path / "cut"), every=4)
    assert len(made) >= 10
    for cut in made:
        assert work(cut) == expected
        drop(cut)


@linux
def test_shards_under_way_survive_a_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(12):
        path = tmp_path / "images" / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        ColourDataset().image(i).save(path)
    found = open_folder(tmp_path / "images", "test", cache_dir=tmp_path / "cache")

    def work(root: Path) -> tuple[str, dict[str, bytes]]:
        made = write_split(found, root / "wds_x", "test", 5, cache_dir=tmp_path / "cache")
        opened = open_webdataset(root / "wds_x", "test", tmp_path / "cache")
        assert opened.fingerprint == made.fingerprint
        return made.fingerprint, {p.name: p.read_bytes() for p in (root / "wds_x" / "test").glob("*.tar")}

    expected = work(tmp_path / "whole")
    made = cuts(tmp_path / "cut", tmp_path / "cuts", monkeypatch, lambda: work(tmp_path / "cut"), every=2)
    assert len(made) >= 10
    for cut in made:
        assert work(cut) == expected
        drop(cut)


@contextlib.contextmanager
def mounted(image: Path, place: Path) -> Iterator[None]:
    """Mount an image; skip the test where that cannot be done."""
    place.mkdir(exist_ok=True)
    # Its journal is written when somebody syncs, not every few seconds.
    done = subprocess.run(["mount", "-o", "loop,commit=300", image, place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here ({done.stderr.strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def steps(work: Callable[[], object], monkeypatch: pytest.MonkeyPatch, on_step: Callable[[], object]) -> None:
    """Do `work`; call back around everything by which it makes sure of its files."""
    with monkeypatch.context() as patched:
        for name in ("fsync", "rename", "replace"):
            real = getattr(os, name)

            def called(*given: Any, real: Any = real, **options: Any) -> None:
                on_step()
                real(*given, **options)
                on_step()

            patched.setattr(os, name, called)
        work()


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="mounting needs root")
@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="needs mkfs.ext4")
def test_a_store_on_a_real_file_system_survives_ten_cuts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, place = tmp_path / "disk.img", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    expected = encode(tmp_path / "whole")
    copies: list[Path] = []
    count = 0

    def copy() -> None:
        nonlocal count
        count += 1
        if count % 6 == 0:
            copies.append(tmp_path / f"cut-{count}.img")
            subprocess.run(["cp", "--sparse=always", image, copies[-1]], check=True)

    with mounted(image, place):
        steps(lambda: encode(place), monkeypatch, copy)
    assert len(copies) >= 10
    for cut in copies:
        with mounted(cut, place):
            go_on(place, expected)
        cut.unlink()
