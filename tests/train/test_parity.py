"""A training step's loss and gradients beside the official code's; the golden numbers skip where absent."""

import numpy as np
import pytest
import torch

from rwkvclip_models import load_model
from rwkvclip_train.objectives.contrastive import global_contrastive_loss

# Largest difference over the largest reference value, of float32 and float64: as the golden files state them.
LOSS_LIMIT = {torch.float32: 1e-5, torch.float64: 1e-6}
GRADIENT_LIMIT = {torch.float32: 1e-3, torch.float64: 1e-6}


def error(value, expected):
    expected = np.asarray(expected, dtype=np.float64)
    return float(np.abs(value.detach().double().numpy() - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("chunk_rows", [1, 3, None])
@pytest.mark.parametrize("dtype", GRADIENT_LIMIT, ids=["float32", "float64"])
def test_loss_and_parameter_gradients_equal_the_official_ones(official, dtype, chunk_rows):
    model = load_model(official.configs["tiny"], official.state("tiny"), dtype=dtype).train()
    pixels = torch.tensor(official.inputs.images(14, 4, 64, 64)).to(dtype)
    tokens = torch.tensor(official.golden["text_ids"]).long()
    loss = global_contrastive_loss(*model(pixels, tokens), chunk_rows=chunk_rows)
    loss.backward()
    assert error(loss, official.golden["f64:grad_loss"]) < LOSS_LIMIT[dtype]
    parameters = dict(model.named_parameters())
    compared = []
    for key in official.golden.files:
        kind, _, name = key.partition(":")
        if kind in ("grad", "gradnorm"):
            gradient = parameters[name].grad
            value = gradient if kind == "grad" else gradient.norm()
            assert error(value, official.golden[key]) < GRADIENT_LIMIT[dtype], key
            compared.append(name)
    assert set(compared) == set(parameters)
