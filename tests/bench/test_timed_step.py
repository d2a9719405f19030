"""A training step that is timed is one: both sides of the loss, and weights that move."""

import json

import pytest
import torch
import torch.nn.functional as F

from rwkvclip_eval.bench.subject import Subject
from rwkvclip_eval.encoders import load_encoder
from rwkvclip_eval.records.efficiency import Cell

CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
CELL = Cell(tower="train", batch=3, height=32, width=32, tokens=77)


@pytest.fixture
def step(tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(CONFIG))
    return Subject(load_encoder(f"open_clip:{path}=random:0")).call(CELL)


def test_the_loss_is_that_of_images_among_texts_and_of_texts_among_images(step):
    # Texts that differ: with equal ones, as they are timed, each side is a constant.
    step._tokens = step._tokens.clone()
    step._tokens[:, 1] = torch.tensor([5, 600, 7000])
    with torch.no_grad():
        images, texts = step._towers.image(step._pixels)[0], step._text(step._tokens)
        logits = step._scale.exp() * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).mT
        sides = [-logits.log_softmax(dim).diagonal().mean() for dim in (0, 1)]
        assert abs(float(sides[0] - sides[1])) > 1e-4
        assert float(step.loss()) == pytest.approx(float(sum(sides) / 2), rel=1e-5)


def test_a_step_moves_every_weight_that_has_a_gradient(step):
    module = step._towers.module
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    step()
    moved = [n for n, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-3]
    assert moved
    assert all(not torch.equal(before[name], module.get_parameter(name)) for name in moved)
