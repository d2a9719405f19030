"""What reports show of few-shot numbers: their intervals, and averages of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from probe_runs import probe_record
from report_runs import record, write_run
from scipy.stats import t as student
from seed_simulation import NUM_SEEDS, SEED_VARIANCES, draw_hits
from test_tables import entries

from rwkvclip_eval.metrics import seed_intervals as seed_statistics
from rwkvclip_eval.records.metrics import known
from rwkvclip_eval.report import write_report
from rwkvclip_eval.report.averages import average_interval
from rwkvclip_eval.report.loading import Entry, Run
from rwkvclip_eval.report.probe_facts import spread_text
from rwkvclip_eval.report.rows import Cell
from rwkvclip_eval.report.tables import build_tables

if TYPE_CHECKING:
    from rwkvclip_eval.records.schema import Record

pytestmark = pytest.mark.usefixtures("no_pdf")

COVERS = "draws of training images; draws of test images; not the model's own training"
RUN = Run(path=Path("run"), info=None)


def few_shot(dataset: str, value: float, shots: int = 4, *, older: bool = False, **changes: Any) -> Record:
    """A record of three seeds; `older` as it was written before test images were part of the interval."""
    notes = {"shots": shots, "seeds": 3, "std": 0.02, "l2_at_edge": 0}
    parts = {
        "seeds_se": 0.01,
        "images_low": value - 0.03,
        "images_high": value + 0.03,
        "interval_covers": COVERS,
    }
    fields: dict[str, Any] = {
        "task": "few_shot_linear_probe",
        "task_version": 6 if older else 7,
        "metric": f"top1_accuracy_{shots}_shot",
        "half": 0.05,
        "notes": notes if older else notes | parts,
    }
    method = "t over 3 seeds" if older else "score interval over 3 seeds × test images"
    made = probe_record("a", dataset, value, **(fields | changes))
    return type(made)(**{**vars(made), "ci_method": method if made.ci_low is not None else ""})


def test_a_few_shot_number_says_what_its_interval_covers(tmp_path: Path) -> None:
    page = write_report([write_run(tmp_path / "run", [few_shot("dtd", 0.5)])], tmp_path / "report")
    text = page.index.read_text(encoding="utf-8")
    assert f"score interval over 3 seeds × test images; covers {COVERS}; mean of 3 seeds" in text.replace(
        "&#39;", "'"
    )
    assert "that of a few-shot probe also the draws of its seeds" in text
    (plot,) = [p for p in page.plots if p.name.startswith("few-shot") and p.name.endswith("certified.svg")]
    assert "bands are 95 % intervals over seeds and test images" in text
    assert "before 7" not in text
    assert plot.is_file()


def test_an_older_few_shot_number_keeps_loading_and_says_what_its_interval_lacks(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [few_shot("dtd", 0.5, older=True)])
    text = write_report([run], tmp_path / "report").index.read_text(encoding="utf-8")
    assert "t over 3 seeds; without the test images, and so too narrow; mean of 3 seeds" in text
    assert "those of task versions before 7 without the test images" in text


def test_a_number_of_one_seed_says_why_it_has_no_interval(tmp_path: Path) -> None:
    notes = {"shots": 4, "seeds": 1, "l2_at_edge": 0}
    run = write_run(tmp_path / "run", [few_shot("dtd", 0.5, half=0, notes=notes)])
    text = write_report([run], tmp_path / "report").index.read_text(encoding="utf-8")
    assert "no interval, since one seed does not tell what another draw would give" in text
    assert spread_text(notes | {"std": 0.0}) == spread_text(notes)


def cells(*records: Record) -> list[Cell]:
    return [
        Cell(metric=r.measure, value=r.value, low=r.ci_low, high=r.ci_high, entry=entry)
        for r, entry in zip(records, entries(*records), strict=True)
    ]


def test_seeds_of_all_datasets_together_tell_how_far_an_average_may_be_off() -> None:
    one, other = few_shot("x", 0.5), few_shot("y", 0.7)
    notes = dict(other.notes) | {"seeds_se": 0.02, "seeds": 5}
    low, high = average_interval(cells(one, few_shot("y", 0.7, notes=notes)))
    variance = 0.01**2 + 0.02**2
    freedom = variance**2 / (0.01**4 / 2 + 0.02**4 / 4)
    half = (0.03**2 + 0.03**2 + student.ppf(0.975, freedom) ** 2 * variance) ** 0.5 / 2
    assert (low, high) == (pytest.approx(0.6 - half), pytest.approx(0.6 + half))


def test_an_average_of_one_number_has_that_numbers_interval() -> None:
    assert average_interval(cells(few_shot("x", 0.5))) == pytest.approx((0.45, 0.55))


def test_older_few_shot_numbers_are_averaged_by_the_ends_they_have() -> None:
    both = cells(few_shot("x", 0.5, older=True), few_shot("y", 0.7, older=True))
    half = (2 * 0.05**2) ** 0.5 / 2
    assert average_interval(both) == pytest.approx((0.6 - half, 0.6 + half))


def test_an_average_without_one_of_its_intervals_has_none_and_none_leaves_what_can_be() -> None:
    assert average_interval(cells(few_shot("x", 0.5), few_shot("y", 0.7, half=0))) == (None, None)
    wide = few_shot("y", 0.99, notes=dict(few_shot("y", 0.99).notes) | {"seeds_se": 0.3, "seeds": 2})
    low, high = average_interval(cells(wide, wide))
    assert low is not None and high is not None
    assert 0 <= low < high <= 1


def test_a_table_of_few_shot_numbers_shows_the_interval_of_their_average() -> None:
    (table,) = build_tables(entries(few_shot("x", 0.5), few_shot("y", 0.7)))
    (row,) = table.averages
    expected = average_interval(cells(few_shot("x", 0.5), few_shot("y", 0.7)))
    assert (row.cells["a"].low, row.cells["a"].high) == expected


SETS = ((0.35, 800), (0.9, 250), (0.8, 370), (0.3, 800), (0.6, 500), (0.2, 330), (0.5, 600), (0.55, 190))
TEN_SETS = {"as they are in use": (*SETS, (0.7, 400), (0.95, 100)), "small": ((0.6, 20), (0.8, 60)) * 5}


def check_averages(sets: tuple[tuple[float, int], ...], num_runs: int, *, factor: float = 1.0) -> None:
    """Fail unless averages over `sets`, each an accuracy and a number of images, cover at their level.

    `factor` multiplies the distances to their ends.
    """
    generator = np.random.default_rng(0)
    truth = float(np.mean([accuracy for accuracy, _ in sets]))
    for num_seeds in NUM_SEEDS:
        for seed_variance in SEED_VARIANCES:
            runs = [
                draw_hits(generator, num_runs, num_seeds, np.full(n, accuracy), seed_variance)
                for accuracy, n in sets
            ]
            held = 0
            for run in range(num_runs):
                low, high = average_interval([_cell(hits[run]) for hits in runs])
                assert low is not None and high is not None
                mean = float(np.mean([hits[run].mean() for hits in runs]))
                held += mean + factor * (low - mean) <= truth <= mean + factor * (high - mean)
            share, slack = held / num_runs, 2 * (0.93 * 0.07 / num_runs) ** 0.5
            assert share >= 0.93 - slack, f"{num_seeds} seeds cover {share:.3f}"


def _cell(hits: np.ndarray[Any, Any]) -> Cell:
    found = seed_statistics.of_mean(hits)
    assert found is not None
    parts = {"seeds_se": found.seeds_se, "images_low": found.images_low, "images_high": found.images_high}
    of = record(notes={"seeds": len(hits), **parts})
    return Cell(
        metric=known("top1_accuracy_4_shot"),
        value=float(hits.mean()),
        low=found.low,
        high=found.high,
        entry=Entry(record=of, run=RUN, model="a"),
    )


def test_averages_over_ten_sets_cover_at_their_level() -> None:
    check_averages(TEN_SETS["as they are in use"], 80)


@pytest.mark.slow
@pytest.mark.parametrize("sets", TEN_SETS)
def test_averages_over_ten_sets_of_any_size_cover_at_their_level(sets: str) -> None:
    check_averages(TEN_SETS[sets], 400)


@pytest.mark.parametrize("factor", [0.0, 0.1])
def test_the_check_of_averages_fails_for_intervals_of_no_width_or_a_tenth(factor: float) -> None:
    with pytest.raises(AssertionError, match="seeds cover"):
        check_averages(TEN_SETS["as they are in use"], 40, factor=factor)
