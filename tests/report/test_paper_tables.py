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

from rwkvclip_eval.metrics.intervals import Z
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
from rwkvclip_eval.report.paper_rows import RESOLVED
from rwkvclip_eval.report.paper_tables import average_sets, paper_tables

ROOT = Path(__file__).resolve().parents[2]
RWKV = "RWKV-CLIP B/32, YFCC15M"
ALIP = "ALIP ViT-B/32, YFCC15M"


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


def test_a_counterpart_counts_as_compared_whatever_it_was_trained_on() -> None:
    spec = {"model_info": {"spec": "clip-vit-b32=openai"}}
    (table,) = built(scored("clip-vit-b32", "cifar10", 0.9, **spec)).values()
    (row,) = [row for row in table.published if row.method == "open_clip:ViT-B-32=openai"]
    assert row.compared
    assert measured(table).against == "open_clip:ViT-B-32=openai"
    (difference,) = filter(None, measured(table).differences)
    assert difference.value == pytest.approx(90 - 89.83)
    assert not any("which of them" in note for note in table.notes)


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


def test_a_difference_is_measured_less_published_with_the_measured_interval() -> None:
    one = record("rwkv-clip-b32", "cifar10", 0.81, ci_low=0.80, ci_high=0.83)
    (table,) = built(one, rows=rows_of({})).values()
    row = measured(table)
    assert row.against == RWKV
    difference = row.differences[0]
    assert difference is not None
    assert difference.value == pytest.approx(1.2)
    assert (difference.low, difference.high) == (pytest.approx(0.2), pytest.approx(3.2))
    assert difference.half == pytest.approx(2.0)
    # 1.96 + 0.84 standard errors of a difference of two independent numbers.
    assert difference.resolved == pytest.approx(
        (1.959964 + 0.841621) * math.sqrt(2) * (1.5 / 1.959964), rel=1e-5
    )
    assert difference.noise
    assert row.differences[1:] == (None,) * 11


def test_two_draws_of_the_smallest_resolved_difference_are_told_apart_in_four_of_five() -> None:
    import numpy as np

    generator = np.random.default_rng(0)
    n, p = 5000, 0.6
    half = Z * math.sqrt(p * (1 - p) / n)
    gap = RESOLVED * half
    low, high = (generator.binomial(n, q, 20_000) / n for q in (p - gap / 2, p + gap / 2))
    error = np.sqrt((low * (1 - low) + high * (1 - high)) / n)
    assert (high - low > Z * error).mean() == pytest.approx(0.80, abs=0.015)


@pytest.mark.parametrize(
    ("published", "noise"), [("78.5", True), ("82.5", True), ("70", False), ("90", False)]
)
def test_what_the_set_cannot_resolve_is_noise_in_both_directions(published: str, noise: bool) -> None:
    one = record("rwkv-clip-b32", "cifar10", 0.805, half=0.01)
    (table,) = built(one, rows=rows_of({"value": published})).values()
    difference = measured(table).differences[0]
    assert difference is not None and difference.noise == noise


def test_without_an_interval_no_difference_is_more_than_noise() -> None:
    one = record("rwkv-clip-b32", "cifar10", 0.2, half=0)
    (table,) = built(one, rows=rows_of({})).values()
    difference = measured(table).differences[0]
    assert difference is not None and difference.noise and difference.half is None


@pytest.mark.parametrize(
    "changes",
    [{"subset": True}, {"own_copy": True}, {"num_missing": 3}, {"verified": False}],
    ids=lambda changes: next(iter(changes)),
)
def test_what_is_not_the_whole_set_is_held_against_nothing(changes) -> None:
    (table,) = built(scored("rwkv-clip-b32", "cifar10", 0.99, **changes), rows=rows_of({})).values()
    row = measured(table)
    assert row.against == "" and row.differences == ()
    assert not any(cell.bold for cell in row.cells)
    assert row.cells[0].text == "99.0"
    assert row.subset == ("subset" in changes)
    assert any(note.startswith("Not held against published numbers (") for note in table.notes)


def test_random_weights_have_no_counterpart() -> None:
    random = {"spec": "rwkv-clip-b32=random:0", "trained": False}
    (table,) = built(scored("rwkv-clip-b32", "cifar10", 0.1, model_info=random)).values()
    assert measured(table).differences == ()
    assert measured(table).label == "rwkv-clip-b32 (standard, untrained)"
    assert not any(note.startswith("Published counterparts") for note in table.notes)


def test_of_several_counterparts_the_first_is_taken_and_all_are_named() -> None:
    rows = rows_of(
        {"method": "CLIP", "backbone": "ViT-B/32", "value": "70"},
        {"method": "CLIP", "backbone": "ViT-B/32", "value": "90", "pretrain_data": "LAION15M"},
    )
    (table,) = built(scored("clip-vit-b32", "cifar10", 0.8), rows=rows).values()
    assert measured(table).against == "CLIP ViT-B/32, YFCC15M"
    assert table.notes[0] == (
        "Published counterparts of clip-vit-b32: CLIP ViT-B/32, YFCC15M; CLIP ViT-B/32, LAION15M; which of "
        "them, its checkpoint does not say, and Δ is to the first."
    )


def bold(table) -> dict[str, list[str]]:
    return {
        row.label: [c.name for c, cell in zip(table.columns, row.cells, strict=True) if cell.bold]
        for row in table.measured
    }


def test_bold_is_what_beats_every_other_row_by_more_than_the_intervals() -> None:
    rows = rows_of({"value": "79.8"}, {"method": "Other", "value": "70"})
    for value, half, leads in ((0.81, 0.01, True), (0.81, 0.013, False), (0.79, 0.001, False)):
        (table,) = built(record("a", "cifar10", value, half=half), rows=rows).values()
        assert bold(table) == {"a (standard)": ["cifar10.top1_accuracy"] if leads else []}


def test_bold_needs_the_other_models_intervals_to_lie_apart_too() -> None:
    for other, leads in ((0.85, True), (0.872, False)):
        (table,) = built(
            record("a", "cifar10", 0.90, half=0.02),
            record("b", "cifar10", other, half=0.02),
            rows=rows_of({}),
        ).values()
        assert bold(table)["a (standard)"] == (["cifar10.top1_accuracy"] if leads else [])
        assert bold(table)["b (standard)"] == []


def test_nothing_is_bold_that_is_alone_untrained_of_an_older_version_or_not_comparable() -> None:
    other = {"dataset_fingerprint": "other"}
    alone = scored("a", "cifar10", 0.9)
    untrained = scored("a", "cifar10", 0.9, model_info={"trained": False})
    older = scored("a", "pets", 0.9, task_version=1)
    for records, rows in (
        ((alone,), rows_of({"dataset": "dtd"})),
        ((untrained,), rows_of({})),
        ((older,), rows_of({"dataset": "pets", "metric": "mean_per_class_accuracy"})),
        ((alone, scored("b", "cifar10", 0.5, **other)), rows_of({})),
    ):
        (table,) = built(*records, rows=rows).values()
        assert not any(bold(table).values())
    (table,) = built(alone, rows=rows_of({})).values()
    assert bold(table)["a (standard)"]


def test_subsets_are_competitors_of_nothing() -> None:
    subset = scored("b", "cifar10", 0.99, subset=True)
    (table,) = built(scored("a", "cifar10", 0.9), subset, rows=rows_of({})).values()
    assert bold(table) == {"a (standard)": ["cifar10.top1_accuracy"], "b (standard, subset)": []}


def test_two_protocols_of_a_model_are_two_rows_and_the_other_one_is_said() -> None:
    protocols = ("standard", "official-rwkv-clip")
    (table,) = built(*(scored("rwkv-clip-b32", "cifar10", 0.8, protocol=p) for p in protocols)).values()
    assert [row.protocol for row in table.measured] == list(protocols)
    assert all(row.against == RWKV for row in table.measured)
    (sentence,) = [note for note in table.notes if "probably came from" in note]
    assert sentence == (
        f"The published numbers of {RWKV} probably came from protocol official-rwkv-clip, not "
        "from standard as measured here: both are shown, and Δ holds the change."
    )
    (own,) = built(scored("rwkv-clip-b32", "cifar10", 0.8, protocol="official-rwkv-clip")).values()
    assert not any("protocol" in note for note in own.notes)


def test_a_protocol_that_nobody_says_is_said_to_be_unknown() -> None:
    (table,) = built(scored("alip-vit-b32", "cifar10", 0.8)).values()
    (sentence,) = [note for note in table.notes if note.startswith("Nobody says")]
    assert ALIP in sentence and "here it was standard" in sentence


def test_no_difference_spans_two_versions_of_a_dataset() -> None:
    versions = {"standard": "clip-benchmark", "official-rwkv-clip": "seed3072"}
    records = [
        scored("rwkv-clip-b32", d, 0.8, protocol=p, **({"variant": v} if d == "caltech101" else {}))
        for p, v in versions.items()
        for d in ELEVEN
    ]
    (table,) = built(*records).values()
    at = [c.dataset for c in table.columns].index("caltech101")
    standard, official = table.measured
    assert standard.differences[at] is None and standard.differences[-1] is None
    assert official.differences[at] is not None and official.differences[-1] is not None
    assert not standard.cells[at].bold and not official.cells[at].bold
    (sentence,) = [note for note in table.notes if "several versions" in note]
    assert sentence.startswith(
        "Caltech-101 is of several versions (caltech101@clip-benchmark: measured under standard, "
        "open_clip:ViT-B-32=openai, open_clip:ViT-B-16=openai, open_clip:ViT-L-14=openai and 7 more; "
        f"caltech101@seed3072: measured under official-rwkv-clip, {RWKV}), which are not compared"
    )


def test_a_number_of_a_named_version_stands_beside_that_version_only() -> None:
    rows = rows_of({"dataset": "sun397@full", "value": "63.2"}, {"value": "79.8"})
    shown = {}
    for variant in ("full", "partition1"):
        (table,) = built(scored("a", "sun397", 0.2, variant=variant), rows=rows).values()
        shown[variant] = table.published[0].cells[5]
    assert shown["full"].text == "63.2"
    assert (shown["partition1"].text, shown["partition1"].status) == ("", "other_version")


def test_of_several_versions_that_one_counts_which_the_protocol_means() -> None:
    both = [
        record("a", "caltech101", value, metric="mean_per_class_accuracy", variant=variant, unit=variant)
        for variant, value in (("clip-benchmark", 0.2), ("seed3072", 0.8))
    ]
    (table,) = built(*both).values()
    assert texts(table, "a (standard)") == {"caltech101.mean_per_class_accuracy": "20.0"}
    unknown = [scored("a", "sun397", 0.2, variant=v, unit=v) for v in ("full", "partition1")]
    (table,) = built(*unknown, scored("a", "cifar10", 0.3)).values()
    assert texts(table, "a (standard)") == {"cifar10.top1_accuracy": "30.0"}
    assert measured(table).cells[5].status == "several_versions"
    assert any("several versions, none of which is meant): SUN397" in note for note in table.notes)


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
