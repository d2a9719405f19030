"""What a page begins with: three numbers, a short sentence, and a line for each model."""

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from pages import page_of
from paper_runs import rows_of
from report_runs import full_run, record, without_number, write_run

from rwkvclip_eval.records.published import PublishedRow
from rwkvclip_eval.records.schema import Average, Record
from rwkvclip_eval.report.first_screen import Card, result_cards, short_sentence
from rwkvclip_eval.report.headline import write_headline
from rwkvclip_eval.report.loading import load_runs
from rwkvclip_eval.report.overview import View, overview
from rwkvclip_eval.report.paper_layout import SHIFTED
from rwkvclip_eval.report.paper_tables import paper_tables
from rwkvclip_eval.report.tables import build_tables

RECALL = {"task": "zero_shot_retrieval"}
PROBE = {"task": "linear_probe", "protocol": "clip-certified"}


class First:
    """What a page of `records` begins with."""

    def __init__(
        self, folder: Path, *records: Record, rows: list[PublishedRow] | None = None, **changes: Any
    ) -> None:
        loaded = load_runs([write_run(folder / "run", list(records), **changes)])
        tables = build_tables(loaded.entries, loaded.averages)
        headline = write_headline(loaded, tables)
        papers = paper_tables(tables, headline.models, rows or [])
        self.views: list[View] = overview(headline.columns)
        self.cards: list[Card] = result_cards(self.views, tables, papers, headline.models)
        self.sentence = short_sentence(headline, self.views, papers)


def both_ways(model: str, to_text: float, to_image: float) -> list[Record]:
    values = {"text": to_text, "image": to_image}
    return [
        record(model, "flickr30k", v, 1000, f"{side}_retrieval_recall@1", **RECALL)
        for side, v in values.items()
    ]


def test_each_kind_of_task_has_a_card_of_its_best_model(tmp_path: Path) -> None:
    first = First(
        tmp_path,
        *[record(m, "cifar10", v) for m, v in (("a", 0.6), ("b", 0.7))],
        *both_ways("a", 0.5, 0.5),
        *both_ways("b", 0.3, 0.3),
        *[record(m, "cifar10", v, **PROBE) for m, v in (("a", 0.8), ("b", 0.805))],
    )
    assert [(c.table.task, c.model, c.cell.text) for c in first.cards] == [
        ("zero_shot_classification", "b", "70.0"),
        ("zero_shot_retrieval", "a", "50.0"),
        ("linear_probe", "b", "80.5"),
    ]
    assert [c.standing for c in first.cards] == [
        "leads, 10.0 points ahead of a",
        "leads, 20.0 points ahead of b",
        "highest of 2, not separated from a",
    ]


def test_where_there_are_few_kinds_other_numbers_fill_the_three_cards(tmp_path: Path) -> None:
    first = First(tmp_path, *[record("a", d) for d in ("w", "x", "y", "z")])
    assert [c.row.title for c in first.cards] == ["Average of 4", "w", "x"]
    assert [c.standing for c in first.cards] == ["", "", ""]


def test_a_card_shows_the_difference_from_the_published_counterpart(tmp_path: Path) -> None:
    first = First(tmp_path, record("rwkv-clip-b32", "cifar10", 0.81), rows=rows_of({"value": "79.8"}))
    (card,) = first.cards
    (one,) = card.beside
    assert one.difference.value == pytest.approx(1.2)
    assert (one.model, one.against, one.published) == ("rwkv-clip-b32", "RWKV-CLIP B/32, YFCC15M", "79.8")


def test_of_several_models_a_card_shows_the_difference_of_each_that_has_a_counterpart(tmp_path: Path) -> None:
    values = {"mine": 0.9, "rwkv-clip-b32": 0.81, "alip-vit-b32": 0.82}
    records = [record(m, "cifar10", v) for m, v in values.items()]
    rows = rows_of({"value": "79.8"}, {"method": "ALIP", "backbone": "ViT-B/32", "value": "83.8"})
    (card,) = First(tmp_path / "a", *records, rows=rows).cards
    assert card.model == "mine"
    assert [(one.model, round(one.difference.value, 3)) for one in card.beside] == [
        ("alip-vit-b32", -1.8),
        ("rwkv-clip-b32", 1.2),
    ]
    many = [f"rwkv-clip-b32=step_{i}.pt" for i in range(5)]
    spec = [record(f"m{i}", "cifar10", 0.8, model_info={"spec": s}) for i, s in enumerate(many)]
    page = page_of(write_run(tmp_path / "b", spec), rows)
    (shown,) = re.findall(r'<article class="card">(.*?)</article>', page, re.DOTALL)
    assert [len(re.findall(r'<p class="vs', part)) for part in shown.split("<details>")] == [3, 2]
    assert "Δ to published of 2 more" in shown
    assert re.search(r'<bdi class="t name"[^>]*>m1</bdi>: <b>Δ', shown)


def test_numbers_of_another_task_or_a_part_of_the_set_are_held_against_nothing(tmp_path: Path) -> None:
    rows = rows_of({"value": "79.8"})
    probe = First(tmp_path, record("rwkv-clip-b32", "cifar10", 0.81, **PROBE), rows=rows)
    assert probe.cards[0].beside == ()
    subset = First(tmp_path / "b", record("rwkv-clip-b32", "cifar10", 0.81, subset=True), rows=rows)
    assert subset.cards[0].beside == ()


def test_the_sentence_of_one_model_with_a_part_of_its_average_names_what_it_lacks(tmp_path: Path) -> None:
    none = without_number("missing_data", "no folder", model="a", dataset="z")
    first = First(tmp_path, record("a", "x"), record("a", "y"), none)
    assert first.sentence == "a has 2 of 3 datasets (missing: z), so nothing is ranked."


def test_untrained_models_have_cards_where_there_is_nothing_else(tmp_path: Path) -> None:
    first = First(tmp_path, record("a", value=0.1, model_info={"trained": False}))
    assert [(c.model, c.standing) for c in first.cards] == [("a", "")]
    assert first.sentence == "Only untrained models were scored, so nothing is ranked."


def test_a_report_without_numbers_has_no_card_and_says_so(tmp_path: Path) -> None:
    first = First(tmp_path, without_number("failed", "broken"))
    assert first.cards == []
    assert first.sentence.startswith("No number came out of this run")


def test_the_sentence_names_who_leads_where_and_where_nobody_does(tmp_path: Path) -> None:
    first = First(
        tmp_path,
        *[record(m, "cifar10", v) for m, v in (("a", 0.6), ("b", 0.7))],
        *both_ways("a", 0.5, 0.31),
        *both_ways("b", 0.3, 0.3),
        *[record(m, "cifar10", v, **PROBE) for m, v in (("a", 0.8), ("b", 0.805))],
    )
    assert first.sentence == (
        "b leads zero-shot classification; a leads image→text retrieval; no lead is clear on text→image "
        "retrieval and linear probe."
    )


def test_a_lead_needs_the_intervals_of_all_others_apart(tmp_path: Path) -> None:
    close = First(tmp_path, *[record(m, value=v, half=0.02) for m, v in (("a", 0.6), ("b", 0.59))])
    assert close.sentence == "No lead is clear on zero-shot classification."
    wide_third = First(
        tmp_path / "b",
        record("a", value=0.6, half=0.01),
        record("b", value=0.55, half=0.01),
        record("c", value=0.54, half=0.2),
    )
    assert wide_third.sentence == "No lead is clear on zero-shot classification."
    assert wide_third.cards[0].standing == "highest of 3, not separated from c"


def test_of_a_single_model_the_sentence_counts_what_published_numbers_it_meets(tmp_path: Path) -> None:
    alone = First(tmp_path, record("rwkv-clip-b32"))
    assert alone.sentence == "rwkv-clip-b32 is the only model here, so nothing is ranked."
    rows = rows_of(
        {"dataset": "cifar10", "value": "79.8"},
        {"dataset": "cifar100", "value": "55.0"},
        {"dataset": "food101", "value": "40.0"},
    )
    values = {"cifar10": 0.8, "cifar100": 0.5, "food101": 0.401}
    records = [record("rwkv-clip-b32", dataset, value) for dataset, value in values.items()]
    held = First(tmp_path / "b", *records, rows=rows)
    assert held.sentence == (
        "rwkv-clip-b32 is the only model here; beside 3 published numbers (all of another or unstated "
        "protocol): 2 within the noise, 1 lower."
    )


def test_long_names_are_cut_and_right_to_left_ones_isolated_in_sentences(tmp_path: Path) -> None:
    first = First(tmp_path, record("x" * 500, value=0.6), record("שלום", value=0.5))
    assert first.sentence == f"{'x' * 79}… leads zero-shot classification."
    assert first.cards[0].standing == "leads, 10.0 points ahead of \u2068שלום\u2069"


def test_robustness_is_a_kind_of_its_own_behind_the_others(tmp_path: Path) -> None:
    records = [record("a", d) for d in ("cifar10", "dtd", *SHIFTED)] + [record("a", "dtd", **PROBE)]
    averages = [
        Average(name=name, task="zero_shot_classification", protocol="standard", datasets=list(datasets))
        for name, datasets in (("Robustness average of 5", SHIFTED), ("Average of 2", ("cifar10", "dtd")))
    ]
    first = First(tmp_path, *records, averages=[vars(a) for a in averages])
    (view,) = first.views
    assert view.under == ""
    assert [(g.kind, [r.title for r in g.rows]) for g in view.groups] == [
        ("Zero-shot", ["Average of 2"]),
        ("Linear probe", ["dtd"]),
        ("Robustness", ["Robustness average of 5"]),
    ]


def test_protocols_are_views_and_what_has_one_protocol_stands_in_each(tmp_path: Path) -> None:
    records = [record("a", protocol=p) for p in ("standard", "official-rwkv-clip")]
    first = First(tmp_path, *records, record("a", **PROBE))
    assert [v.under for v in first.views] == ["standard", "official-rwkv-clip"]
    assert [[g.under for g in v.groups] for v in first.views] == [
        ["standard", "clip-certified"],
        ["official-rwkv-clip", "clip-certified"],
    ]


def test_a_subset_and_the_whole_never_share_a_view(tmp_path: Path) -> None:
    first = First(tmp_path, record("a"), record("b", subset=True))
    assert [v.under for v in first.views] == ["standard", "standard, subset"]


def test_the_page_shows_each_view_in_turn_without_a_script(tmp_path: Path) -> None:
    page = page_of(full_run(tmp_path / "run"))
    head = page[page.index("<body>") : page.index("<main>")]
    assert re.findall(r'<input type="radio" name="view" id="(view-\d)"( checked)?>', head) == [
        ("view-1", " checked"),
        ("view-2", ""),
    ]
    assert re.findall(r'<label for="view-\d">([^<]*)</label>', head) == ["standard", "official-rwkv-clip"]
    views = head.split('<div class="view">')[1:]
    assert len(views) == 2
    for number, view in enumerate(views, start=1):
        assert (
            f".switch>input:nth-of-type({number}):checked~.view:nth-of-type({number}){{display:block}}"
            in page
        )
        assert view.count('<th scope="row">') == 3
        assert re.findall(r'scope="colgroup" class="group"><bdi class="t">([^<]*)', view) == [
            "Zero-shot",
            "Retrieval",
        ]


def test_one_protocol_has_no_switch(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record("a"), record("b")])
    page = page_of(run)
    assert 'type="radio"' not in page
    assert page.count('<div class="view">') == 1


def test_a_card_of_the_page_holds_value_interval_model_and_difference(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record("rwkv-clip-b32", "cifar10", 0.81)])
    page = page_of(run)
    (card,) = re.findall(r'<article class="card">(.*?)</article>', page, re.DOTALL)
    words = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", "", card))).strip()
    assert words == (
        "Zero-shot classification CIFAR-10, top-1 · standard 81.0 % ±0.8 95 % interval 80.2–81.8 "
        "rwkv-clip-b32 Δ ≈ +1.2 ±0.8 to RWKV-CLIP B/32, YFCC15M, published 79.8: within the noise "
        "other protocol, official-rwkv-clip: Δ holds the change to standard"
    )


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ("standard", "other protocol, official-rwkv-clip: Δ holds the change to standard"),
        ("official-rwkv-clip", ""),
    ],
)
def test_a_card_says_that_a_published_number_is_of_another_protocol(
    tmp_path: Path, protocol: str, said: str
) -> None:
    run = write_run(tmp_path / "run", [record("rwkv-clip-b32", "cifar10", 0.81, protocol=protocol)])
    page = page_of(run)
    assert ("Δ holds the change to" in page.split("</header>")[0]) is bool(said)
    assert said in page
    assert ("(all of another or unstated protocol)" in page) is bool(said)


def test_a_card_says_that_nobody_states_the_protocol_of_a_published_number(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record("alip-vit-b32", "cifar10", 0.81)])
    assert "protocol not stated: Δ holds what a change of protocol would do" in page_of(run)


def test_ties_on_the_first_screen_are_explained_there_and_only_where_there_are_some(tmp_path: Path) -> None:
    ties = {"ties_worst": 0.382, "ties_best": 0.618, "tied_rows": 61}
    for notes, times in ((ties, 1), ({}, 0)):
        run = write_run(tmp_path / str(times), [record("a", "pets", 0.5, notes=notes)])
        top = page_of(run).split("</header>")[0]
        assert top.count("“ties”: logits cut to integers") == times
        assert ("ties 38.2–61.8" in top) is bool(times)


def test_the_key_speaks_of_no_mark_that_stands_nowhere(tmp_path: Path) -> None:
    cases = {
        "one": ([record("a", value=0.5)], ()),
        "level": ([record("a", value=0.5), record("b", value=0.5)], ("Tint",)),
        "close": ([record("a", value=0.5), record("b", value=0.501)], ("Tint",)),
        "clear": ([record("a", value=0.5), record("b", value=0.7)], ("Bold", "Tint")),
    }
    for name, (records, expected) in cases.items():
        top = page_of(write_run(tmp_path / name, records)).split("</header>")[0]
        for words in ("Bold", "Tint"):
            assert (f"{words}" in top.split('<p class="key">')[-1]) is (words in expected), (name, words)
