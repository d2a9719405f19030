"""Data to damage, and bounds for tests that would flood memory if what they test failed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from data_files import png

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_BYTES = 3 * 10**9
"""Beyond what the process has when a test begins."""


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Let a flood end in a MemoryError here and not on the whole machine."""
    resource = pytest.importorskip("resource", reason="only Unix bounds a process")
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """A folder of two classes, and a file that is none of theirs."""
    for name in ("owl/a.png", "wren/b.png"):
        path = tmp_path / "birds" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(png(len(name)))
    (tmp_path / "secret.png").write_bytes(png(9))
    return tmp_path / "birds"


@pytest.fixture
def nano_config() -> dict[str, int]:
    """An RWKV-CLIP configuration small enough for any machine."""
    return {
        "input_size": 16,
        "image_depth": 1,
        "image_embed_dims": 16,
        "image_patch_size": 8,
        "image_hidden_rate": 1,
        "image_num_heads": 2,
        "ctx_len": 77,
        "vocab_size": 49408,
        "head_size": 8,
        "n_layer": 1,
        "n_embd": 16,
        "dim_ffn": 32,
    }
