"""What a run was started with, kept beside its log: training/NAME.run.json and a sheet of its first pairs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.environment import environment
from rwkvclip_eval.errors import OutputError
from rwkvclip_models.disk import write_text
from rwkvclip_models.files import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rwkvclip_train.data.pairs import Key, Pairs
    from rwkvclip_train.recipe import Recipe

SHEET_PAIRS = 16
"""On the sheet."""

LIMIT_BYTES = 4 << 20


def facts_path(log: Path) -> Path:
    """Return where the facts of the run with this log are."""
    return log.with_name(f"{log.stem}.run.json")


def keep_facts(log: Path, recipe: Recipe) -> None:
    """Write recipe and environment beside the log; those of the last start stay.

    Raises:
        OutputError: the file cannot be written.
    """
    facts = {"recipe": recipe.model_dump(mode="json"), "environment": environment()}
    write_text(facts_path(log), json.dumps(facts, indent=2) + "\n")


def keep_sheet(log: Path, pairs: Pairs, keys: Sequence[Key]) -> None:
    """Write a picture sheet of the first pairs that a run sees beside its log.

    Args:
        log: of the run.
        pairs: of the run.
        keys: of its first step.

    Raises:
        DamagedData: a pair cannot be read; it is named.
        OutputError: the file cannot be written.
    """
    from rwkvclip_train.data.peek import look, write_sheet

    write_sheet(log.with_suffix(".png"), look(pairs, keys[:SHEET_PAIRS]), f"{log.stem}, step 1")


def read_facts(log: Path) -> dict[str, Any]:
    """Return `recipe` and `environment` of the run with this log, nothing where none were kept.

    Raises:
        OutputError: the file is no JSON object.
    """
    path = facts_path(log)
    if not path.exists():
        return {}
    facts = read_json(path, what="run's facts", limit=LIMIT_BYTES, error=OutputError)
    if not isinstance(facts, dict):
        raise OutputError(f"{path}: expected a JSON object, got {type(facts).__name__}; delete the file.")
    return facts
