"""Bounds for tests that would flood memory if what they test failed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

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
