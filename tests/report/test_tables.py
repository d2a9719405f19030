from pathlib import Path

import pytest
from report_runs import record, without_number

from rwkvclip_eval.records.metrics import known
from rwkvclip_eval.records.schema import Record
from rwkvclip_eval.report.loading import Entry, Run
from rwkvclip_eval.report.rows import Row, nearest
from rwkvclip_eval.report.tables import Table, build_tables


def entries(*records: Record, path: str = "run") -> list[Entry]:
    run = Run(path=Path(path), info=None)
    return [Entry(record=r, run=run, model=r.model) for r in records]


def tables(*records: Record) -> list[Table]:
    return build_tables(entries(*records))


def marks(row: Row) -> dict[str, str]:
    return {m: "best" if c.best else "" for m, c in row.cells.items()}


def test_the_highest_value_is_best_only_where_all_other_intervals_lie_apart() -> None:
    (table,) = tables(
        record("a", "cifar10", 0.6, half=0.01),
        record("b", "cifar10", 0.5, half=0.01),
        record("a", "dtd", 0.60, half=0.05),
        record("b", "dtd", 0.62, half=0.05),
        record("a", "pets", 0.6, half=0.01),
        record("b", "pets", 0.5, half=0.01),
        record("c", "pets", 0.4, half=0.3),
    )
    cifar10, dtd, pets = table.rows
    assert marks(cifar10) == {"a": "best", "b": "", "c": ""}
    assert marks(dtd) == {"a": "", "b": "", "c": ""}
    assert marks(pets) == {"a": "", "b": "", "c": ""}
    assert nearest(pets)[0] == "c" and nearest(cifar10)[0] == "b"


def test_of_equal_values_none_is_best() -> None:
    (table,) = tables(record("a", value=0.60004), record("b", value=0.60001), record("c", value=0.5))
    assert marks(table.rows[0]) == {"a": "", "b": "", "c": ""}
    (exact,) = tables(record("a", value=0.60004, half=1e-6), record("b", value=0.60001, half=1e-6))
    assert marks(exact.rows[0]) == {"a": "", "b": ""}


def test_a_single_model_is_not_called_best() -> None:
    (table,) = tables(record("a"))
    assert marks(table.rows[0]) == {"a": ""}


def test_an_untrained_model_is_never_best_and_does_not_hinder_the_others() -> None:
    untrained = record("lucky", value=0.9, model_info={"trained": False})
    (table,) = tables(untrained, record("a", value=0.3), record("b", value=0.2))
    assert marks(table.rows[0]) == {"lucky": "", "a": "best", "b": ""}
    (alone,) = tables(untrained, record("a", value=0.3))
    assert marks(alone.rows[0]) == {"lucky": "", "a": ""}


def test_ties_are_said_where_they_could_move_a_number_out_of_its_interval() -> None:
    def tied(model: str, worst: float, best: float, dataset: str = "x") -> Record:
        return record(model, dataset, 0.5, half=0.01, notes={"ties_worst": worst, "ties_best": best})

    (table,) = tables(tied("a", 0.495, 0.505), tied("b", 0.38, 0.505), tied("c", 0.495, 0.52), record("d"))
    cells = table.rows[0].cells
    assert {m: c.ties for m, c in cells.items()} == {"a": "", "b": "38.0–50.5", "c": "49.5–52.0", "d": ""}
    assert any(note.startswith("“ties”") for note in table.notes)
    (quiet,) = tables(tied("a", 0.495, 0.505))
    assert quiet.notes == ()
    # Means of two: an average moves with its parts, and an exact part stays where it is.
    exact = record("a", "y", 0.3, half=0.01)
    (averaged,) = tables(tied("a", 0.4, 0.6), exact)
    assert averaged.averages[0].cells["a"].ties == "35.0–45.0"


def test_what_must_be_known_of_a_dataset_stands_on_its_first_row_alone() -> None:
    said = {"notes": {"differences": "Another split."}}
    (table,) = tables(
        record("a", "sun397", metric="top5_accuracy", primary=False, **said),
        record("a", "sun397", **said),
        record("b", "sun397", **said),
        record("a", "dtd", notes={"bank": "9 images of train"}),
    )
    assert {r.title: r.remark for r in table.rows} == {
        "sun397": "Another split.",
        "dtd": "Neighbours: 9 images of train.",
    }
    assert [r.remark for r in table.further] == [""]


def test_the_lowest_median_rank_is_best() -> None:
    metric = "image_retrieval_median_rank"
    (table,) = tables(record("a", value=3.0, metric=metric), record("b", value=12.0, metric=metric))
    assert marks(table.rows[0]) == {"a": "best", "b": ""}
    assert table.rows[0].cells["b"].text == "12"


@pytest.mark.parametrize(
    "field", ["dataset_fingerprint", "fit_fingerprint", "prompt_hash", "task_version", "num_missing"]
)
def test_a_row_whose_numbers_were_not_measured_alike_is_flagged_and_not_ranked(field: str) -> None:
    (table,) = tables(record("a", value=0.6), record("b", value=0.5, **{field: 7}))
    assert marks(table.rows[0]) == {"a": "", "b": ""}
    assert "differ" in table.rows[0].problem
    assert "a: " in table.rows[0].problem


def test_protocols_and_subsets_have_tables_of_their_own() -> None:
    found = tables(
        record("a", value=0.6),
        record("a", value=0.5, protocol="official-rwkv-clip"),
        record("b", value=0.9, subset=True),
        record("a", value=0.7, task="zero_shot_retrieval", metric="text_retrieval_recall@1"),
    )
    assert [(t.task, t.protocol, t.subset, t.models) for t in found] == [
        ("zero_shot_classification", "standard", False, ("a",)),
        ("zero_shot_classification", "official-rwkv-clip", False, ("a",)),
        ("zero_shot_classification", "standard", True, ("b",)),
        ("zero_shot_retrieval", "standard", False, ("a",)),
    ]


def test_an_average_is_the_mean_with_the_root_sum_of_squares_as_its_interval() -> None:
    (table,) = tables(record("a", "x", 0.4, half=0.03), record("a", "y", 0.6, half=0.04))
    (average,) = table.averages
    cell = average.cells["a"]
    assert average.title == "Average of 2"
    assert cell.value == pytest.approx(0.5)
    # sqrt(0.03² + 0.04²) / 2
    assert (cell.low, cell.high) == (pytest.approx(0.475), pytest.approx(0.525))


def test_an_average_that_lacks_a_dataset_names_it_and_is_not_ranked() -> None:
    (table,) = tables(
        record("a", "x", 0.4),
        record("a", "y", 0.6),
        record("b", "x", 0.9),
        without_number("missing_data", "not there", model="b", dataset="y"),
        record("c", "x", 0.1),
        record("c", "y", 0.1),
    )
    cells = table.averages[0].cells
    assert cells["b"].missing == ("y",)
    assert marks(table.averages[0]) == {"a": "best", "b": "", "c": ""}
    assert table.rows[1].cells["b"].text == "no data"


def test_an_average_of_full_splits_lacks_a_dataset_that_is_there_as_a_subset_only() -> None:
    full, _ = tables(record("a", "x", 0.4), record("a", "y", 0.6), record("a", "z", 0.6, subset=True))
    assert full.averages[0].cells["a"].missing == ("z",)


def test_a_copy_of_a_set_that_the_web_loses_completes_an_average_and_is_said_to_be_one() -> None:
    (table,) = tables(record("a", "birdsnap", 0.4, own_copy=True), record("a", "y", 0.6))
    assert table.averages[0].cells["a"].missing == ()
    assert table.averages[0].cells["a"].value == pytest.approx(0.5)
    assert "no two copies agree" in table.notes[-1] and "birdsnap" in table.notes[-1]


def test_two_copies_of_a_set_that_the_web_loses_are_not_compared() -> None:
    (table,) = tables(
        record("a", "birdsnap", 0.4, own_copy=True, dataset_fingerprint="1"),
        record("b", "birdsnap", 0.6, own_copy=True, dataset_fingerprint="2"),
    )
    assert "dataset fingerprints differ" in table.rows[0].problem
    assert marks(table.rows[0]) == {"a": "", "b": ""}


def test_variants_of_a_dataset_are_left_out_of_averages() -> None:
    (table,) = tables(
        record("a", "sun397", 0.4, variant="partition1", unit="1"),
        record("a", "sun397", 0.9, variant="full", unit="2"),
        record("a", "x", 0.2),
        record("a", "y", 0.4),
    )
    assert table.averages[0].datasets == ("x", "y")
    assert table.averages[0].cells["a"].value == pytest.approx(0.3)
    assert "sun397@full, sun397@partition1" in table.notes[0]


def test_recalls_have_an_average_per_metric() -> None:
    metrics = ("text_retrieval_recall@1", "image_retrieval_recall@1")
    (table,) = tables(
        *(
            record("a", d, v, metric=m, task="zero_shot_retrieval", primary=False)
            for m, shift in zip(metrics, (0.0, 0.1), strict=True)
            for d, v in (("x", 0.2 + shift), ("y", 0.4 + shift))
        )
    )
    found = {row.metric.name: row.cells["a"].value for row in table.averages}
    assert found == {metrics[0]: pytest.approx(0.3), metrics[1]: pytest.approx(0.4)}


@pytest.mark.parametrize("noted", [1, True])
def test_a_best_strength_at_the_edge_is_warned_of_as_the_probe_notes_it(noted: object) -> None:
    # The probe notes 0 or 1, since notes are numbers and texts.
    task = {"task": "linear_probe", "protocol": "clip-certified"}
    (table,) = tables(
        record("a", "x", notes={"l2_at_edge": noted}, **task),
        record("a", "y", notes={"l2_at_edge": 0}, **task),
    )
    (note,) = table.notes
    assert note.endswith("may lie outside: x (a).")


def test_metrics_that_are_not_primary_stand_apart() -> None:
    (table,) = tables(record("a"), record("a", value=0.9, metric="top5_accuracy", primary=False))
    assert [r.metric.name for r in table.rows] == ["top1_accuracy"]
    assert [r.metric.name for r in table.further] == ["top5_accuracy"]


def test_a_missing_unit_of_a_limited_run_stays_with_the_subset() -> None:
    (table,) = tables(record("a", "x", subset=True), without_number("failed", "boom", model="a", dataset="y"))
    assert table.subset
    assert table.rows[1].cells["a"].text == "failed"


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("text_retrieval_recall@5", "image→text R@5"),
        ("image_retrieval_recall@1", "text→image R@1"),
        ("image_retrieval_median_rank", "text→image median rank"),
        ("top1_accuracy", "top-1"),
        ("some_new_score", "some new score"),
    ],
)
def test_metrics_are_written_in_the_words_of_the_field(metric: str, label: str) -> None:
    assert known(metric).title == label


def test_fractions_are_shown_as_per_cent_and_ranks_as_they_are() -> None:
    assert known("top1_accuracy").text(0.41249) == "41.2"
    assert known("image_retrieval_median_rank").text(12.5) == "12.5"
    assert known("top1_accuracy").text(None) == "—"
