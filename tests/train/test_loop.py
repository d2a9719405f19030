import io
import json
import math
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from rwkvclip_eval import console
from rwkvclip_eval.errors import ConfigError, OutputError, UserError
from rwkvclip_train import gradients, loop
from rwkvclip_train.log import VARYING, progress_bar
from rwkvclip_train.loop import TrainingError, train
from rwkvclip_train.models import build_trainee
from rwkvclip_train.recipe import ModelRecipe, Recipe
from rwkvclip_train.update import MAX_LOGIT_SCALE

TINY = {
    "rwkv-clip": {
        "input_size": 16,
        "image_depth": 1,
        "image_embed_dims": 32,
        "image_patch_size": 8,
        "image_hidden_rate": 2,
        "image_num_heads": 2,
        "ctx_len": 16,
        "vocab_size": 49408,
        "head_size": 16,
        "n_layer": 2,
        "n_embd": 32,
        "drop_path_rate": 0.2,
    },
    "open_clip": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
}
FAMILIES = tuple(TINY)


def recipe(family: str, **changes: object) -> Recipe:
    settings: dict[str, object] = {
        "name": "tiny",
        "model": {"family": family, "config": TINY[family]},
        "data": [{"dataset": "digits", "texts": "kinds"}, {"dataset": "digits", "texts": "templates"}],
        "steps": 4,
        "batch_size": 8,
        "lr": 0.001,
        "log_every": 1,
        "checkpoint_every": 2,
    }
    return Recipe.model_validate(settings | changes)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path)


def same_lines(a: Path, b: Path) -> bool:
    """Whether two logs are equal but for what may differ."""
    first, second = (
        [{k: v for k, v in json.loads(line).items() if k not in VARYING} for line in path.open()]
        for path in (a, b)
    )
    return first == second


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_short_run_leaves_config_checkpoints_and_log(tmp_path, family):
    trained = train(recipe(family, steps=3), tmp_path, progress=False)
    assert [p.name for p in trained.checkpoints] == ["step_000002.safetensors", "step_000003.safetensors"]
    lines = [json.loads(line) for line in trained.log.read_text().splitlines()]
    assert trained.log == tmp_path / "training" / "tiny.jsonl"
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(
        {"step", "loss", "lr", "model", "seed", "grad_norm", "logit_scale", "betas", *VARYING} <= set(line)
        and math.isfinite(line["loss"])
        for line in lines
    )
    assert json.loads((tmp_path / "models" / "tiny" / "tiny.json").read_text()) == TINY[family]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_seeds_give_equal_weights_and_other_seeds_others(tmp_path, family):
    runs = {}
    for name, seed in (("first", 5), ("again", 5), ("other", 6)):
        runs[name] = weights(
            train(recipe(family, seed=seed), tmp_path / name, progress=False).checkpoints[-1]
        )
    assert same(runs["first"], runs["again"])
    assert not same(runs["first"], runs["other"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_stopped_and_continued_equals_one_without_a_stop(tmp_path, family, monkeypatch):
    whole = train(recipe(family), tmp_path / "whole", progress=False)

    calls = 0

    def stops_in_step_four(*args, **given):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return loss(*args, **given)

    loss = gradients.global_contrastive_loss
    monkeypatch.setattr(gradients, "global_contrastive_loss", stops_in_step_four)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(family), tmp_path / "cut", progress=False)
    monkeypatch.undo()
    # A kill can also leave a line without its end.
    log = tmp_path / "cut" / "training" / "tiny.jsonl"
    log.write_text(log.read_text() + '{"step": 4, "lo')
    cut = train(recipe(family), tmp_path / "cut", progress=False)

    for a, b in zip(whole.checkpoints, cut.checkpoints, strict=True):
        assert same(weights(a), weights(b))
    assert same_lines(whole.log, cut.log)
    assert whole.log.with_suffix(".keys").read_bytes() == cut.log.with_suffix(".keys").read_bytes()


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train(recipe("open_clip"), tmp_path, progress=False)
    before = first.checkpoints[-1].stat().st_mtime_ns
    assert train(recipe("open_clip"), tmp_path, progress=False).checkpoints == first.checkpoints
    assert first.checkpoints[-1].stat().st_mtime_ns == before


def test_another_recipe_may_not_continue_a_run(tmp_path):
    train(recipe("open_clip", steps=1), tmp_path, progress=False)
    with pytest.raises(OutputError, match="another recipe"):
        train(recipe("open_clip", steps=1, lr=0.5), tmp_path, progress=False)


def test_kinds_of_text_in_another_order_are_another_recipe_and_keys_in_another_are_not():
    from rwkvclip_train.checkpoints import run_identity

    def identity(**source):
        data = [{"path": "pairs", **source}]
        return run_identity(recipe("open_clip", data=data, init=None), ["of the data"])

    first = identity(texts={"raw": 1, "synthetic": 2}, repeat=2)
    assert identity(repeat=2, texts={"raw": 1, "synthetic": 2}) == first
    # A text is drawn by the place of its kind.
    assert identity(texts={"synthetic": 2, "raw": 1}, repeat=2) != first


def test_a_run_leaves_a_sheet_of_what_it_saw_first(tmp_path):
    from PIL import Image

    trained = train(recipe("open_clip", steps=1), tmp_path, progress=False)
    with Image.open(trained.log.with_suffix(".png")) as sheet:
        assert sheet.format == "PNG"
        # Four pictures of 224 px beside each other.
        assert sheet.width > 4 * 224


def test_workers_change_nothing(tmp_path):
    alone = train(recipe("open_clip", steps=2), tmp_path / "alone", progress=False)
    helped = train(recipe("open_clip", steps=2), tmp_path / "helped", num_workers=1, progress=False)
    assert same(weights(alone.checkpoints[-1]), weights(helped.checkpoints[-1]))


def test_the_callers_random_numbers_are_left_alone(tmp_path):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    train(recipe("open_clip", steps=1), tmp_path, progress=False)
    assert torch.equal(torch.rand(1), expected)


def test_a_loss_that_is_not_finite_stops_before_the_optimizer_step(tmp_path, monkeypatch):
    stepped = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *args, **kwargs: stepped.append(1))
    loss = gradients.global_contrastive_loss

    def spoilt(*args, **given):
        return loss(*args, **given) * (math.nan if stepped else 1)

    monkeypatch.setattr(gradients, "global_contrastive_loss", spoilt)
    with pytest.raises(TrainingError, match=r"the loss is nan .* at step 2 of 4; the step was not taken"):
        train(recipe("open_clip"), tmp_path, progress=False)
    assert len(stepped) == 1
    assert not list(tmp_path.rglob("step_*"))


def test_the_logit_scale_stays_between_one_and_a_hundred(tmp_path, monkeypatch):
    build = loop.build_trainee
    for start, bound in ((10.0, MAX_LOGIT_SCALE), (-3.0, 0.0)):

        def with_scale(*args, start=start, **kwargs):
            trainee = build(*args, **kwargs)
            trainee.module.logit_scale.data.fill_(start)
            return trainee

        monkeypatch.setattr(loop, "build_trainee", with_scale)
        trained = train(recipe("open_clip", steps=1, lr=1e-9), tmp_path / str(start), progress=False)
        assert weights(trained.checkpoints[-1])["logit_scale"].item() == pytest.approx(bound)


@pytest.mark.parametrize("family", FAMILIES)
def test_initial_weights_are_a_function_of_the_seed(family):
    model = ModelRecipe(family=family, config=TINY[family])
    states = [build_trainee(model, seed=s, device=torch.device("cpu")).module.state_dict() for s in (1, 1, 2)]
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


def test_bfloat16_training_runs_and_keeps_float32_weights(tmp_path):
    trained = train(recipe("open_clip", steps=2, precision="bf16"), tmp_path, progress=False)
    assert {t.dtype for t in weights(trained.checkpoints[-1]).values()} == {torch.float32}


def test_a_config_that_describes_no_model_is_refused(tmp_path):
    for family, config in (("open_clip", {"embed_dim": 8, "vision": {}}), ("rwkv-clip", {"input_size": 8})):
        with pytest.raises(ConfigError):
            train(recipe(family, model={"family": family, "config": config}), tmp_path, progress=False)


def test_an_absent_device_is_refused(tmp_path):
    with pytest.raises(UserError, match="'cuda:99' asked for"):
        train(recipe("open_clip"), tmp_path, device="cuda:99", progress=False)


def test_on_a_terminal_training_has_a_bar_from_where_it_goes_on_and_leaves_it_there(monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(console, "stderr", terminal)
    with progress_bar("nano", 20, shown=True) as show:
        for done in range(15, 21):
            show(done, "loss 1.500")
    text = terminal.file.getvalue()
    assert "15/20" in text
    assert re.search(r"20/20  loss 1\.500, [\d.]+ steps/s", text.rpartition("nano")[2])
    assert "step 20 of 20" not in text


def test_without_progress_nothing_is_said(capsys):
    with progress_bar("nano", 20, shown=False) as show:
        show(0, "")
        show(20, "loss 1.500")
    assert capsys.readouterr().err == ""


def test_a_log_file_gets_a_line_a_tenth_of_the_way_instead_of_a_bar(capsys):
    with progress_bar("nano", 20, shown=True) as show:
        for done in range(21):
            show(done, "loss 1.500")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("nano: step 2 of 20, loss 1.500, ")
