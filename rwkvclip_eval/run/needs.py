"""Which splits of which datasets a suite's units read, and what to say of those that are not there."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rwkvclip_eval.data.absence import ROOT_UNKNOWN, other_versions
from rwkvclip_eval.data.listing import CatalogueRow, rows_of
from rwkvclip_eval.errors import DataNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from rwkvclip_eval.data.types import DatasetRef
    from rwkvclip_eval.errors import UserError
    from rwkvclip_eval.plan.units import Unit


@dataclass(kw_only=True)
class Need:
    """A dataset of a suite, in the variant that its units mean.

    Attributes:
        ref: how the suite names it, without a split.
        variant: the protocol's choice; None for the only version.
        label: the name that commands use: `cifar10`, `sun397@partition1`.
        splits: all that the units are judged on or learn from.
        units: names (without a model) of those that read it.
    """

    ref: DatasetRef
    variant: str | None
    label: str
    splits: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)


def needs_of(units: Iterable[Unit]) -> list[Need]:
    """Return the datasets of `units` in their order, each once with all its splits."""
    needs: dict[str, Need] = {}
    for unit in units:
        # Tasks may give one dataset other prompts.
        ref = unit.ref.model_copy(update={"split": None})
        need = needs.setdefault(unit.label, Need(ref=ref, variant=unit.variant, label=unit.label))
        need.units.append(unit.name(""))
        need.splits += [split for split in unit.splits if split not in need.splits]
    return list(needs.values())


def catalogue_rows_of(needs: Sequence[Need], data_root: Path | None) -> list[CatalogueRow]:
    """Return what `data list` says of each need.

    Raises:
        DataNotFound: the data root is not a folder.
    """
    return rows_of([(need.ref, need.variant, need.splits) for need in needs], data_root)


def tell_coverage(
    needs: Sequence[Need], problems: Mapping[str, UserError], data_root: Path | None
) -> list[str]:
    """Return how many datasets were found, a line for each that was not, and commands that get them.

    Args:
        needs: of what is to be run.
        problems: name of a unit (without a model) → why it cannot be worked on.
        data_root: where its data were looked for.
    """
    lacking = [need for need in needs if any(unit in problems for unit in need.units)]
    absent = [need for need in lacking if any(isinstance(e, DataNotFound) for e in _errors(need, problems))]
    where = f" under {data_root}" if data_root else "; there is no data root (--data-root DIR)"
    damaged = len(lacking) - len(absent)
    lines = [
        f"{len(needs) - len(absent)} of {len(needs)} datasets found{where if absent else ''}"
        f"{f', {damaged} of them cannot be used' if damaged else ''}."
    ]
    fetched: list[str] = []
    by_hand: list[str] = []
    for need in lacking:
        errors = _errors(need, problems)
        (row,) = catalogue_rows_of([need], data_root)
        no_split = absent_splits_of(need, data_root)
        if not row.obtain or not no_split or not all(isinstance(error, DataNotFound) for error in errors):
            lines += dict.fromkeys(f"  {need.label}: {error}" for error in errors)
            continue
        automatic = " data download " in row.obtain
        (fetched if automatic else by_hand).append(need.label if automatic else row.name)
        there = other_versions(row.name, row.variant, no_split[0], data_root)
        facts = (
            f"no {', '.join(no_split)}",
            f"but {', '.join(there)} is there" if there else "",
            row.state.removeprefix("no: "),
            _size(row),
        )
        lines.append(f"  {need.label}: {'; '.join(filter(None, facts))}")
    if fetched or by_hand:
        lines.append("To get them:")
    if fetched:
        root = shlex.quote(str(data_root or ROOT_UNKNOWN))
        lines.append(f"  rwkvclip-eval data download {' '.join(fetched)} --data-root {root}")
    if by_hand:
        root = f" --data-root {shlex.quote(str(data_root))}" if data_root else ""
        lines.append(f"  rwkvclip-eval data list {' '.join(dict.fromkeys(by_hand))}{root}")
    return lines


def _errors(need: Need, problems: Mapping[str, UserError]) -> list[UserError]:
    """Return why units of `need` cannot be worked on."""
    return [problems[unit] for unit in need.units if unit in problems]


def absent_splits_of(need: Need, data_root: Path | None) -> list[str]:
    """Return the splits of `need` for which the data root has no folder."""
    found = {split: rows_of([(need.ref, need.variant, [split])], data_root)[0].found for split in need.splits}
    return [split for split, where in found.items() if not where]


def _size(row: CatalogueRow) -> str:
    return f"{row.size_gb} GB" if row.size_gb not in ("", "?") else ""
