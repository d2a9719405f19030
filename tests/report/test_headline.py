from pathlib import Path

from report_runs import record, series_run, without_number, write_run

from rwkvclip_eval.records.schema import Record
from rwkvclip_eval.report.headline import Headline, write_headline
from rwkvclip_eval.report.loading import load_runs
from rwkvclip_eval.report.tables import build_tables


def headline(folder: Path, *records: Record) -> Headline:
    loaded = load_runs([write_run(folder / "run", list(records))])
    return write_headline(loaded, build_tables(loaded.entries))


def test_a_lead_with_intervals_apart_is_claimed_with_its_distance(tmp_path: Path) -> None:
    found = headline(tmp_path, record("a", value=0.6, half=0.01), record("b", value=0.5, half=0.01))
    assert found.sentence == (
        "a leads zero-shot classification (cifar10, top-1) with 60.0 %, 10.0 points ahead of b, their 95 % "
        "intervals apart."
    )
    assert found.caveats == ()


def test_overlapping_intervals_make_no_lead(tmp_path: Path) -> None:
    found = headline(tmp_path, record("a", value=0.6, half=0.04), record("b", value=0.55, half=0.04))
    assert "leads" not in found.sentence
    assert "a and b are not separated on" in found.sentence
    assert "60.0 % against 55.0 %, with overlapping 95 % intervals" in found.sentence


def test_without_intervals_no_lead_is_claimed(tmp_path: Path) -> None:
    found = headline(tmp_path, record("a", value=0.6, half=0), record("b", value=0.5, half=0))
    assert "without intervals no lead is claimed" in found.sentence


def test_equal_models_are_level(tmp_path: Path) -> None:
    found = headline(tmp_path, record("a", value=0.6), record("b", value=0.6))
    assert found.sentence.startswith("a and b are level at 60.0 %")


def test_a_single_model_is_compared_with_nothing(tmp_path: Path) -> None:
    found = headline(tmp_path, record("a", value=0.6))
    assert found.sentence == (
        "a reaches 60.0 % on zero-shot classification (cifar10, top-1); it is the only model, so nothing is "
        "compared."
    )


def test_an_incomplete_average_is_named_and_does_not_compete(tmp_path: Path) -> None:
    found = headline(
        tmp_path,
        record("a", "x", 0.3),
        record("a", "y", 0.3),
        record("b", "x", 0.9),
        without_number("missing_data", "no folder", model="b", dataset="y"),
    )
    assert found.sentence.startswith("a reaches 30.0 %")
    assert "no other trained model has the complete average" in found.sentence
    assert any("average of b" in c and "1 of 2" in c and "missing: y" in c for c in found.caveats)
    assert any(c.startswith("1 unit lacked") for c in found.caveats)


def test_of_one_model_an_average_of_a_part_names_what_it_has_or_lacks(tmp_path: Path) -> None:
    def lacking(dataset: str, task: str = "zero_shot_classification") -> Record:
        return without_number("missing_data", "no folder", model="a", dataset=dataset, task=task)

    found = headline(tmp_path / "1", record("a", "x", 0.3), record("a", "y", 0.3), lacking("z"))
    assert found.sentence == (
        "a reaches 30.0 % on zero-shot classification (average of 3 datasets), but over 2 of 3 of them "
        "(missing: z), and an average of a part is not ranked."
    )
    few = headline(tmp_path / "2", record("a", "x", 0.3), lacking("y"), lacking("z"))
    assert "but over 1 of 3 of them (only: x)" in few.sentence


def test_like_warnings_are_one(tmp_path: Path) -> None:
    records = [
        each
        for task in ("zero_shot_classification", "linear_probe")
        for m in "ab"
        for each in (
            record(m, "x", 0.3, task=task),
            record(m, "y", 0.3, task=task),
            without_number("missing_data", "no folder", model=m, dataset="z", task=task),
            without_number("failed", "boom", model=m, dataset="w", task=task),
        )
    ]
    found = headline(tmp_path, *records)
    assert found.caveats == (
        "Incomplete, so not ranked: the average of a and b (Zero-shot classification · standard) covers "
        "2 of 4 datasets, missing: z, w; the average of a and b (Linear probe · standard) covers 2 of 4 "
        "datasets, missing: z, w.",
        "4 units failed, 4 lacked data; see “Without a number”.",
    )


def test_no_complete_average_ranks_no_one(tmp_path: Path) -> None:
    found = headline(tmp_path, record("a", "x", 0.3), record("b", "y", 0.9))
    assert "No trained model has the complete average" in found.sentence
    assert "a covers 1 of 2, b covers 1 of 2" in found.sentence


def untrained(name: str, **changes: object) -> Record:
    return record(name, **({"model_info": {"trained": False}} | changes))


def test_untrained_models_alone_show_chance_not_skill(tmp_path: Path) -> None:
    chance = {"notes": {"chance": 0.1}}
    found = headline(tmp_path, untrained("a", value=0.105, **chance), untrained("b", value=0.1, **chance))
    assert found.sentence == (
        "Only untrained models were scored on zero-shot classification (cifar10, top-1): a 10.5 % (chance "
        "10.0 %), b 10.0 % (chance 10.0 %), which shows chance, not skill."
    )
    assert found.caveats == ("Untrained (random weights), never ranked: a, b.",)


def test_chance_is_the_tasks_own(tmp_path: Path) -> None:
    # The same 50 % is chance for ROC AUC, and far above it for a probe over ten classes.
    area = untrained("a", value=0.5, metric="roc_auc", n=400, notes={"chance": 0.5, "majority": 0.5})
    assert "(chance 50.0 %), which shows chance, not skill" in headline(tmp_path / "1", area).sentence
    probe = untrained("a", value=0.5, task="linear_probe", notes={"chance": 0.1, "majority": 0.11})
    assert headline(tmp_path / "2", probe).sentence.endswith(
        "a 50.0 % (chance 11.0 %), more than chance, though nothing was trained."
    )
    both = headline(tmp_path / "3", probe, untrained("b", value=0.1, task="linear_probe", notes=probe.notes))
    assert "more than chance for a, though nothing was trained" in both.sentence


def test_one_answer_for_all_is_chance_too(tmp_path: Path) -> None:
    # A collapsed model has the share of the class it always names.
    collapsed = untrained("a", value=0.8, notes={"chance": 0.5, "majority": 0.8})
    assert "80.0 % (chance 80.0 %), which shows chance, not skill" in headline(tmp_path, collapsed).sentence


def test_chance_of_a_metric_of_which_less_is_better_is_the_smaller_and_is_beaten_from_below(
    tmp_path: Path,
) -> None:
    metric = {"metric": "image_retrieval_median_rank", "task": "zero_shot_retrieval", "n": 100}
    notes = {"chance": 50.0, "majority": 60.0}
    better = untrained("a", value=40.0, notes=notes, ci_low=30.0, ci_high=45.0, **metric)
    assert headline(tmp_path / "1", better).sentence.endswith(
        "a 40 (chance 50), less than chance, though nothing was trained."
    )
    within = untrained("a", value=51.0, notes=notes, ci_low=48.0, ci_high=70.0, **metric)
    above = untrained("a", value=90.0, notes=notes, ci_low=80.0, ci_high=99.0, **metric)
    for i, one in enumerate((within, above)):
        assert "which shows chance, not skill" in headline(tmp_path / f"worse{i}", one).sentence


def test_chance_of_an_average_is_the_mean_of_its_datasets(tmp_path: Path) -> None:
    found = headline(
        tmp_path,
        untrained("a", dataset="x", value=0.1, notes={"chance": 0.1}),
        untrained("a", dataset="y", value=0.5, notes={"chance": 0.5}),
    )
    assert "average of 2 datasets): a 30.0 % (chance 30.0 %), which shows chance" in found.sentence


def test_where_chance_is_not_known_nothing_is_said_of_it(tmp_path: Path) -> None:
    assert "chance" not in headline(tmp_path, untrained("a", value=0.11)).sentence


def test_subsets_are_said_to_be_subsets(tmp_path: Path) -> None:
    found = headline(tmp_path, record("a", subset=True), record("b", value=0.1, subset=True))
    assert "on a subset" in found.sentence
    assert any(c.startswith("Subset: all results") for c in found.caveats)


def test_numbers_not_measured_alike_are_not_ranked(tmp_path: Path) -> None:
    found = headline(tmp_path, record("a", value=0.9), record("b", value=0.1, dataset_fingerprint="other"))
    assert "No model is ranked on" in found.sentence
    assert "dataset fingerprints differ" in found.sentence


def test_a_model_that_leads_both_directions_is_named_once(tmp_path: Path) -> None:
    records = [
        record(m, "flickr30k", v, half=0.01, metric=f"{side}_retrieval_recall@1", task="zero_shot_retrieval")
        for m, v in (("a", 0.6), ("b", 0.5))
        for side in ("text", "image")
    ]
    sentence = headline(tmp_path, *records).sentence
    assert sentence == (
        "a leads zero-shot retrieval in both directions on flickr30k: image→text R@1 60.0 %, 10.0 points "
        "ahead of b, and text→image R@1 60.0 %, 10.0 points ahead of b, all 95 % intervals apart."
    )


def test_a_run_without_any_number_says_so(tmp_path: Path) -> None:
    found = headline(tmp_path, without_number("failed", "boom"))
    assert found.sentence == "No number came out of this run: of 1 tried, 1 failed."


def test_protocols_are_named_where_there_are_several(tmp_path: Path) -> None:
    found = headline(tmp_path, record("a"), record("a", protocol="clip-benchmark"))
    assert "under protocol standard" in found.sentence


def test_an_unfinished_run_is_a_caveat(tmp_path: Path) -> None:
    loaded = load_runs([write_run(tmp_path / "half", [record()], duration_s=None)])
    caveats = write_headline(loaded, build_tables(loaded.entries)).caveats
    assert caveats == ("Not finished when this report was made: half.",)


def test_of_a_training_run_the_last_checkpoint_stands_in_the_headline(tmp_path: Path) -> None:
    loaded = load_runs([series_run(tmp_path / "run", steps=(1, 2, 16))])
    tables = build_tables(loaded.entries)
    found = write_headline(loaded, tables)
    assert found.models == ("nano-rwkv-epoch_16", "nano-clip-epoch_16")
    assert found.sentence.startswith("nano-rwkv-epoch_16 leads")
    assert found.caveats[0].startswith("Checkpoints: of each training run the last one")
    assert len(tables[0].models) == 6


def test_what_every_clause_would_repeat_is_said_once(tmp_path: Path) -> None:
    retrieval = {"dataset": "y", "task": "zero_shot_retrieval", "metric": "image_retrieval_recall@1"}
    alone = headline(tmp_path / "alone", record("a"), record("a", **retrieval)).sentence
    assert alone.count("it is the only model, so nothing is compared") == 1
    assert alone.endswith("it is the only model, so nothing is compared.")
    half = {"notes": {"chance": 0.5}}
    random = headline(
        tmp_path / "random", untrained("a", **half), untrained("a", **retrieval, **half)
    ).sentence
    assert random.lower().count("only untrained models were scored") == 1
    assert random.count("which shows chance, not skill") == 1
    assert random.endswith("which shows chance, not skill.")
    mixed = headline(
        tmp_path / "mixed", untrained("a", **half), untrained("a", **retrieval, notes={"chance": 0.01})
    ).sentence
    assert "50.0 % (chance 50.0 %), which shows chance, not skill; on " in mixed


def test_an_untrained_models_incomplete_average_says_how_much_it_covers(tmp_path: Path) -> None:
    found = headline(
        tmp_path,
        untrained("a", dataset="x", value=0.1),
        without_number(
            "missing_data", "No data for y.", model="a", dataset="y", model_info={"trained": False}
        ),
    )
    assert "10.0 % over 1 of them" in found.sentence
