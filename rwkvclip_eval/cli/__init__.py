"""The command line: one file a group of commands."""

from __future__ import annotations

from typing import Any

from rwkvclip_eval.moved import elsewhere


def __getattr__(name: str) -> Any:
    return elsewhere(__name__, name)
