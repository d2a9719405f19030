"""Builders of tiny datasets on disk."""

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image


def _png(shade: int, size: int = 8, format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), (shade % 256, shade // 256 % 256, 7)).save(stream, format)
    return stream.getvalue()


@pytest.fixture
def png() -> Callable[..., bytes]:
    """Encoded one-colour picture; different shades give different pictures."""
    return _png


@pytest.fixture
def write_shard() -> Callable[[Path, Sequence[tuple[str, bytes]]], None]:
    """Writes (member name, content) pairs as a tar."""

    def write(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    return write


@pytest.fixture
def write_wds(write_shard) -> Callable[..., Path]:
    """Writes a webdataset folder of one-colour pictures: labels or captions per shard."""

    def write(root: Path, name: str, shards: Sequence[Sequence[int | str]], **files: str) -> Path:
        folder, number = root / f"wds_{name}", 0
        for i, targets in enumerate(shards):
            members = []
            for target in targets:
                members.append((f"s{number:04d}.png", _png(number)))
                suffix = "cls" if isinstance(target, int) else "txt"
                members.append((f"s{number:04d}.{suffix}", str(target).encode()))
                number += 1
            write_shard(folder / "test" / f"{i}.tar", members)
        (folder / "test" / "nshards.txt").write_text(f"{len(shards)}\n")
        for stem, text in files.items():
            (folder / f"{stem}.txt").write_text(text)
        return folder

    return write
