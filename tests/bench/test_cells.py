"""Grids and what the command line puts in their place."""

import pytest

from rwkvclip_eval.bench.cells import choose_grid, narrowed, parse_numbers, parse_sizes
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.plan.suite import load_suite
from rwkvclip_eval.records.grid import Grid

GRIDS = load_suite("efficiency").suite.grids


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
    [cell] = list(Grid(towers=("train",), sizes=((64, 32), (96, 96)), lengths=(16, 77)).cells())
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


def test_the_grid_goes_by_the_device():
    assert [choose_grid(GRIDS, device, quick=False)[0] for device in ("cpu", "cuda:1", "mps")] == [
        "cpu", "gpu", "gpu",
    ]  # fmt: skip
    assert choose_grid(GRIDS, "cuda", quick=True)[0] == "quick"
    with pytest.raises(UserError, match="no grid 'gpu'; it has cpu"):
        choose_grid({"cpu": GRIDS["cpu"]}, "cuda", quick=False)


def test_the_default_grid_of_a_cpu_is_what_the_documents_say():
    cells = GRIDS["cpu"].cells()
    assert {c.precision for c in cells} == {"fp32", "bf16"}
    assert {(c.height, c.batch) for c in cells if c.tower == "image"} == {
        (side, batch) for side in (224, 448, 896) for batch in (1, 8, 32)
    }
    assert {c.tokens for c in cells if c.tower == "text"} == {16, 77, 256, 1024}
    assert {c.height for c in cells if c.tower == "train"} == {224}
    assert GRIDS["cpu"].most_patches == (896 // 32) ** 2 == (448 // 16) ** 2
    assert GRIDS["cpu"].most_positions == 32 * 256 == 8 * 1024 > 8 * (896 // 32) ** 2


def test_the_command_line_stands_in_the_place_of_the_suite():
    grids = narrowed(GRIDS["cpu"], {"tower": "image", "size": "64,32x96", "batch-size": "2", "mode": "eager"})
    assert [(c.height, c.width, c.batch) for c in grids.cells()] == [(64, 64, 2), (32, 96, 2)] * 2
    assert grids.most_patches is None
    assert grids.most_positions is None
    assert narrowed(GRIDS["cpu"], {}) == GRIDS["cpu"]
    for own in ("size", "batch-size", "tokens"):
        assert narrowed(GRIDS["cpu"], {own: "8"}).most_positions is None
    assert narrowed(GRIDS["cpu"], {"precision": "fp32"}).most_positions == 8192


def test_a_tower_that_the_grid_leaves_out_can_be_asked_for():
    cells = narrowed(GRIDS["quick"], {"tower": "train"}).cells()
    assert [(c.tower, c.batch, c.height, c.tokens) for c in cells] == [("train", 4, 224, 77)]


@pytest.mark.parametrize(
    ("option", "text"), [("tower", "picture"), ("precision", "fp8"), ("mode", "fast"), ("tower", "")]
)
def test_a_name_that_is_none_is_refused(option, text):
    with pytest.raises(UserError, match=f"--{option} .*: expected "):
        narrowed(GRIDS["cpu"], {option: text})
