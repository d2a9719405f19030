"""Planning and scoring of single units."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from toy import (
    ColourDataset,
    ColourEncoder,
    probe_suite,
    register,
    register_splits,
    suite,
    task_suite,
    write_shards,
)

import rwkvclip_eval as rc
from rwkvclip_eval.data.verified import remember
from rwkvclip_eval.data.verify import verify_dataset
from rwkvclip_eval.errors import OutputError, SuiteError, UserError
from rwkvclip_eval.features.context import STAGES, Context
from rwkvclip_eval.features.engine import LocalEngine
from rwkvclip_eval.features.upkeep import entries
from rwkvclip_eval.metrics import intervals as statistics
from rwkvclip_eval.plan.suite import parse_suite
from rwkvclip_eval.plan.units import plan
from rwkvclip_eval.printable import html_table
from rwkvclip_eval.protocols import PROTOCOLS
from rwkvclip_eval.records.reading import read_records, write_records
from rwkvclip_eval.records.schema import Record
from rwkvclip_eval.run.options import make_store
from rwkvclip_eval.run.preflight import open_units
from rwkvclip_eval.run.splits import Datasets
from rwkvclip_eval.run.unit import run_unit
from rwkvclip_eval.tasks import TASKS
from rwkvclip_eval.tasks.zero_shot import ZeroShotClassification

if TYPE_CHECKING:
    from rwkvclip_eval.tasks.base import Features, Samples, TaskResult


def test_a_dataset_has_its_record_name_however_the_suite_spells_it() -> None:
    (unit,) = plan(suite("fgvc_aircraft", "aircraft"))
    assert unit.ref.name == "aircraft"
    assert unit.name("m") == "m--zero_shot_classification--aircraft--standard"


@pytest.mark.parametrize(
    ("protocol", "variant"),
    [("standard", "partition1"), ("clip-benchmark", "full"), ("official-rwkv-clip", "partition1")],
)
def test_each_protocol_means_its_own_version_of_sun397(protocol: str, variant: str) -> None:
    (unit,) = plan(suite("sun397", protocol=protocol))
    assert unit.variant == variant


def test_every_variant_a_protocol_names_is_in_the_catalogue() -> None:
    from rwkvclip_eval.data.catalogue import catalogue

    for name in PROTOCOLS:
        for dataset, variant in PROTOCOLS.get(name).variants.items():
            assert variant in catalogue()[dataset].variants


def test_a_dataset_that_cannot_be_scored_leaves_the_others_their_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = ColourDataset(n=29)
    assert wrong.labels is not None
    wrong.labels += 3
    register(monkeypatch, colours=ColourDataset(), wrong=wrong)
    results = rc.evaluate(ColourEncoder(), suite("wrong", "colours"))
    first, *others = results.records
    assert first.status == "failed"
    assert "29 labels name no class" in first.reason
    assert {r.status for r in others} == {"ok"}


def test_a_record_says_how_its_interval_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = statistics.Interval(0.25, 1.0, "made up", conservative=True, resamples=9, seed=3)
    monkeypatch.setattr(statistics, "wilson", lambda successes, n: made)
    register(monkeypatch, colours=ColourDataset())
    record = rc.evaluate(ColourEncoder(), suite("colours")).records[0]
    found = {name: getattr(record, f"ci_{name}") for name in made._fields}
    assert found == made._asdict()


def test_a_metric_the_task_does_not_give_is_refused_with_near_matches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register(monkeypatch, colours=ColourDataset())
    encoder = ColourEncoder()
    monkeypatch.setattr(encoder, "encode_image", lambda pixels: pytest.fail("nothing should be encoded"))
    with pytest.raises(SuiteError, match=r"Unknown metric .* Did you mean 'top1_accuracy'"):
        rc.evaluate(encoder, suite({"name": "colours", "metric": "top1_accurac"}))


def test_line_separators_inside_texts_do_not_split_records(tmp_path: Path) -> None:
    facts = {"unit": "u", "model": "m", "model_info": {}, "task": "t", "task_version": 1, "dataset": "d"}
    record = Record(**facts, status="failed", reason="a\u2028b\u0085c", protocol="standard")
    write_records(tmp_path / "results.jsonl", [record, record])
    assert read_records(tmp_path / "results.jsonl") == [record, record]


def test_frames_of_memory_and_of_disk_have_the_same_columns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    register(monkeypatch, colours=ColourDataset())
    results = rc.evaluate(ColourEncoder(), suite("colours"))
    write_records(tmp_path / "results.jsonl", results.records)
    assert [*results.to_frame().columns, "run"] == list(rc.load_results(tmp_path).columns)


def test_a_dataset_asked_for_wrongly_is_found_before_any_encoding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    register(monkeypatch, colours=ColourDataset())
    (tmp_path / "birds" / "owl").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "birds" / "owl" / "0.png")
    birds = {"name": "birds", "folder": str(tmp_path / "birds"), "prompts": {"labels": "absent.json"}}
    options = rc.RunOptions(cache_dir=tmp_path / "cache")
    with pytest.raises(UserError, match=r"absent\.json"):
        rc.run_suite(suite("colours", birds), ["python:toy_factory:make"], tmp_path / "run", options=options)
    assert entries(tmp_path / "cache") == []


def test_a_run_is_not_continued_with_another_model_of_the_same_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = ColourDataset(damaged=(1,))
    register(monkeypatch, colours=ColourDataset(), broken=broken)
    options = rc.RunOptions(cache_dir=tmp_path / "cache")
    model = "python:changing:make"
    source = (
        "from toy import ColourEncoder\n\n\ndef make(checkpoint, device):\n    return ColourEncoder({!r})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "changing.py").write_text(source.format("first"))
    both = suite("colours", "broken")
    assert rc.run_suite(both, [model], tmp_path / "run", options=options).exit_code == 3
    (tmp_path / "changing.py").write_text(source.format("another"))
    monkeypatch.delitem(sys.modules, "changing")
    importlib.invalidate_caches()
    with pytest.raises(OutputError, match="has changed since"):
        rc.run_suite(both, [model], tmp_path / "run", options=options)


def test_the_seconds_of_the_stages_add_up_to_the_total_and_are_kept_for_each_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    register(monkeypatch, colours=ColourDataset())
    options = rc.RunOptions(cache_dir=tmp_path / "cache")
    summaries = [
        rc.run_suite(suite("colours"), ["python:toy_factory:make"], tmp_path / "run", options=options)
        for _ in range(2)
    ]
    first, second = json.loads((tmp_path / "run" / "run.json").read_text())["stage_seconds"]
    assert set(first) == {*STAGES, "other", "total"}
    assert all(summaries[0].seconds[stage] > 0 for stage in STAGES)
    assert second["encode"] == second["score"] == 0.0
    for seconds, error in ((first, 0.005), (second, 0.005), (summaries[1].seconds, 1e-9)):
        assert min(seconds.values()) >= 0
        parts = sum(spent for stage, spent in seconds.items() if stage != "total")
        assert parts == pytest.approx(seconds["total"], abs=error)


def test_results_print_as_one_line_per_primary_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = ColourDataset(n=29)
    assert wrong.labels is not None
    wrong.labels += 3
    register(monkeypatch, colours=ColourDataset(), wrong=wrong)
    results = rc.evaluate(ColourEncoder(), suite("wrong", "colours"))
    title, failed, scored = repr(results).splitlines()
    assert title == "Results:"
    assert failed.startswith("  wrong failed: ")
    assert "29 labels name no class" in failed
    assert f"colours top1_accuracy {results.value('colours'):.4f} (n=" in scored
    assert re.search(r"n=30; \[0\.\d{4}, 1\.0000\]; zero_shot_classification, standard\)$", scored)
    table = results._repr_html_()
    assert table.count("<tr>") == 3 and "29 labels name no class" in table
    assert "<td>top1_accuracy</td><td>" in table


def test_an_encoder_prints_what_it_is_and_a_notebook_shows_it_as_a_table() -> None:
    encoder = rc.load_encoder("python:toy_factory:make=random:0")
    said = repr(encoder)
    assert said.startswith("<Encoder python:toy_factory:make: family python; weights random, untrained;")
    assert "image 8 × 8 px; text 77 tokens; embedding 3 wide" in said and len(said) < 300
    assert "<td>arithmetic</td><td>fp32 on cpu</td>" in encoder._repr_html_()
    assert html_table(["<b>"], [["a & b"]]) == (
        "<table><tr><th>&lt;b&gt;</th></tr><tr><td>a &amp; b</td></tr></table>"
    )


def test_a_probe_learns_on_train_and_is_judged_on_test(monkeypatch: pytest.MonkeyPatch) -> None:
    register_splits(monkeypatch, train=ColourDataset(30), test=ColourDataset(12))
    encoder = ColourEncoder()
    results = rc.evaluate(encoder, probe_suite(options={"k": 3}))
    assert encoder.images == 42
    assert results.value("colours") == 1.0
    record = next(r for r in results.records if r.primary)
    assert record.protocol == "knn (k=3)"
    assert (record.n, record.notes["num_train"]) == (12, 30)


def test_what_a_check_of_the_data_found_stands_in_the_records(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RWKVCLIP_EVAL_CACHE", str(tmp_path))
    splits = {"train": ColourDataset(30), "test": ColourDataset(12)}
    for name, split in splits.items():
        split.info = dataclasses.replace(split.info, split=name, fingerprint=name)
    register_splits(monkeypatch, **splits)
    remember([verify_dataset(split) for split in splits.values()])
    notes = rc.evaluate(ColourEncoder(), probe_suite(options={"k": 3})).records[0].notes
    assert notes["overlap"] == "12 of 12 images show pictures of train"
    assert "duplicates" not in notes


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_number_learned_from_a_part_of_a_split_is_one_of_a_subset(
    monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    splits = {"train": ColourDataset(30), "val": ColourDataset(9), "test": ColourDataset(12)}
    for one in splits.values():
        one.info = dataclasses.replace(one.info, verified=True)
    register_splits(monkeypatch, **splits)
    whole = rc.evaluate(ColourEncoder(), probe_suite()).records[0]
    assert (whole.verified, whole.subset) == (True, False)
    part = ColourDataset(6)
    part.info = dataclasses.replace(part.info, subset=True)
    register_splits(monkeypatch, **splits | {split: part})
    cut = rc.evaluate(ColourEncoder(), probe_suite()).records[0]
    assert (cut.verified, cut.subset) == (False, True)
    assert cut.dataset_fingerprint == whole.dataset_fingerprint
    assert len({"", cut.fit_fingerprint, whole.fit_fingerprint}) == 3


def test_damaged_images_count_in_whichever_split_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = ColourDataset(30, damaged=(3, 4))
    register_splits(monkeypatch, train=damaged, test=ColourDataset(12, damaged=(5,)))
    results = rc.evaluate(ColourEncoder(), probe_suite(), allow_missing=2)
    assert {r.num_missing for r in results.records} == {3}


def test_a_task_that_learns_from_nothing_has_no_fingerprint_of_training_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register(monkeypatch, colours=ColourDataset())
    assert {r.fit_fingerprint for r in rc.evaluate(ColourEncoder(), suite("colours")).records} == {""}


def test_an_official_validation_split_that_is_missing_is_not_replaced_by_a_draw(tmp_path: Path) -> None:
    # The catalogue knows a validation split of DTD (47 classes) and none of MNIST.
    for name, num_classes in (("dtd", 47), ("mnist", 10)):
        names = "\n".join(f"class {i}" for i in range(num_classes))
        for shade, split in enumerate(("train", "test")):
            write_shards(tmp_path, name, split, [*range(num_classes)] * 2, shade)
        (tmp_path / f"wds_{name}" / "classnames.txt").write_text(names)
    tasks = [{"task": "linear_probe", "options": {"C": 1.0}, "datasets": ["dtd", "mnist"]}]
    loaded = parse_suite(json.dumps({"name": "mine", "tasks": tasks}))
    records = {r.dataset: r for r in rc.evaluate(ColourEncoder(), loaded, data_root=tmp_path).records}
    assert records["dtd"].status == "missing_data"
    assert "No data for dtd, split val" in records["dtd"].reason
    assert "dtd has an official split val" in records["dtd"].reason
    assert records["mnist"].status == "ok"


def test_a_probe_without_a_training_split_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    register_splits(monkeypatch, test=ColourDataset(12))
    (record,) = rc.evaluate(ColourEncoder(), probe_suite()).records
    assert (record.status, record.reason) == ("missing_data", "No split train.")


def test_tasks_that_share_images_encode_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    register_splits(monkeypatch, train=ColourDataset(30), test=ColourDataset(12))
    encoder = ColourEncoder()
    tasks = [
        {"task": "zero_shot_classification", "protocol": ["standard", "official-rwkv-clip"]},
        {"task": "knn_probe"},
        {"task": "linear_probe"},
    ]
    text = json.dumps({"name": "mine", "tasks": [{**task, "datasets": ["colours"]} for task in tasks]})
    results = rc.evaluate(encoder, parse_suite(text))
    assert {r.status for r in results.records} == {"ok"}
    assert encoder.images == 42


def test_a_class_that_train_lacks_does_not_shift_the_labels_of_the_others(tmp_path: Path) -> None:
    for split, classes in {"train": "ac", "test": "abc"}.items():
        for label in classes:
            (tmp_path / "birds" / split / label).mkdir(parents=True)
            for i in range(4):
                shade = (i, ord(label), len(split))
                Image.new("RGB", (8, 8), shade).save(tmp_path / "birds" / split / label / f"{i}.png")
    birds = {"name": "birds", "folder": str(tmp_path / "birds"), "templates": ["a {c}"]}
    tasks = [{"task": task, "datasets": [birds]} for task in ("knn_probe", "linear_probe")]
    loaded = parse_suite(json.dumps({"name": "mine", "tasks": tasks}))
    encoder = ColourEncoder()
    records = rc.evaluate(encoder, loaded).records
    assert [r.status for r in records] == ["failed", "failed"]
    assert "birds/train: 1 classes without a training image: b" in records[0].reason


def test_a_probe_of_a_model_on_metal_is_solved_on_the_cpu_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # This machine has no Metal: a probe that asked for it would fail.
    register_splits(monkeypatch, train=ColourDataset(30), test=ColourDataset(12))
    said: list[str] = []
    options = rc.RunOptions(device="mps", use_cache=False)
    engine = LocalEngine(context=Context(on_message=said.append))
    (unit,) = plan(task_suite("linear_probe"))
    with make_store(options) as store:
        opened = open_units([unit], Datasets(options, Path()))
        outcome = run_unit(ColourEncoder(), unit, opened, store, engine, options)
    assert {r.status for r in outcome.records} == {"ok"}
    assert len(said) == 1
    assert said[0].endswith("solved on the CPU, since Metal has no float64.")


def test_evaluate_solves_probes_where_the_encoder_is(monkeypatch: pytest.MonkeyPatch) -> None:
    register_splits(monkeypatch, train=ColourDataset(30), test=ColourDataset(12))
    encoder = ColourEncoder()
    # A device without memory of its own: whatever reaches it fails, which shows that it was reached.
    encoder.info = dataclasses.replace(encoder.info, device="meta")
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        rc.evaluate(encoder, probe_suite())


def test_a_limit_leaves_a_probe_two_training_images_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    register_splits(monkeypatch, train=ColourDataset(30), test=ColourDataset(12))
    results = rc.evaluate(ColourEncoder(), task_suite("linear_probe"), limit=2)
    record = next(r for r in results.records if r.primary)
    assert (record.status, record.n, record.subset) == ("ok", 2, True)
    assert record.notes["num_train"] + record.notes["num_val"] == 6


def test_a_probe_that_cannot_learn_is_refused_before_any_encoding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train = ColourDataset(30)
    train.labels = train.labels % 2
    register_splits(monkeypatch, train=train, test=ColourDataset(12))
    options = rc.RunOptions(cache_dir=tmp_path / "cache")
    alone = probe_suite()
    with pytest.raises(UserError, match=r"colours/test: 1 classes without a training image: blue"):
        rc.run_suite(alone, ["python:toy_factory:make"], tmp_path / "alone", options=options)
    assert entries(tmp_path / "cache") == []
    both = [
        {"task": "knn_probe", "datasets": ["colours"]},
        {"task": "zero_shot_classification", "datasets": ["colours"]},
    ]
    loaded = parse_suite(json.dumps({"name": "mine", "tasks": both}))
    summary = rc.run_suite(loaded, ["python:toy_factory:make"], tmp_path / "both", options=options)
    assert summary.exit_code == 3
    assert [r.status for r in summary.records if r.task == "knn_probe"] == ["failed"]
    assert {r.status for r in summary.records if r.task != "knn_probe"} == {"ok"}


def test_features_of_a_split_that_misses_nothing_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, colours=ColourDataset())
    seen = []

    class Looks(ZeroShotClassification):
        def score(self, samples: Samples, features: Features, *rest: Any) -> TaskResult:
            seen.append(features.image_embedding)
            return super().score(samples, features, *rest)

    monkeypatch.setattr(TASKS, "_entries", {"zero_shot_classification": Looks()})
    rc.evaluate(ColourEncoder(), task_suite("zero_shot_classification"))
    assert [type(found) for found in seen] == [np.memmap]
