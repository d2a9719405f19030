import json

import pytest

from rwkvclip_train import quickstart
from rwkvclip_train.quickstart import RECIPES, run_quickstart
from rwkvclip_train.recipe import load_recipe


def test_quickstart_trains_both_models_evaluates_them_and_writes_the_report(tmp_path, monkeypatch, no_pdf):
    short = {"steps": 2, "batch_size": 16, "checkpoint_every": 1}
    monkeypatch.setattr(quickstart, "load_recipe", lambda name: load_recipe(name).model_copy(update=short))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = run_quickstart(tmp_path / "out", progress=False)

    assert result.report.read_text(encoding="utf-8").startswith("<!")
    assert str(result.report) in result.text
    assert [model.name for model in result.models] == list(RECIPES)
    assert [len(model.checkpoints) for model in result.models] == [2, 2]
    for model in result.models:
        assert json.loads(model.log.read_text().splitlines()[-1])["step"] == 2
    assert {h.dataset for h in result.headlines} == {"digits", "digits_scenes"}
    assert all(0 <= h.value <= 1 and h.n > 0 for h in result.headlines)


@pytest.mark.slow
def test_quickstart_models_learn_far_beyond_chance(tmp_path):
    result = run_quickstart(tmp_path / "out", progress=False)
    scores = {(h.dataset, h.model): h.value for h in result.headlines}
    digits = [value for (dataset, _), value in scores.items() if dataset == "digits"]
    scenes = [value for (dataset, _), value in scores.items() if dataset == "digits_scenes"]
    assert len(digits) == len(scenes) == 2
    assert min(digits) > 0.8
    # Chance is one of 500 scenes.
    assert min(scenes) > 20 / 500


def test_the_two_recipes_train_models_of_one_size_on_the_same_data():
    rwkv, clip = (load_recipe(name) for name in RECIPES)
    assert rwkv.model_dump(exclude={"name", "model"}) == clip.model_dump(exclude={"name", "model"})
    import torch

    from rwkvclip_train.models import build_trainee

    sizes = [build_trainee(r.model, seed=0, device=torch.device("cpu")).num_parameters for r in (rwkv, clip)]
    embedding = 49408 * 64
    for a, b in (sizes, [size - embedding for size in sizes]):
        assert abs(a - b) / b < 0.1
