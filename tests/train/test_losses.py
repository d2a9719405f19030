import itertools
import math

import pytest
import torch

from rwkvclip_train.objectives.contrastive import contrastive_loss
from rwkvclip_train.optim.schedule import learning_rate


def test_loss_is_the_mean_of_both_cross_entropies_computed_by_hand():
    # Unit vectors: image rows (1,0), (0,1); text rows (1,0), (0.6,0.8). Scale 2.
    # logits = [[2, 1.2], [0, 1.6]]
    image = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    text = torch.tensor([[1.0, 0.0], [6.0, 8.0]])
    rows = [math.log(math.e**2 + math.e**1.2) - 2, math.log(1 + math.e**1.6) - 1.6]
    columns = [math.log(math.e**2 + 1) - 2, math.log(math.e**1.2 + math.e**1.6) - 1.6]
    expected = (sum(rows) / 2 + sum(columns) / 2) / 2
    assert contrastive_loss(image, text, torch.tensor(2.0)).item() == pytest.approx(expected, abs=1e-6)


def test_loss_is_the_logarithm_of_the_batch_where_embeddings_say_nothing():
    same = torch.ones(7, 4)
    assert contrastive_loss(same, same, torch.tensor(10.0)).item() == pytest.approx(math.log(7), abs=1e-6)


def test_loss_of_bfloat16_embeddings_is_float32():
    loss = contrastive_loss(torch.randn(3, 4).bfloat16(), torch.randn(3, 4).bfloat16(), torch.tensor(1.0))
    assert loss.dtype == torch.float32


def test_rate_rises_linearly_peaks_after_warm_up_and_falls_as_half_a_cosine():
    rates = [learning_rate(s, peak=1.0, num_steps=10, warmup_steps=2) for s in range(10)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates[6] == pytest.approx(0.5)
    assert all(a > b for a, b in itertools.pairwise(rates[2:]))
    assert 0 < rates[-1] < 0.05


def test_rate_without_warm_up_starts_at_the_peak():
    assert learning_rate(0, peak=0.3, num_steps=1, warmup_steps=0) == 0.3
