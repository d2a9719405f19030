import dataclasses
import json
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from report_runs import CAPTIONS, record, without_number, write_curve, write_examples, write_run

from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.report import write_report
from rwkvclip_eval.report.loading import TrainingCurve, load_runs
from rwkvclip_eval.report.plots.drawing import Drawing
from rwkvclip_eval.report.plots.training import MOST_BINS, training
from rwkvclip_models.files import LINE_LIMIT_BYTES, MOST_LINES


def test_members_of_a_job_array_merge_and_equal_duplicates_collapse(tmp_path: Path) -> None:
    shared = record("a", "x")
    write_run(tmp_path / "shard-0-of-2", [shared, record("a", "y")], shard="0/2")
    later = dataclasses.replace(shared, seconds=99.0, created_utc="2026-04-01T00:00:00+00:00")
    write_run(tmp_path / "shard-1-of-2", [later, record("a", "z")], shard="1/2")
    loaded = load_runs([tmp_path])
    assert [e.record.dataset for e in loaded.entries] == ["x", "y", "z"]
    assert len(loaded.runs) == 2
    assert loaded.runs[0].name == f"{tmp_path.name}/shard-0-of-2"


def test_a_run_named_twice_counts_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record()])
    assert len(load_runs([run, run]).entries) == 1


def test_contradictory_runs_are_an_error_that_names_both(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", [record(value=0.5)])
    other = write_run(tmp_path / "other", [record(value=0.6)])
    with pytest.raises(OutputError) as caught:
        load_runs([one, other])
    message = str(caught.value)
    assert str(one) in message
    assert str(other) in message
    assert "value 0.5 against 0.6" in message


def test_a_limited_run_contradicts_a_full_one(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", [record()])
    other = write_run(tmp_path / "other", [record(subset=True)])
    with pytest.raises(OutputError, match="subset False against True"):
        load_runs([one, other])


def test_two_encoders_of_one_name_get_columns_that_tell_them_apart(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", [record("b32", value=0.5, model_info={"spec": "b32=model_1.pt"})])
    changed = {"spec": "b32=model_31.pt", "fingerprint": "f" * 64}
    other = write_run(tmp_path / "other", [record("b32", value=0.6, model_info=changed)])
    assert load_runs([one, other]).models == ["b32 (model_1.pt)", "b32 (model_31.pt)"]


def test_what_failed_in_one_run_and_succeeded_in_another_succeeded(tmp_path: Path) -> None:
    failed = without_number("failed", "out of memory", model="a")
    one = write_run(tmp_path / "one", [dataclasses.replace(failed, model_info={"name": "a", "spec": "a"})])
    other = write_run(tmp_path / "other", [record("a")])
    assert [e.record.status for e in load_runs([one, other]).entries] == ["ok"]


def test_records_and_descriptions_of_another_schema_still_load(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record(prompt_hash="")])
    fields = json.loads((run / "results.jsonl").read_text(encoding="utf-8"))
    for name in ("prompt_hash", "num_missing", "notes", "ci_method", "schema_version", "verified"):
        del fields[name]
    old = json.dumps(fields | {"a_field_of_tomorrow": 1})
    (run / "results.jsonl").write_text(old + "\n", encoding="utf-8")
    description = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps(description | {"tomorrow": 1}), encoding="utf-8")
    loaded = load_runs([run])
    assert loaded.entries[0].record.value == 0.5
    assert loaded.runs[0].info is not None


def test_a_probe_of_before_training_data_had_a_fingerprint_joins_one_of_after(tmp_path: Path) -> None:
    old = write_run(tmp_path / "old", [record(fit_fingerprint="")])
    new = write_run(tmp_path / "new", [record(fit_fingerprint="a" * 64)])
    other = write_run(tmp_path / "other", [record(fit_fingerprint="b" * 64)])
    assert len(load_runs([old, new]).entries) == 1
    with pytest.raises(OutputError, match="fit_fingerprint 'aaaa"):
        load_runs([new, other])


def test_a_run_without_its_description_still_loads(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record()])
    (run / "run.json").unlink()
    assert load_runs([run]).runs[0].info is None


def test_examples_and_curves_are_read(tmp_path: Path) -> None:
    unit = "a.zero_shot_retrieval.x.standard"
    metric = "text_retrieval_recall@1"
    run = write_run(tmp_path / "run", [record("a", "x", task="zero_shot_retrieval", metric=metric)])
    write_examples(run, unit, CAPTIONS[:2])
    write_curve(run, "a", steps=40)
    loaded = load_runs([run])
    assert [e.query for e in loaded.examples] == CAPTIONS[:2]
    assert set(loaded.examples[0].thumbnails) == {0, 1, 2, 3, 4}
    assert loaded.curves[0].model == "a"
    assert loaded.curves[0].rows[1]["step"] == 4


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("run.json", "[]", "not a run description"),
        ("examples/a.zero_shot_classification.cifar10.standard.json", "{}", "not an examples file"),
        ("training/a.jsonl", '{"loss": 1}', "not a training log line"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, text: str, says: str) -> None:
    run = write_run(tmp_path / "run", [record("a")])
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text(text, encoding="utf-8")
    with pytest.raises(OutputError, match=says):
        load_runs([run])


def test_a_training_log_has_at_most_so_many_lines_of_such_a_length(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record("a")])
    path = run / "training" / "a.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"step": 1}\n' * 20_000 + "\n" * (MOST_LINES - 20_000))
    assert len(load_runs([run]).curves[0].rows) == 20_000
    path.write_text('{"step": 1}\n' + "\n" * MOST_LINES)
    with pytest.raises(OutputError, match=f"has {MOST_LINES + 1} lines; at most {MOST_LINES} are read"):
        load_runs([run])
    path.write_text('{"step": 1, "a": "' + "x" * LINE_LIMIT_BYTES + '"}')
    with pytest.raises(OutputError, match=r"a\.jsonl, line 1, has \d+ characters; at most"):
        load_runs([run])


def test_a_long_training_curve_is_drawn_with_its_ends_its_extremes_and_its_running_mean(monkeypatch) -> None:
    rows = [{"step": i, "loss": 9.0 if i == 54_321 else float(i % 2)} for i in range(100_000)]
    drawn: list[tuple[list[int], list[float]]] = []
    monkeypatch.setattr(Axes, "plot", lambda _axes, x, y, **_: drawn.append((x, y)) or [None])
    monkeypatch.setattr(Drawing, "legend", lambda *_: None)
    monkeypatch.setattr(Drawing, "plot", lambda *_: None)
    for number in (100_000, 100):
        training([TrainingCurve(model="a", rows=tuple(rows[:number]))], {"a": "k"})
    (steps, losses), (mean_steps, means), (few_steps, few), (_, few_means) = drawn
    assert len(steps) < 2.1 * MOST_BINS and steps[0] == 0 and steps[-1] == 99_999
    assert losses[steps.index(54_321)] == 9
    assert means[mean_steps.index(99_999)] == 0.5
    assert max(means) == pytest.approx(0.5 + 9 / 4000, abs=1e-3)
    assert few_steps == list(range(100)) and few == [float(i % 2) for i in few_steps]
    assert few_means == [sum(few[max(0, i - 3) : i + 1]) / min(i + 1, 4) for i in few_steps]


def test_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No results"):
        load_runs([tmp_path])
    with pytest.raises(OutputError, match="No run directory given"):
        load_runs([])


@pytest.mark.usefixtures("no_pdf")
def test_a_training_log_of_several_models_makes_a_curve_each(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record("a")])
    (run / "training").mkdir()
    rows = [{"step": s, "loss": 1.0, "val_loss": None, "model": m} for s in (0, 1) for m in ("a", "b")]
    (run / "training" / "both.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert [(c.model, len(c.rows)) for c in load_runs([run]).curves] == [("a", 2), ("b", 2)]
    assert "training" in {p.stem for p in write_report([run], tmp_path / "report").plots}
