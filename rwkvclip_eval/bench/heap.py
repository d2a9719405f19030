"""Memory that an allocator keeps."""

from __future__ import annotations

import ctypes
import os


def trim_heap() -> None:
    """Give back to the system what was freed, where the C library can (glibc)."""
    if os.name == "posix" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
