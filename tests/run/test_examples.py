"""What a run adds to a task's result: pictures of what is shown, content ids beside the keys."""

import base64
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy import ColourDataset, ColourEncoder, register, suite

from rwkvclip_eval import evaluate
from rwkvclip_eval.run.examples import THUMBNAIL_PX, gallery
from rwkvclip_eval.tasks.base import Misclassified, TaskResult


def test_errors_come_with_pictures_of_the_images_that_were_scored() -> None:
    dataset = ColourDataset(6)
    errors = [Misclassified(image=i, label="red", prediction="blue", confidence=0.9 - i / 10) for i in (1, 0)]
    result = TaskResult(metrics=(), predictions={}, errors=errors)
    # Image 0 of the set was left out: row 1 is image 2, which is blue.
    found = gallery(dataset, np.array([1, 2, 3, 4, 5]), result)
    assert found is not None
    assert found["errors"] == [dataclasses.asdict(e) for e in errors]
    assert set(found["thumbnails"]) == {"0", "1"}
    picture = Image.open(io.BytesIO(base64.b64decode(found["thumbnails"]["1"])))
    assert max(picture.size) <= THUMBNAIL_PX
    red, green, blue = np.asarray(picture).mean(axis=(0, 1))
    assert blue > max(red, green)
    assert json.loads(json.dumps(found)) == found


def test_a_result_without_examples_and_errors_has_no_pictures() -> None:
    assert gallery(ColourDataset(3), np.arange(3), TaskResult(metrics=(), predictions={})) is None


def test_predictions_keep_their_class_names_beside_the_content_ids(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dataset = ColourDataset(9)
    register(monkeypatch, colours=dataset)
    results = evaluate(ColourEncoder(), suite("colours"), cache_dir=tmp_path)
    (table,) = (t for tables in results.predictions.values() for t in tables.values())
    names = list(dataset.info.class_names)
    assert json.loads(table.schema.metadata[b"class_names"]) == names
    assert {"content_id", "model_log_sum_exp"} < {*table.column_names}
