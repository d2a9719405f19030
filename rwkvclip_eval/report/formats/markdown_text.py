"""Text and tables that Markdown shows as they are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def escape_markdown(text: str) -> str:
    """Return `text` so that Markdown shows it as it is, tables and HTML included."""
    # Between two $ some readers show mathematics.
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("$", "&#36;")
    text = re.sub(r"([\\`*_\[\]|~])", r"\\\1", " ".join(text.split()))
    # At the head of a line these make a heading or a list.
    return re.sub(r"^(#+|[-+]|\d+(?=[.)]))(?=[.)]?(\s|$))", _escaped_head, text)


def _escaped_head(found: re.Match[str]) -> str:
    return f"{found[1]}\\" if found[1].isdigit() else f"\\{found[1]}"


def grid(lines: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    """Return cells of Markdown as a table, the first column to the left."""
    from tabulate import tabulate

    align = ["left", *["right"] * (len(head) - 1)]
    return tabulate(lines, head, tablefmt="pipe", disable_numparse=True, colalign=align if lines else None)
