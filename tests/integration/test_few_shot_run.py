"""A few-shot run on the embedded digits, from pictures to files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

import rwkvclip_eval as rc
from rwkvclip_eval.plan.suite import parse_suite

if TYPE_CHECKING:
    from pathlib import Path


def test_a_few_shot_run_keeps_predictions_of_each_seed_that_give_its_numbers(tmp_path: Path) -> None:
    entry = {
        "task": "few_shot_linear_probe",
        "datasets": ["digits"],
        "options": {"shots": [1, 4], "num_seeds": 3},
    }
    suite = parse_suite(json.dumps({"name": "few", "tasks": [entry]}))
    options = rc.RunOptions(cache_dir=tmp_path / "cache")
    summary = rc.run_suite(suite, ["python:toy_factory:pixels"], tmp_path / "run", options=options)
    assert summary.exit_code == 0
    frame = rc.load_results(tmp_path / "run").set_index("metric")
    assert set(frame.task_version) == {7}
    unit = frame.unit.iloc[0]
    table = rc.load_predictions(tmp_path / "run", unit)
    scores = rc.load_predictions(tmp_path / "run", unit, "few_shot").set_index(["shots", "seed"]).score
    hits = (table.prediction == table.label).groupby([table.shots, table.seed]).mean()
    assert hits.to_dict() == pytest.approx(scores.to_dict())
    assert len(hits) == 6
    for shots, mean in hits.groupby("shots").mean().items():
        record = frame.loc[f"top1_accuracy_{shots}_shot"]
        assert record.value == pytest.approx(mean)
        assert record.ci_low < record.value < record.ci_high
        assert record.ci_method == "score interval over 3 seeds × test images"
        assert "the λ chosen on them; draws of test images" in record.notes["interval_covers"]
    path = tmp_path / "run" / "predictions" / unit / "predictions.parquet"
    kept = pq.read_metadata(path)
    assert kept.num_rows == 6 * len(set(table.key))
    assert (table.groupby("key").content_id.nunique() == 1).all()
    columns = [kept.row_group(0).column(i) for i in range(kept.num_columns)]
    # What belongs to an image stands once: the rest is the seeds' own predictions.
    own = [c for c in columns if c.path_in_schema not in ("key", "content_id")]
    assert sum(c.total_compressed_size for c in own) < 2 * kept.num_rows
    assert path.stat().st_size < 2 * kept.num_rows + 60 * len(set(table.key))
