"""What to say of data that are not there: how they are got, and which other version is there."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rwkvclip_eval.data.catalogue import catalogue
from rwkvclip_eval.errors import DataNotFound

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ROOT_UNKNOWN = "DATA"
"""The folder that printed commands name where the user gave none; `data download` makes it."""


def obtain_command(name: str, variant: str, data_root: Path | None) -> str:
    """Return the command that fetches a dataset of the catalogue, else the one that says how it is got.

    It works as it is printed: `seed*` is named as one of the seeds it stands for.
    """
    entry = catalogue()[name]
    first = next(iter(entry.variants))
    label = name if variant == first else f"{name}@{variant.replace('*', '0')}"
    if not entry.variant(variant).sources:
        return f"rwkvclip-eval data list {name}{_root_option(data_root)}"
    return f"rwkvclip-eval data download {label} --data-root {shlex.quote(str(data_root or ROOT_UNKNOWN))}"


def _root_option(data_root: Path | None) -> str:
    return f" --data-root {shlex.quote(str(data_root))}" if data_root else ""


def other_versions(name: str, variant: str, split: str, data_root: Path | None) -> list[str]:
    """Return `sun397@full (wds_sun397)` for each other version of a dataset of which shards are there."""
    if data_root is None:
        return []
    found = []
    for other, known in catalogue()[name].variants.items():
        for pattern in known.webdataset:
            for folder in sorted(data_root.glob(pattern)):
                # `seed*` stands for what its folder says.
                label = f"{name}@{folder.name.rpartition('@')[2] if '*' in other else other}"
                if (folder / split).is_dir() and label != f"{name}@{variant}":
                    found.append(f"{label} ({folder.name})")
    return list(dict.fromkeys(found))


def not_found(
    name: str, variant: str, split: str, data_root: Path | None, tried: Sequence[str]
) -> DataNotFound:
    """Return the error for a split that is nowhere: where it was looked for, and how it is got.

    Args:
        name: of the dataset.
        variant: of its versions.
        split: that was asked for.
        data_root: where it was looked for.
        tried: the places.
    """
    label = name if variant == "default" else f"{name}@{variant}"
    what = f"No data for {label}, split {split}"
    lines = [f"{what}."]
    if data_root is None:
        lines.append("There is no data root: give one with --data-root DIR.")
    elif not data_root.is_dir():
        lines.append(f"The data root {data_root} does not exist.")
    if tried:
        lines.append(f"Looked for: {', '.join(tried)}.")
    if name not in catalogue():
        return DataNotFound(" ".join(lines), f"{what}.")
    known = catalogue()[name].variant(variant)
    if there := other_versions(name, variant, split, data_root):
        lines.append(f"There is {', '.join(there)}: name it so where that version is meant.")
    if known.hugging_face:
        lines.append(f"In the suite, source: {{kind: hugging_face}} takes {known.hugging_face.path}.")
    how = f"To get it, from {known.sources}" if known.sources else "How to get it"
    lines.append(f"{how}: {obtain_command(name, variant, data_root)}")
    return DataNotFound(" ".join(lines), f"{what}: {obtain_command(name, variant, None)}")
