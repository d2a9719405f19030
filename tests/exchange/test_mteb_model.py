"""Our encoders as models of the package mteb: its own tasks give our numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tiny_world import COLOURS, picture

import rwkvclip_eval as rc
from rwkvclip_eval.plan.suite import parse_suite

if TYPE_CHECKING:
    from pathlib import Path

mteb = pytest.importorskip("mteb", reason="mteb is not installed")

SUITE = """\
name: ours
tasks:
  - task: zero_shot_classification
    protocol: clip-benchmark
    datasets: [{name: wds_colours, templates: ["a photo of {c}."]}]
"""


@pytest.fixture
def task() -> Any:
    """A zero-shot task of mteb over the pictures of `wds_colours`."""
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification

    known = mteb.get_task("CIFAR10ZeroShot").metadata

    class ColoursZeroShot(AbsTaskZeroShotClassification):
        metadata = known.model_copy(update={"name": "ColoursZeroShot"})
        input_column_name = "image"
        label_column_name = "label"

        def load_data(self, **_: Any) -> None:
            rng = np.random.default_rng(0)
            pairs = [(picture(n, rng), i) for _ in range(10) for i, n in enumerate(COLOURS)]
            columns = {"image": [image for image, _ in pairs], "label": [label for _, label in pairs]}
            self.dataset = DatasetDict({"test": Dataset.from_dict(columns)})
            self.data_loaded = True

        def get_candidate_labels(self) -> list[str]:
            return [f"a photo of {name}." for name in COLOURS]

    return ColoursZeroShot()


def test_its_task_gives_our_number(world: Path, task: Any) -> None:
    from rwkvclip_eval.exchange.mteb_model import mteb_model

    spec = f"{world / 'nano.json'}={world / 'nano.pt'}"
    model = mteb_model(spec)
    result = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    (scores,) = result.task_results[0].scores["test"]
    ours = rc.evaluate(spec, parse_suite(SUITE), data_root=world)
    assert scores["accuracy"] == pytest.approx(ours.value("colours"), abs=1e-9)
    assert scores["accuracy"] not in (0, 1 / len(COLOURS), 1)
    assert result.model_name == "rwkvclip-eval/nano"
    assert result.model_revision == rc.load_encoder(spec).info.fingerprint


def test_a_picture_with_its_text_is_the_sum_of_both(world: Path) -> None:
    from rwkvclip_eval.exchange.mteb_model import mteb_model

    model = mteb_model(f"{world / 'nano.json'}={world / 'nano.pt'}")
    image = picture("red", np.random.default_rng(1))
    apart = [model.encode([batch]) for batch in ({"text": ["red"]}, {"image": [image]})]
    both = model.encode([{"text": ["red"], "image": [image]}])
    torch.testing.assert_close(both, apart[0] + apart[1])
    assert model.encode([{"text": ["a"]}, {"text": ["b", "c"]}]).shape == (3, 32)
