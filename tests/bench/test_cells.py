"""Grids and what the command line puts in their place."""

import pytest

from rwkvclip_eval.bench.cells import GRIDS, Grid, parse_numbers, parse_sizes
from rwkvclip_eval.errors import UserError


@pytest.mark.parametrize("name", GRIDS)
def test_cells_of_a_grid_have_names_of_their_own(name):
    cells = GRIDS[name].cells()
    assert len({cell.key for cell in cells}) == len({cell.label for cell in cells}) == len(cells)


def test_the_quick_grid_has_three_sizes_and_three_lengths():
    cells = GRIDS["quick"].cells()
    assert [cell.shape for cell in cells if cell.tower == "image"] == [
        "224×224 px", "448×448 px", "896×896 px",
    ]  # fmt: skip
    assert [cell.tokens for cell in cells if cell.tower == "text"] == [16, 77, 256]


def test_pairs_take_the_first_size_and_77_tokens():
    [cell] = Grid(towers=("train",), sizes=((64, 32), (96, 96)), lengths=(16, 77)).cells()
    assert (cell.height, cell.width, cell.tokens) == (64, 32, 77)


def test_sizes_are_sides_or_height_by_width():
    assert parse_sizes("224, 448x896") == [(224, 224), (448, 896)]


@pytest.mark.parametrize("text", ["", "0", "224x", "x", "1x2x3", "-5", "99999", "a", "2 2"])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(UserError, match=r"--size .*expected 224"):
        parse_sizes(text)


@pytest.mark.parametrize("text", ["", "0", "1,,2", "-1", "1.5", "1000001", "9" * 30])
def test_a_number_that_is_none_is_refused(text):
    with pytest.raises(UserError, match=r"--batch-size .*whole numbers from 1 to 1000000"):
        parse_numbers(text, "--batch-size", 1_000_000)
