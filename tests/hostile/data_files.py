"""Builders of hostile data files."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TIB = 1 << 40


def png(shade: int = 0, size: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), (shade % 256, shade // 256 % 256, 7)).save(stream, "PNG")
    return stream.getvalue()


def huge_png(side: int = 100_000) -> bytes:
    """A sound header of a picture of side × side pixels, and a few bytes of it."""
    stream = io.BytesIO()
    Image.new("1", (8, 8)).save(stream, "PNG")
    content = bytearray(stream.getvalue())
    content[16:24] = side.to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npy_header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def shard(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """A tar of (member name, content) pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def wds(root: Path, *labels: object, kind: str = "classification") -> Path:
    """A webdataset folder `wds_x` with one shard of a split `test`."""
    suffix = {"classification": "cls", "retrieval": "txt", "multilabel": "npy"}[kind]
    members: list[tuple[str, bytes]] = []
    for i, label in enumerate(labels):
        content = label if isinstance(label, bytes) else str(label).encode()
        members += [(f"s{i}.png", png(i)), (f"s{i}.{suffix}", content)]
    shard(root / "wds_x" / "test" / "0.tar", members)
    (root / "wds_x" / "dataset_type.txt").write_text(kind)
    (root / "wds_x" / "classnames.txt").write_text("a\nb\nc\n")
    (root / "wds_x" / "zeroshot_classification_templates.txt").write_text("a {c}\n")
    return root / "wds_x"


def sparse_tar(path: Path, name: str, size: int, kind: bytes = tarfile.REGTYPE) -> Path:
    """A tar file as long as its one member's header says, with nothing in it."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(info.tobuf(tarfile.GNU_FORMAT))
        stream.truncate(512 + size + 1024)
    return path
