"""The templates of pages: what users and data sets wrote is escaped by autoescape."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

_DIGEST = re.compile("[0-9a-f]{16,128}")


def environment() -> Environment:
    """Return what renders the templates that lie beside this file."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("rwkvclip_eval.report", "formats"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.tests["digest"] = is_digest
    return found


def is_digest(text: object) -> bool:
    """Return whether a text is a digest, which is shown by its beginning."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None
