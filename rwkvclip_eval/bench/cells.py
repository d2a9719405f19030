"""What the command line says of the grid of cells in the place of a suite's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from rwkvclip_eval.errors import UserError, shown
from rwkvclip_eval.records.efficiency import Precision, Tower
from rwkvclip_eval.records.grid import GridName, Grids, Mode
from rwkvclip_eval.schema import whole_number

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = {"tower": get_args(Tower), "precision": get_args(Precision), "mode": get_args(Mode)}
"""Option that takes names → those."""


def choose_grid(grids: Mapping[GridName, Grids], device: str, *, quick: bool) -> tuple[GridName, Grids]:
    """Return the grid of a suite that is measured where nothing else is said, and its name.

    Raises:
        UserError: the suite has none for the device.
    """
    name: GridName = "quick" if quick else "cpu" if device.startswith("cpu") else "gpu"
    if name not in grids:
        raise UserError(f"The suite has no grid {name!r}; it has {', '.join(grids)}. Add one under 'grids'.")
    return name, grids[name]


def narrowed(grids: Grids, given: Mapping[str, str | None]) -> Grids:
    """Return the grids with what the command line says in its place.

    Towers are chosen among those of each part. Sizes of one's own are measured whatever they cost.

    Args:
        grids: of the suite.
        given: `tower`, `precision`, `mode`, `batch-size`, `size` and `tokens`, as typed; None where not.

    Raises:
        UserError: a name or number is none.
    """
    changes: dict[str, Any] = {}
    for option, allowed in NAMES.items():
        text = given.get(option)
        if text is not None:
            words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
            if wrong := [word for word in words if word not in allowed]:
                raise UserError(f"--{option} {shown(wrong[0])}: expected {', '.join(allowed)}.")
            changes[f"{option}s"] = words
    if (text := given.get("batch-size")) is not None:
        changes["batches"] = tuple(parse_numbers(text, "--batch-size", 1_000_000))
    if (text := given.get("size")) is not None:
        changes["sizes"] = tuple(parse_sizes(text))
    if (text := given.get("tokens")) is not None:
        changes["lengths"] = tuple(parse_numbers(text, "--tokens", 65_536))
    towers = changes.pop("towers", NAMES["tower"])
    parts = []
    for part in grids.parts:
        own = [tower for tower in part.towers if tower in towers]
        if own:
            parts.append(part.model_copy(update={**changes, "towers": tuple(own)}))
    if not parts:
        parts = [grids.parts[0].model_copy(update={**changes, "towers": tuple(towers)})]
    patches = None if "sizes" in changes else grids.most_patches
    positions = None if changes.keys() & {"sizes", "lengths", "batches"} else grids.most_positions
    return Grids(parts=tuple(parts), most_patches=patches, most_positions=positions)


def parse_sizes(text: str) -> list[tuple[int, int]]:
    """Return (height, width) of each of `224,448x896`.

    Raises:
        UserError: one is no size from 1 to 8192 px.
    """
    found = []
    for part in text.split(","):
        numbers = part.strip().lower().split("x")
        whole = [n for n in map(whole_number, numbers) if n is not None]
        if len(whole) != len(numbers) or len(whole) > 2 or not all(1 <= n <= 8192 for n in whole):
            raise UserError(
                f"--size {shown(part)}: expected 224, or height x width such as 448x896, up to 8192."
            )
        found.append((whole[0], whole[-1]))
    return found


def parse_numbers(text: str, option: str, most: int) -> list[int]:
    """Return the whole numbers of `1,8,32`.

    Raises:
        UserError: one is none from 1 to `most`.
    """
    found = []
    for part in text.split(","):
        number = whole_number(part)
        if number is None or not 1 <= number <= most:
            raise UserError(
                f"{option} {shown(part)}: expected whole numbers from 1 to {most}, such as 1,8,32."
            )
        found.append(number)
    return found
