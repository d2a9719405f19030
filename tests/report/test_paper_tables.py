"""What stands where in the paper's tables."""

import csv
import dataclasses
import math
from pathlib import Path

import pytest
from paper_runs import built, measured, probed, rows_of, scored, texts
from probe_runs import ALL_27
from report_runs import record, without_number
from test_tables import tables

from rwkvclip_eval.records.published import AVERAGE, read_published
from rwkvclip_eval.report.paper_layout import (
    ELEVEN,
    LAYOUTS,
    METRICS,
    SHIFTED,
    TEN,
    TWENTY,
    TWENTY_SEVEN,
    key,
)
from rwkvclip_eval.report.paper_tables import average_sets, paper_tables
from rwkvclip_eval.report.tables import TIES

ROOT = Path(__file__).resolve().parents[2]
RWKV = "RWKV-CLIP B/32, YFCC15M"


def test_columns_are_in_the_order_of_the_papers() -> None:
    in_readme = [
        *("cifar10", "cifar100", "food101", "pets", "flowers", "sun397", "cars", "dtd", "caltech101"),
        *("aircraft", "imagenet"),
    ]
    with (ROOT / "reports/published/lists/datasets_27.csv").open(encoding="utf-8") as file:
        num_listed = len(list(csv.DictReader(file)))
    columns = {layout.name: layout.columns for layout in LAYOUTS}
    assert [c.dataset for c in columns["zero-shot-classification-11"]] == [*in_readme, ""]
    assert [c.dataset for c in columns["linear-probe-10"]] == [*in_readme[:-1], ""]
    assert num_listed == 27
    assert [c.dataset for c in columns["linear-probe-27"]] == [*ALL_27, "", "", ""]
    assert [(*c.groups, c.title) for c in columns["zero-shot-retrieval"]] == [
        (f"{what} retrieval", dataset, f"R@{k}")
        for what in ("Text", "Image")
        for dataset in ("Flickr30k", "MSCOCO")
        for k in (1, 5, 10)
    ]
    assert list(columns) == [
        *("zero-shot-retrieval", "zero-shot-classification-11", "linear-probe-10", "linear-probe-27"),
        "zero-shot-robustness",
    ]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_published_rows_of_a_paper_list_the_columns_in_their_order(layout) -> None:
    who = "CLIP (RealSyn run)" if layout.name == "linear-probe-27" else "CLIP"
    lines = [
        (line.dataset, line.metric)
        for line in read_published()
        if line.who == f"{who} ViT-B/32, YFCC15M"
        and line.task == layout.published_task
        and line.dataset != AVERAGE
    ]
    order = [column.key for column in layout.columns if column.dataset]
    assert len(lines) == {"linear-probe-27": 20}.get(layout.name, len(order))
    assert lines == [one for one in order if one in lines]


def test_the_metrics_are_those_of_the_papers() -> None:
    with (ROOT / "reports/published/lists/datasets_27.csv").open(encoding="utf-8") as file:
        listed = [row["metric"] for row in csv.DictReader(file)]
    words = {
        "accuracy": "top1_accuracy",
        "mean per class": "mean_per_class_accuracy",
        "11-point mAP": "mean_average_precision_11_point",
        "mean(top1,top5)": "mean_top1_top5_accuracy",
        "ROC AUC": "roc_auc",
    }
    assert [words[metric] for metric in listed] == [key(name)[1] for name in TWENTY_SEVEN]
    assert set(METRICS) <= set(TWENTY_SEVEN)


def test_rows_are_in_the_order_of_the_papers_and_others_behind_them() -> None:
    (table,) = built(*(scored("a", d) for d in ELEVEN)).values()
    compared = [row.method.partition(" ")[0] for row in table.published if row.compared]
    assert compared[:9] == [
        *("CLIP", "SLIP", "FILIP", "DeCLIP", "DeFILIP", "HiCLIP", "HiDeCLIP", "ALIP", "RWKV-CLIP"),
    ]
    flags = [row.compared for row in table.published]
    assert flags == sorted(flags, reverse=True)
    assert any("open_clip:" in row.method for row in table.published)
    assert [row.label for row in table.measured] == ["a (standard)"]


def test_a_table_stands_there_only_if_something_of_it_was_measured() -> None:
    assert built(scored("a", "digits")) == {}
    assert list(built(scored("a", "dtd"))) == ["zero-shot-classification-11"]
    assert list(built(*(scored("a", d) for d in SHIFTED))) == ["zero-shot-robustness"]
    assert list(built(probed("a", "dtd"))) == ["linear-probe-10"]
    assert list(built(probed("a", "imagenet"))) == ["linear-probe-27"]
    assert list(built(probed("a", "dtd"), probed("a", "mnist"))) == ["linear-probe-10", "linear-probe-27"]


def test_an_average_stands_there_only_where_every_dataset_has_its_number() -> None:
    whole = built(*(scored("a", d, 0.1 * i / 3) for i, d in enumerate(ELEVEN)))
    (table,) = whole.values()
    assert measured(table).cells[-1].value == pytest.approx(100 * sum(0.1 * i / 3 for i in range(11)) / 11)
    halves = [cell.half or 0.0 for cell in measured(table).cells]
    assert halves[-1] == pytest.approx(math.hypot(*halves[:-1]) / 11, rel=1e-3)
    for left in ELEVEN:
        (table,) = built(*(scored("a", d) for d in ELEVEN if d != left)).values()
        assert measured(table).cells[-1].value is None
        assert measured(table).cells[-1].status == "incomplete"
    assert texts(table, RWKV)["average_11"] == "44.4"


def test_a_number_by_another_metric_completes_no_average() -> None:
    (table,) = built(*(record("a", d, 0.5) for d in ELEVEN)).values()
    assert measured(table).cells[-1].value is None
    assert [cell.value is None for cell in measured(table).cells[:4]] == [False, False, False, True]


def test_the_probe_has_both_averages_of_26_and_realsyns_of_20() -> None:
    records = [probed("a", d, 0.9 if d in ("fer2013", "imagenet") else 0.5) for d in TWENTY_SEVEN]
    table = built(*records)["linear-probe-27"]
    assert texts(table, "a (clip-certified)") | {
        "average_26_without_fer2013": f"{(25 * 50 + 90) / 26:.1f}",
        "average_26_without_imagenet": f"{(25 * 50 + 90) / 26:.1f}",
        "average_20": f"{(19 * 50 + 90) / 20:.1f}",
    } == texts(table, "a (clip-certified)")
    assert texts(table, "CLIP (RealSyn run) ViT-B/32, YFCC15M")["average_20"] == "64.5"
    fewer = built(*(one for one in records if one.dataset != "imagenet"))["linear-probe-27"]
    assert [c.name for c in fewer.columns][-2:] == [
        "average_26_without_fer2013",
        "average_26_without_imagenet",
    ]
    assert texts(fewer, "a (clip-certified)")["average_26_without_imagenet"] == f"{(25 * 50 + 90) / 26:.1f}"
    assert "average_26_without_fer2013" not in texts(fewer, "a (clip-certified)")


def test_every_published_average_is_over_the_sets_of_its_column_and_is_their_mean() -> None:
    lines = read_published()
    seen = set()
    for task in dict.fromkeys(line.task for line in lines):
        of_task = [line for line in lines if line.task == task]
        for (who, source, metric), over in average_sets(of_task).items():
            own = [x for x in of_task if (x.who, x.source) == (who, source)]
            parts = [x for x in own if x.dataset != AVERAGE]
            (average,) = [x for x in own if x.dataset == AVERAGE and x.metric == metric]
            if parts:
                mean = sum(x.number or 0 for x in parts) / len(parts)
                assert abs(mean - (average.number or 0)) < 0.06
            seen.add((task, over))
    assert seen == {
        ("zero_shot_classification", frozenset(map(key, ELEVEN))),
        ("zero_shot_classification", frozenset(map(key, TWENTY))),
        ("linear_probe", frozenset(map(key, TEN))),
        ("linear_probe", frozenset(map(key, TWENTY))),
        ("zero_shot_robustness", frozenset(map(key, SHIFTED))),
    }


def test_a_published_average_over_other_sets_stays_away() -> None:
    two = {"method": "Mine", "source": "Mine"}
    rows = rows_of(
        two,
        two | {"dataset": "dtd", "value": "20"},
        two | {"dataset": "average", "metric": "average", "value": "49.9"},
    )
    (table,) = built(scored("a", "cifar10"), rows=rows).values()
    assert texts(table, "Mine B/32, YFCC15M") == {"cifar10.top1_accuracy": "79.8", "dtd.top1_accuracy": "20"}


def test_a_derived_average_stands_beside_an_average_of_the_same_sets() -> None:
    (table,) = built(*(probed("a", d) for d in TEN)).values()
    assert texts(table, RWKV) == {"average_10": "74.1"}
    assert any("(derived)" in source for source in table.sources)


def test_what_was_read_from_a_figure_has_a_tilde_and_gives_way_to_what_was_printed() -> None:
    eye = {"status": "read_from_figure", "value": "79", "source": "A figure"}
    one = scored("rwkv-clip-b32", "cifar10", 0.8)
    (table,) = built(one, rows=rows_of(eye)).values()
    assert texts(table, RWKV) == {"cifar10.top1_accuracy": "~79"}
    assert table.sources == ("A figure (read from figure); protocol unknown",)
    difference = measured(table).differences[0]
    assert difference is not None and difference.about
    (table,) = built(one, rows=rows_of(eye, {})).values()
    assert texts(table, RWKV) == {"cifar10.top1_accuracy": "79.8"}
    assert table.sources == ("A paper; protocol unknown",)


def test_numbers_of_one_method_under_two_protocols_are_two_rows() -> None:
    rows = rows_of({"value": "79"}, {"protocol": "standard", "source": "Another"})
    (table,) = built(scored("a", "cifar10", 0.8), rows=rows).values()
    assert [(row.method, row.protocol, row.sources) for row in table.published] == [
        (RWKV, "unknown", (1,)),
        (RWKV, "standard", (2,)),
    ]


def test_a_number_that_nobody_printed_is_an_empty_cell_and_no_method() -> None:
    rows = rows_of({}, {"dataset": "dtd", "value": ""}, {"method": "Silent", "value": ""})
    (table,) = built(scored("a", "cifar10", 0.8), scored("a", "dtd", 0.2), rows=rows).values()
    assert [row.method for row in table.published] == [RWKV]
    assert {cell.status for cell in table.published[0].cells[1:]} == {"not_published"}


def test_an_empty_measured_cell_keeps_its_reason() -> None:
    missing = without_number("missing_data", "no files", dataset="dtd", model="a", unit="u")
    (table,) = built(scored("a", "cifar10"), missing).values()
    assert [cell.status for cell in measured(table).cells] == [
        *("ok", "not_run", "not_run", "not_run", "not_run", "not_run", "not_run", "missing_data"),
        *("not_run", "not_run", "not_run", "incomplete"),
    ]


def test_what_sets_a_number_apart_stands_below_its_table_too() -> None:
    tied = {"notes": {"ties_worst": 0.2, "ties_best": 0.9}}
    drawn = {"notes": {"differences": "A split of its own.", "ties_worst": 0.4999, "ties_best": 0.5001}}
    names = [name for name in ELEVEN if name not in ("cifar10", "sun397")]
    (table,) = built(
        scored("a", "cifar10", half=0.01, **tied),
        scored("a", "sun397", half=0.01, **drawn),
        *(scored("a", name, half=0.01) for name in names),
    ).values()
    said = [note for note in table.notes if "could be any number" in note]
    assert said == [
        "CIFAR-10 of a (standard) could be any number in 20.0–90.0; Average of a (standard) could be any "
        f"number in 47.3–53.6. {TIES}"
    ]
    assert "SUN397 (standard): A split of its own." in table.notes
    (quiet,) = built(scored("a", "sun397", half=0.01)).values()
    assert not any("could be any" in note or note.startswith("SUN397 (") for note in quiet.notes)


def test_numbers_of_training_images_are_no_published_metric() -> None:
    assert built(scored("a", "cifar10", split="train")) == {}


def test_only_the_models_asked_for_are_shown() -> None:
    shown = paper_tables(tables(scored("a", "cifar10"), scored("b", "cifar10")), models=("b",))
    assert [row.method for row in shown[0].measured] == ["b"]


def test_more_datasets_than_the_papers_have_a_table_of_their_own() -> None:
    records = [scored(m, d, 0.5) for m in ("a", "b") for d in TWENTY_SEVEN]
    records += [scored(m, f"mine{i}", 0.5) for m in ("a", "b") for i in range(13)]
    assert len({one.dataset for one in records}) == 40
    found = built(*records)
    assert list(found) == [
        "zero-shot-classification-11",
        "zero_shot_classification-further".replace("_", "-"),
    ]
    further = found["zero-shot-classification-further"]
    assert [c.dataset for c in further.columns] == [*TWENTY_SEVEN, ""]
    assert [row.method for row in further.measured] == ["a", "b"]
    assert texts(further, "CLIP (RealSyn run) ViT-B/32, YFCC15M")["average_20"]
    assert measured(further).cells[-1].text == "50.0"


def test_a_task_beside_the_papers_is_shown_where_somebody_published_it() -> None:
    row = {"task": "knn_probe", "dataset": "mine"}
    one = scored("a", "mine", 0.5, task="knn_probe", protocol="knn")
    (table,) = built(one, rows=rows_of(row)).values()
    assert (table.name, table.title) == ("knn-probe-further", "k-NN probe on more datasets")
    assert texts(table, RWKV) == {"mine.top1_accuracy": "79.8"}
    assert built(one, rows=[]) == {}


def test_the_heads_of_a_table_span_its_columns() -> None:
    one = record("a", "flickr30k", 0.5, task="zero_shot_retrieval", metric="text_retrieval_recall@1")
    (table,) = built(one).values()
    assert table.heads[0] == (("Text retrieval", 6), ("Image retrieval", 6))
    assert table.heads[1] == (("Flickr30k", 3), ("MSCOCO", 3)) * 2
    assert [text for text, _ in table.heads[2]] == ["R@1", "R@5", "R@10"] * 4
    assert dataclasses.replace(table, columns=table.columns[:1]).heads[0] == (("Text retrieval", 1),)
