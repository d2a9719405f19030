"""Runs of the two flavours: what a log and a checkpoint show of each quirk."""

import json

import pytest
import torch
from test_loop import TINY, recipe, same, weights
from test_schedule import by_torch

from rwkvclip_train.data.pairs import Batch
from rwkvclip_train.flavour import Quirks
from rwkvclip_train.gradients import StepGradients
from rwkvclip_train.loop import train
from rwkvclip_train.models import build_trainee, text_decay_to_bfloat16
from rwkvclip_train.order import order_of
from rwkvclip_train.parallel import join_ranks

STEPS = 12
BFLOAT16 = ("time_decay", "time_faaaa")


def run(folder, **changes):
    """Return the log's lines and the weights of a run."""
    asked = recipe("rwkv-clip", steps=STEPS, checkpoint_every=STEPS, **changes)
    trained = train(asked, folder, progress=False)
    return [json.loads(line) for line in trained.log.open()], weights(trained.checkpoints[-1])


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return run(tmp_path_factory.mktemp("official"), flavour="official", betas=[0.5, 0.98])


@pytest.fixture(scope="module")
def corrected(tmp_path_factory):
    return run(tmp_path_factory.mktemp("corrected"), betas=[0.5, 0.98])


def test_a_run_takes_torchs_one_cycle_rates_and_betas_at_every_step(official, corrected):
    for line, other, (lr, beta1) in zip(official[0], corrected[0], by_torch(STEPS, 0.001, 0.1), strict=True):
        assert line["lr"] == other["lr"] == pytest.approx(lr, rel=1e-12)
        assert line["betas"] == pytest.approx([beta1, 0.98], abs=1e-12)
        assert other["betas"] == [0.5, 0.98]


def test_text_decay_of_the_official_flavour_stays_byte_for_byte_where_it_begins_at_one_or_more(
    official, corrected
):
    start = build_trainee(recipe("rwkv-clip").model, seed=0, device=torch.device("cpu")).module.state_dict()
    text = [name for name in start if name.startswith("text_model.") and name.endswith(BFLOAT16)]
    assert {official[1][name].dtype for name in text} == {torch.bfloat16}
    assert {corrected[1][name].dtype for name in text} == {torch.float32}
    for name in (n for n in text if n.endswith("time_decay")):
        large = start[name].abs() >= 1
        assert int(large.sum()) > 20
        assert torch.equal(official[1][name][large], start[name].bfloat16()[large])
        assert not torch.equal(corrected[1][name][large], start[name][large])


def test_the_official_flavour_without_its_quirks_is_the_corrected_one(corrected, tmp_path):
    log, state = run(
        tmp_path, flavour="official", quirks=dict.fromkeys(Quirks.model_fields, False), betas=[0.5, 0.98]
    )
    assert same(state, corrected[1])
    assert [line["loss"] for line in log] == [line["loss"] for line in corrected[0]]


def gradients(**changes):
    """Return name → gradient of one step over the same eight pairs."""
    asked = recipe("rwkv-clip", world_size=2, precision="fp32", **changes)
    trainee = build_trainee(asked.model, seed=0, device=torch.device("cpu"))
    trainee.module.train()
    if asked.quirks.text_decay_bfloat16:
        text_decay_to_bfloat16(trainee.module)
    draw = torch.Generator().manual_seed(0)
    size = TINY["rwkv-clip"]["input_size"]
    batch = Batch(
        torch.randn(8, 3, size, size, generator=draw),
        torch.randint(1, 49000, (8, 16), generator=draw),
        ("raw",) * 8,
        torch.stack([torch.zeros(8, dtype=torch.int64), torch.arange(8)], dim=1),
    )
    with join_ranks("cpu") as ranks:
        StepGradients(trainee, ranks, asked, torch.amp.GradScaler("cpu", enabled=False))(0, [batch])
    return {name: p.grad for name, p in trainee.module.named_parameters()}


def test_a_step_of_the_official_flavour_has_towers_gradients_over_world_size_and_logit_scales_whole():
    true, halved = gradients(), gradients(quirks={"tower_gradients_over_world_size": True})
    assert true.keys() == halved.keys() and len(true) > 20
    for name, gradient in true.items():
        factor = 1.0 if name == "logit_scale" else 0.5
        torch.testing.assert_close(halved[name], factor * gradient, rtol=1e-5, atol=1e-9, msg=name)
    assert true["logit_scale"].abs() > 0


@pytest.mark.parametrize(("drops", "share", "passes"), [(False, 1.0, 2), (True, 0.5, 1)])
def test_accumulation_of_the_official_flavour_uses_half_of_the_pairs(drops, share, passes):
    asked = recipe("open_clip", accumulation=2, quirks={"accumulation_drops_batches": drops})
    order, num_parts = order_of(asked, 64)
    # An epoch of eight steps.
    used = {int(sample) for step in range(8) for sample in order.batch(step)[1]}
    assert len(used) == share * 64
    assert num_parts == passes
