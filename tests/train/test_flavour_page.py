"""docs/official-and-corrected.md says what the code does."""

from pathlib import Path

import pytest

from rwkvclip_train.flavour import Quirks
from rwkvclip_train.optim.adamw import schedule
from rwkvclip_train.recipe import load_recipe

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "official-and-corrected.md").read_text(encoding="utf-8")
YFCC15M_PAIRS = 15_061_515


def table(header):
    """Return the cells of the table whose header begins so."""
    lines = PAGE.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {header} |")) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_page_has_a_row_for_every_quirk():
    assert [row[0].strip("`") for row in table("switch")] == list(Quirks.model_fields)


def test_the_page_states_the_steps_of_both_flavours():
    official, corrected = (load_recipe("yfcc15m-b32", [f"flavour={f}"]) for f in ("official", "corrected"))
    said = f"{official.num_steps(YFCC15M_PAIRS):,} steps in place of {corrected.num_steps(YFCC15M_PAIRS):,}"
    assert said in PAGE


@pytest.mark.parametrize("row", table("step of 117,696"), ids=lambda row: row[0])
def test_rates_and_betas_on_the_page_are_those_of_the_flavours(row):
    for column, flavour in ((2, "official"), (3, "corrected")):
        recipe = load_recipe("yfcc15m-b32", [f"flavour={flavour}"])
        lr, (beta1, _) = schedule(recipe, int(row[0]), 117_696)
        assert (f"{lr:.3g}", f"{beta1:.3f}") == (row[1], row[column])


def test_the_curves_on_the_page_are_drawn():
    assert "](flavours.svg)" in PAGE
    assert (DOCS / "flavours.svg").stat().st_size > 5000
