"""`prefetch`: everything a suite and its models need, fetched where there is a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwkvclip_eval.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def prefetch_all(
    suite: str | Path, models: Sequence[str], data_root: Path | None
) -> tuple[list[tuple[str, str]], bool]:
    """Fetch the data of `suite` and the files of `models`; go on where one fails.

    Returns:
        Rows (what, state) and whether everything is there.

    Raises:
        SuiteError: the suite is not one.
        UserError: a model spec is not one.
    """
    from rwkvclip_eval.data.download import prefetch_dataset
    from rwkvclip_eval.encoders import expand_specs, prefetch
    from rwkvclip_eval.plan.suite import load_suite
    from rwkvclip_eval.plan.units import plan

    loaded = load_suite(suite)
    units = {}
    fit_splits: dict[Any, dict[str, None]] = {}
    for unit in plan(loaded):
        units[unit.dataset_key] = unit
        # A dictionary keeps the order: of several splits, the first must be there.
        learned = dict.fromkeys(unit.task.fit_splits)
        fit_splits.setdefault(unit.dataset_key, {}).update(learned)
    rows: list[tuple[str, str]] = []
    complete = True
    for spec in expand_specs(models):
        try:
            rows += [(f"{spec.name}: {what}", "there") for what in prefetch(spec)]
        except UserError as error:
            rows.append((spec.name, f"failed: {error}"))
            complete = False
    for key, unit in units.items():
        try:
            state = prefetch_dataset(
                unit.ref,
                data_root,
                fit_splits=tuple(fit_splits[key]),
                variant=unit.variant,
                base_dir=loaded.base_dir,
            )
        except UserError as error:
            state, complete = f"failed: {error}", False
        rows.append((unit.ref.name, state))
    return rows, complete
