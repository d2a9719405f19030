"""Writers of published files, and clip-benchmark's reading of the same files."""

from collections.abc import Callable, Iterable
from pathlib import Path

import miniatures
import pytest

from rwkvclip_eval.data.clip_benchmark import open_clip_benchmark
from rwkvclip_eval.data.samples import Split


@pytest.fixture
def jpegs() -> Callable[[Path, Iterable[str]], None]:
    """Writes a small picture of its own colour at each path below a folder."""
    return miniatures.pictures


@pytest.fixture
def as_clip_benchmark() -> Callable[[Split, str, Path, str], None]:
    """Asserts that a split has the files, labels and class names clip-benchmark reads there."""

    def check(split: Split, name: str, root: Path, which: str) -> None:
        other = open_clip_benchmark(name, root, which, cache_dir=root)
        assert split.class_names == other.class_names
        assert split.labels.shape == other.labels.shape
        if len(set(other.keys)) == len(other.keys) and "." in other.keys[0]:
            assert all(theirs.endswith(ours) for ours, theirs in zip(split.keys, other.keys, strict=True))
        assert split.labels.tolist() == other.labels.tolist()

    return check
