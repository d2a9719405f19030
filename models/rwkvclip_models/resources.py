"""Finds the shipped folders `cuda`, `suites` and `published`, in wheel and checkout alike."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_IN_CHECKOUT = {"cuda": "cuda", "suites": "suites", "published": "reports/published"}


def resource_dir(name: Literal["cuda", "suites", "published"]) -> Path:
    """Return the folder called `name`.

    Raises:
        FileNotFoundError: the installation is incomplete (neither wheel nor checkout layout is there).
    """
    package = Path(__file__).resolve().parent
    in_wheel = package / "_resources" / name
    in_checkout = package.parents[1] / _IN_CHECKOUT[name]
    for folder in (in_wheel, in_checkout):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"The shipped folder {name!r} is in neither {in_wheel} nor {in_checkout}: reinstall rwkvclip-eval."
    )
