"""What a run was started with, kept beside its log: training/NAME.run.json."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.environment import environment
from rwkvclip_eval.errors import OutputError
from rwkvclip_models.disk import write_text
from rwkvclip_models.files import read_json

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_train.recipe import Recipe

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
