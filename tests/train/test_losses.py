"""Axes: B pairs of all ranks, b pairs of one, D embedding."""

import math

import pytest
import torch
import torch.nn.functional as F
from loss_ranks import SCALE, embeddings, leaves, over_ranks
from open_clip.loss import ClipLoss

from rwkvclip_train.objectives import contrastive
from rwkvclip_train.objectives.contrastive import global_contrastive_loss

DTYPES = {torch.float32: 1e-5, torch.float64: 1e-10}


def gradients(loss, inputs):
    return torch.autograd.grad(loss(*inputs), inputs)


def reference(image, text, scale):
    """open_clip's loss of unit-norm embeddings of the whole batch."""
    return ClipLoss()(F.normalize(image, dim=-1), F.normalize(text, dim=-1), scale)


def test_loss_is_the_mean_of_both_cross_entropies_computed_by_hand():
    # Unit vectors: image rows (1,0), (0,1); text rows (1,0), (0.6,0.8). Scale 2.
    # logits = [[2, 1.2], [0, 1.6]]
    image = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    text = torch.tensor([[1.0, 0.0], [6.0, 8.0]])
    rows = [math.log(math.e**2 + math.e**1.2) - 2, math.log(1 + math.e**1.6) - 1.6]
    columns = [math.log(math.e**2 + 1) - 2, math.log(math.e**1.2 + math.e**1.6) - 1.6]
    expected = (sum(rows) / 2 + sum(columns) / 2) / 2
    loss = global_contrastive_loss(image, text, torch.tensor(2.0))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_loss_is_the_logarithm_of_the_batch_where_embeddings_say_nothing():
    same = torch.ones(7, 4)
    loss = global_contrastive_loss(same, same, torch.tensor(10.0))
    assert loss.item() == pytest.approx(math.log(7), abs=1e-6)


def test_loss_of_bfloat16_embeddings_is_float32_under_autocast_too():
    image, text = embeddings(9, 4, torch.bfloat16)
    plain = global_contrastive_loss(image, text, torch.tensor(1.0))
    with torch.autocast("cpu", torch.bfloat16):
        inputs = leaves(image, text, 1.0)
        loss = global_contrastive_loss(*inputs)
        loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == plain.item()
    assert [x.grad.dtype for x in inputs] == [torch.bfloat16] * 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 14.3, 100.0])
@pytest.mark.parametrize("chunk_rows", [1, 4, 11, None])
def test_value_and_gradients_are_open_clips_whatever_the_chunks(dtype, scale, chunk_rows, monkeypatch):
    # A part of a chunk holds two rows.
    monkeypatch.setattr(contrastive, "PART_BYTES", 2 * 11 * dtype.itemsize)
    inputs = leaves(*embeddings(11, 5, dtype), scale)
    given = {} if chunk_rows is None else {"chunk_rows": chunk_rows}
    loss, expected = global_contrastive_loss(*inputs, **given), reference(*inputs)
    torch.testing.assert_close(loss, expected, rtol=DTYPES[dtype], atol=DTYPES[dtype])
    for ours, theirs in zip(
        gradients(lambda *x: global_contrastive_loss(*x, **given), inputs),
        gradients(reference, inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=DTYPES[dtype], atol=DTYPES[dtype] * max(scale, 1))


def test_gradients_are_the_numerical_derivatives():
    inputs = leaves(*embeddings(5, 3), 3.0)
    assert torch.autograd.gradcheck(lambda *x: global_contrastive_loss(*x, chunk_rows=2), inputs)


def test_embeddings_as_far_apart_as_can_be_have_a_finite_loss_and_gradients():
    image = F.one_hot(torch.arange(4), 4).float()
    inputs = leaves(image, -image, 100.0)
    loss = global_contrastive_loss(*inputs)
    assert loss.item() == pytest.approx(100 + math.log(3), rel=1e-6)
    assert all(g.isfinite().all() for g in gradients(global_contrastive_loss, inputs))


def test_the_scale_of_the_towers_gradients_leaves_value_and_logit_scale_alone():
    inputs = leaves(*embeddings(6, 4), 5.0)
    whole = gradients(global_contrastive_loss, inputs)
    image, text, scale = gradients(lambda *x: global_contrastive_loss(*x, tower_gradient_scale=0.125), inputs)
    assert torch.equal(image, whole[0] / 8) and torch.equal(text, whole[1] / 8)
    assert torch.equal(scale, whole[2])


def test_logits_of_the_whole_batch_are_never_held(monkeypatch):
    sizes = []
    made = torch.Tensor.new_empty
    monkeypatch.setattr(
        torch.Tensor, "new_empty", lambda self, *size: sizes.append(math.prod(size)) or made(self, *size)
    )
    inputs = leaves(*embeddings(2048, 8), 5.0)
    gradients(global_contrastive_loss, inputs)
    assert max(sizes) == contrastive.MIN_CHUNK_ROWS * 2048


@pytest.fixture(scope="module")
def ranks():
    return over_ranks(24, 5)


@pytest.mark.parametrize(("name", "world_size"), [("two", 2), ("four", 4), ("pairs", 2)])
def test_ranks_share_one_loss_and_the_mean_of_their_gradients_is_its_gradient(ranks, name, world_size):
    inputs = leaves(*embeddings(24, 5), SCALE)
    expected, of_whole = reference(*inputs).item(), gradients(reference, inputs)
    for rank, (loss, image, text, scale) in enumerate(ranks[name]):
        assert loss == pytest.approx(expected, abs=1e-10)
        # The mean over ranks divides by their number what only one of them has.
        for ours, theirs in ((image, of_whole[0]), (text, of_whole[1])):
            own = theirs.chunk(world_size)[rank % world_size]
            torch.testing.assert_close(ours / world_size, own, rtol=0, atol=1e-10)
        torch.testing.assert_close(scale, of_whole[2], rtol=0, atol=1e-10)


def test_two_ranks_of_the_official_flavour_halve_the_towers_gradients_and_not_logit_scales(ranks):
    """As open_clip's gather without gradient, which is the official script's, does under DDP's mean."""
    true = gradients(reference, leaves(*embeddings(24, 5), SCALE))
    for rank in (0, 1):
        _, image, text, scale = ranks["official"][rank]
        theirs = ranks["open_clip"][rank]
        for ours, gathered, whole in ((image, theirs[1], true[0]), (text, theirs[2], true[1])):
            torch.testing.assert_close(ours, gathered, rtol=0, atol=1e-10)
            torch.testing.assert_close(ours / 2, whole.chunk(2)[rank] * 0.5, rtol=0, atol=1e-10)
        torch.testing.assert_close(scale, theirs[3], rtol=0, atol=1e-10)
        torch.testing.assert_close(scale, true[2], rtol=0, atol=1e-10)
