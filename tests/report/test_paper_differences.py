"""What the paper's tables say of a difference, and what is bold."""

import math

import pytest
from paper_runs import built, measured, rows_of, scored, tables, texts
from report_runs import record

from rwkvclip_eval.metrics.intervals import Z
from rwkvclip_eval.report.differences import published_numbers
from rwkvclip_eval.report.paper_layout import ELEVEN
from rwkvclip_eval.report.paper_rows import RESOLVED

RWKV = "RWKV-CLIP B/32, YFCC15M"
CALTECH = "mean_per_class_accuracy"
ALIP = "ALIP ViT-B/32, YFCC15M"


def test_a_counterpart_counts_as_compared_whatever_it_was_trained_on() -> None:
    spec = {"model_info": {"spec": "clip-vit-b32=openai"}}
    (table,) = built(scored("clip-vit-b32", "cifar10", 0.9, **spec)).values()
    (row,) = [row for row in table.published if row.method == "open_clip:ViT-B-32=openai"]
    assert row.compared
    assert measured(table).against == "open_clip:ViT-B-32=openai"
    (difference,) = filter(None, measured(table).differences)
    assert difference.value == pytest.approx(90 - 89.83)
    assert not any("which of them" in note for note in table.notes)


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
        one, rival = record("a", "cifar10", value, half=half), scored("c", "cifar10", 0.3)
        (table,) = built(one, rival, rows=rows).values()
        assert bold(table)["a (standard)"] == (["cifar10.top1_accuracy"] if leads else [])


def test_no_number_is_bold_beside_published_ones_alone() -> None:
    untrained = scored("c", "cifar10", 0.1, model_info={"trained": False})
    for records in ((), (untrained,), (scored("c", "cifar10", 0.3, subset=True),)):
        (table,) = built(scored("a", "cifar10", 0.99), *records, rows=rows_of({"value": "50"})).values()
        assert not any(bold(table).values())


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
    alone, rival = scored("a", "cifar10", 0.9), scored("c", "cifar10", 0.3)
    untrained = scored("a", "cifar10", 0.9, model_info={"trained": False})
    older = scored("a", "pets", 0.9, task_version=1)
    for records, rows in (
        ((alone,), rows_of({"dataset": "dtd"})),
        ((untrained, rival), rows_of({})),
        (
            (older, scored("c", "pets", 0.3)),
            rows_of({"dataset": "pets", "metric": "mean_per_class_accuracy"}),
        ),
        ((alone, scored("b", "cifar10", 0.5, **other)), rows_of({})),
    ):
        (table,) = built(*records, rows=rows).values()
        assert not any(names for label, names in bold(table).items() if label.startswith("a "))
    (table,) = built(alone, rival, rows=rows_of({})).values()
    assert bold(table)["a (standard)"]


def test_subsets_are_competitors_of_nothing() -> None:
    subset = scored("b", "cifar10", 0.99, subset=True)
    rival = scored("c", "cifar10", 0.3)
    (table,) = built(scored("a", "cifar10", 0.9), rival, subset, rows=rows_of({})).values()
    assert (
        bold(table)["a (standard)"] == ["cifar10.top1_accuracy"] and bold(table)["b (standard, subset)"] == []
    )


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


def test_plots_hold_a_number_against_those_that_the_tables_do() -> None:
    for variant, drawn in (("clip-benchmark", False), ("seed3072", True)):
        measured_one = scored("rwkv-clip-b32", "caltech101", 0.8, variant=variant)
        (table,) = tables(measured_one)
        theirs = {"dataset": "caltech101", "metric": CALTECH, "protocol": "official-rwkv-clip"}
        numbers = published_numbers(table, rows_of(theirs))
        assert bool(numbers) is drawn, variant


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
