"""What becomes of a step: non-finite losses, overflowing float16 gradients, weights to begin with."""

import functools
import json
import math
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from train_runs import lines, write_recipe

from rwkvclip_eval.errors import CheckpointError
from rwkvclip_models import load_model
from rwkvclip_train import gradients, loop
from rwkvclip_train.data.open import open_sources
from rwkvclip_train.loop import TrainingError, train
from rwkvclip_train.order import GlobalOrder, batch_keys
from rwkvclip_train.recipe import load_recipe


def run(folder, out, *, skip_bad=0, **changes):
    recipe = load_recipe(write_recipe(folder, **{"steps": 4} | changes))
    return train(recipe, folder / out, skip_bad=skip_bad, progress=False)


@pytest.fixture
def spoilt(monkeypatch):
    """Make the embedding of one sample of step 2 NaN, and return its key."""
    from rwkvclip_eval.data.embedded import digits_samples

    key = batch_keys(GlobalOrder(len(digits_samples("train")), 8, 0), 1)[5]
    embed = gradients.StepGradients._embed

    def spoil(self, module, step, batch):
        image, text = embed(self, module, step, batch)
        bad = torch.tensor([tuple(each) == key for each in batch.keys.tolist()])
        return image.masked_fill(bad[:, None], math.nan), text

    monkeypatch.setattr(gradients.StepGradients, "_embed", spoil)
    return key


@pytest.mark.parametrize("num_passes", [1, 2])
def test_a_loss_that_is_not_finite_names_its_step_and_samples(tmp_path, spoilt, num_passes):
    with pytest.raises(TrainingError) as caught:
        run(tmp_path, "out", accumulation=num_passes)
    said = str(caught.value)
    assert "the loss is nan" in said
    assert "at step 2 of 4; the step was not taken" in said
    # A sample's place in the only source is its own.
    source = open_sources(load_recipe(tmp_path / "tiny.yaml"), None)[0].source
    named = f"{source.key(spoilt[1])} {spoilt}"
    assert f"1 of 8 pairs have embeddings that are not finite, with (epoch, sample): {named}." in said
    assert [line["step"] for line in lines(tmp_path / "out")] == [1]


def test_skipped_steps_are_counted_and_move_nothing(tmp_path, spoilt, monkeypatch):
    with pytest.raises(TrainingError):
        run(tmp_path, "refused")
    run(tmp_path, "out", skip_bad=1, checkpoint_every=1)
    found = lines(tmp_path / "out")
    assert [line["skipped"] for line in found] == [0, 1, 1, 1]
    assert found[1]["loss"] is None
    weights = [load_file(path) for path in sorted((tmp_path / "out").rglob("step_*.safetensors"))]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[1][name], weights[2][name]) for name in weights[0])
    # The count is part of the state: a run that continues has no further steps to leave out.
    state = torch.load(tmp_path / "out" / "models" / "tiny" / "resume.pt", weights_only=True)
    assert state["progress"]["skipped"] == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_infinite_gradient_of_a_finite_loss_stops_where_no_scaler_could_help(
    tmp_path, monkeypatch, precision
):
    update = loop.Update.__call__

    def spoilt(self, loss):
        self._parameters[0].grad.view(-1)[0] = math.inf
        return update(self, loss)

    monkeypatch.setattr(loop.Update, "__call__", spoilt)
    with pytest.raises(TrainingError, match="the norm of its gradient inf at step 1 of 4; the step was not"):
        run(tmp_path, "out", precision=precision)


@pytest.fixture
def too_large_a_scale(monkeypatch):
    scaler = functools.partial(torch.amp.GradScaler, init_scale=2.0**30)
    monkeypatch.setattr(loop.torch.amp, "GradScaler", scaler)


def test_overflowing_float16_gradients_are_no_loss_that_is_not_finite(tmp_path, too_large_a_scale):
    run(tmp_path, "out", steps=24, precision="fp16", checkpoint_every=1)
    found = lines(tmp_path / "out")
    overflowed = [line["overflowed"] for line in found]
    assert overflowed[0] == 1
    assert overflowed[-1] == overflowed[-2] < 24
    assert found[-1]["skipped"] == 0
    assert found[-1]["loss_scale"] == 2.0 ** (30 - overflowed[-1])
    weights = [load_file(path) for path in sorted((tmp_path / "out").rglob("step_*.safetensors"))]
    moved = [not all(torch.equal(a[name], b[name]) for name in a) for a, b in pairwise(weights)]
    took = [b == a for a, b in pairwise(overflowed)]
    assert moved == took
    assert {weight.dtype for weight in weights[-1].values()} == {torch.float32}


def test_the_scale_of_float16_losses_goes_on_with_the_run(tmp_path, too_large_a_scale, monkeypatch):
    settings = {"steps": 12, "precision": "fp16", "checkpoint_every": 3}
    run(tmp_path, "whole", **settings)
    embed, calls = gradients.StepGradients._embed, []

    def stops(self, module, step, batch):
        calls.append(step)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return embed(self, module, step, batch)

    monkeypatch.setattr(gradients.StepGradients, "_embed", stops)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "cut", **settings)
    run(tmp_path, "cut", **settings)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    states = [(tmp_path / out / "models" / "tiny" / "resume.pt").read_bytes() for out in ("cut", "whole")]
    assert states[0] == states[1]


def test_a_gradient_that_no_scale_saves_ends_the_run(tmp_path, monkeypatch):
    embed = gradients.StepGradients._embed

    def overflow(self, module, step, batch):
        image, text = embed(self, module, step, batch)
        image.register_hook(lambda gradient: gradient * math.inf)
        return image, text

    monkeypatch.setattr(gradients.StepGradients, "_embed", overflow)
    with pytest.raises(TrainingError, match=r"the norm of its gradient (nan|inf)"):
        run(tmp_path, "out", steps=60, precision="fp16")
    assert lines(tmp_path / "out")[-1]["overflowed"] == 30


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp64"])
def test_every_precision_learns_the_same_in_one_pass_and_in_two(tmp_path, precision):
    losses = []
    for num_passes in (1, 2):
        run(tmp_path, f"{num_passes}", precision=precision, accumulation=num_passes)
        losses.append([line["loss"] for line in lines(tmp_path / f"{num_passes}")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-12 if precision == "fp64" else 2e-2)


def test_a_run_begins_with_the_weights_of_a_checkpoint(tmp_path):
    first = run(tmp_path, "first").checkpoints[-1]
    again = run(tmp_path, "again", init=str(first), steps=1, lr=1e-12).checkpoints[-1]
    before, after = load_file(first), load_file(again)
    assert all(torch.allclose(before[name], after[name], atol=1e-9) for name in before)


def test_weights_to_begin_with_that_hold_nan_or_are_of_another_model_are_refused(tmp_path):
    config = json.loads(json.dumps(load_recipe(write_recipe(tmp_path)).model.config))
    state = load_model(config, seed=1).state_dict()
    save_file(state | {"logit_scale": torch.tensor(math.nan)}, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match="NaN or infinity in 1 tensors: logit_scale"):
        run(tmp_path, "out", init=str(tmp_path / "nan.safetensors"))
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="does not fit the model"):
        run(tmp_path, "out", init=str(tmp_path / "other.safetensors"))
    with pytest.raises(CheckpointError, match="No checkpoint at"):
        run(tmp_path, "out", init=str(tmp_path / "none.safetensors"))
    assert not (tmp_path / "out").exists()


def test_another_checkpoint_to_begin_with_is_another_run(tmp_path):
    from rwkvclip_eval.errors import OutputError

    paths = [run(tmp_path, f"{seed}", seed=seed, steps=1).checkpoints[-1] for seed in (1, 2)]
    (tmp_path / "first.safetensors").write_bytes(paths[0].read_bytes())
    run(tmp_path, "out", init=str(tmp_path / "first.safetensors"))
    (tmp_path / "first.safetensors").write_bytes(paths[1].read_bytes())
    with pytest.raises(OutputError, match="another recipe"):
        run(tmp_path, "out", init=str(tmp_path / "first.safetensors"))


def test_official_accumulation_sees_one_part_of_each_batch(tmp_path):
    quirks = {"accumulation_drops_batches": True}
    run(tmp_path, "dropped", accumulation=2, quirks=quirks, steps=3)
    found = (tmp_path / "dropped" / "training" / "tiny.keys").read_text().splitlines()
    from rwkvclip_eval.data.embedded import digits_samples
    from rwkvclip_train.order import keys_digest

    halves = GlobalOrder(len(digits_samples("train")), 4, 0)
    for step, line in enumerate(found):
        keys = torch.tensor(batch_keys(halves, 2 * step)).numpy()
        assert line.split()[2] == f"{keys_digest(keys[:, 0], keys[:, 1]):016x}"


@pytest.mark.slow
@pytest.mark.parametrize("num_passes", [1, 2])
def test_a_compiled_model_learns_the_same(tmp_path, num_passes):
    for name, compiled in (("plain", False), ("compiled", True)):
        run(tmp_path, name, compile=compiled, accumulation=num_passes)
    for one, other in zip(lines(tmp_path / "plain"), lines(tmp_path / "compiled"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
