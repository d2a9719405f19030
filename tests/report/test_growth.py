"""How times and memory grow with the size of an input, and where two models cross."""

import dataclasses
import math
import statistics

import pytest
from speed_runs import linear_against_quadratic, measured, pair

from rwkvclip_eval.report.efficiency import speed_rows
from rwkvclip_eval.report.formats.efficiency import (
    remarks,
)
from rwkvclip_eval.report.growth import crossings, growth
from rwkvclip_eval.report.plots.efficiency import efficiency_plots


def test_exponents_tell_linear_from_quadratic_and_the_crossover_lies_where_the_lines_meet():
    rows = speed_rows(linear_against_quadratic())
    ours, theirs = growth(rows, "ours", "theirs"), growth(rows, "theirs", "theirs")
    assert ours.exponent.value == pytest.approx(1, abs=0.01)
    assert theirs.exponent.value == pytest.approx(2, abs=0.01)
    assert ours.exponent.low < 1 < ours.exponent.high
    assert theirs.exponent.low < 2 < theirs.exponent.high
    assert [math.sqrt(one.size) for one in ours.crossovers] == [pytest.approx(400, rel=0.01)]
    [crossed] = ours.crossovers
    # Both models have the same noise, so that it falls out of their ratio.
    assert crossed.low == pytest.approx(crossed.high) == pytest.approx(400**2)


def test_models_that_never_meet_have_no_crossover():
    rows = speed_rows([pair(side, 1e-6 * side**2, 2e-6 * side**2) for side in (200, 300, 500)])
    assert growth(rows, "ours", "theirs").crossovers == []


def test_the_lines_of_equal_models_do_not_cross():
    rows = speed_rows(
        [
            pair(side, 1e-6 * side**2 * (1.01 if side == 300 else 0.99), 1e-6 * side**2)
            for side in (200, 300, 500)
        ]
    )
    assert growth(rows, "ours", "theirs").crossovers == []


def test_a_crossover_lies_where_the_drawn_lines_cross_whatever_is_near_1():
    # Slower at 448 by less than the margin: the lines cross behind it.
    rows = speed_rows([pair(px, 0.1, 0.1 * ratio) for px, ratio in ((224, 0.9), (448, 0.98), (896, 1.4))])
    [crossed] = growth(rows, "ours", "theirs").crossovers
    share = math.log(1 / 0.98) / math.log(1.4 / 0.98)
    assert math.sqrt(crossed.size) == pytest.approx(448 * 2**share, rel=1e-3)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0, -1), (1, 1)], [0.5]),
        ([(0, -1), (1, 0), (2, 1)], [1]),
        ([(0, -1), (1, 0.01), (2, -0.01), (3, 1)], [1.5]),
        ([(0, -1), (1, 0.01), (2, -1)], []),
        ([(0, -1), (1, 1), (2, -1)], [0.5, 1.5]),
        ([(0, 0.01), (1, -0.01)], []),
        ([], []),
    ],
)
def test_a_line_crosses_between_points_beyond_the_margin(points, expected):
    assert crossings(points, 0.05) == [pytest.approx(x) for x in expected]


def test_a_crossover_has_an_interval_over_repeats():
    def shaken(one, turn):
        theirs = one.models[1]
        return dataclasses.replace(
            one, models=[one.models[0], measured("theirs", statistics.median(theirs.seconds), turn=turn)]
        )

    blocks = [shaken(one, turn) for turn, one in enumerate(linear_against_quadratic(), start=1)]
    [crossed] = growth(speed_rows(blocks), "ours", "theirs").crossovers
    assert 390**2 < crossed.low < crossed.size < crossed.high < 410**2
    assert crossed.high / crossed.low > 1.001
    # Whatever lies within the margin in one repeat.
    near = [pair(px, 0.1, 0.1 * ratio) for px, ratio in ((224, 0.95), (448, 1.2), (896, 1.4))]
    near = [shaken(one, turn) for turn, one in enumerate(near, start=1)]
    ratios = [b / a for a, b in zip(near[0].models[0].seconds, near[0].models[1].seconds, strict=True)]
    assert any(ratio > 1 / 1.05 for ratio in ratios)
    [other] = growth(speed_rows(near), "ours", "theirs").crossovers
    assert other.low < other.size < other.high
    side = [round(math.sqrt(n)) for n in (crossed.size, crossed.low, crossed.high)]
    told = f"ours, image tower, batch 4, fp32: as fast as theirs at {side[0]} px ({side[1]} to {side[2]})."
    assert told in remarks(speed_rows(blocks))


def test_noisy_cells_are_left_out_of_exponents_and_crossovers_and_it_is_said():
    blocks = linear_against_quadratic()
    blocks[3] = dataclasses.replace(blocks[3], noisy="others were busy")
    rows = speed_rows(blocks)
    quiet = speed_rows(blocks[:3])
    assert growth(rows, "ours", "theirs") == growth(quiet, "ours", "theirs")
    assert any("power 1.00" in text and "2 noisy numbers left out." in text for text in remarks(rows))
    assert "open: noisy" in next(iter(efficiency_plots(rows))).title
    rows = speed_rows([dataclasses.replace(b, noisy="others were busy") for b in blocks])
    assert growth(rows, "ours", "theirs").exponent is None
    assert not any("power" in text or "as fast as" in text for text in remarks(rows))


def test_an_exponents_interval_is_that_of_t_over_repeats():
    rows = speed_rows(linear_against_quadratic())
    own = [row for row in rows if row.measured.model == "ours"]
    x = [math.log(row.cell.height**2) for row in own]
    slopes = [
        statistics.linear_regression(x, [math.log(row.measured.seconds[i]) for row in own]).slope
        for i in range(5)
    ]
    # 2.776: the 97.5 % point of t with four degrees of freedom.
    half = 2.7764 * statistics.stdev(slopes) / math.sqrt(5)
    found = growth(rows, "ours", "theirs").exponent
    assert found.value == pytest.approx(statistics.mean(slopes))
    assert found.high - found.value == pytest.approx(half, rel=1e-3)


def test_memory_crosses_too():
    def remembering(one):
        ours, theirs = one.models
        more = dataclasses.replace(ours, peak_bytes=100_000_000 + 400 * one.cell.height**2)
        return dataclasses.replace(one, models=[more, dataclasses.replace(theirs, peak_bytes=164_000_000)])

    rows = speed_rows([remembering(one) for one in linear_against_quadratic()])
    [crossed] = growth(rows, "ours", "theirs").memory_crossovers
    assert math.sqrt(crossed.size) == pytest.approx(400, rel=0.01)
    assert any("as small as theirs at 400 px" in text for text in remarks(rows))
    assert "ours takes as much memory as theirs at 400 px" in next(iter(efficiency_plots(rows))).alt


def test_modes_are_told_apart_in_words():
    both = [*linear_against_quadratic(), *linear_against_quadratic(compiled=True)]
    said = [text for text in remarks(speed_rows(both)) if "ours" in text and "power" in text]
    assert [", compiled:" in text for text in said] == [False, True]
