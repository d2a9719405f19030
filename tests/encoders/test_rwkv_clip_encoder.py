import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from rwkvclip_eval.encoders import load_encoder, prefetch
from rwkvclip_eval.errors import CheckpointError, ConfigError, UserError
from rwkvclip_models import load_model

SPEC = "rwkv.json"


def test_features_equal_the_model_and_the_probe_is_the_pooled_feature(
    in_tmp: Path, image: Image.Image
) -> None:
    model = load_model("rwkv.json", seed=1)
    torch.save({f"module.{k}": v for k, v in model.state_dict().items()}, "model_31.pt")
    encoder = load_encoder(f"{SPEC}=model_31.pt")
    pixels = torch.stack([encoder.preprocess(image), encoder.preprocess(image.convert("L"))])
    tokens = encoder.tokenize(["a photo of a cat", "x"])
    with torch.no_grad():
        pooled, text = model.encode_image(pixels), model.encode_text(tokens)
    features = encoder.encode_image(pixels)
    torch.testing.assert_close(features.probe, pooled, atol=1e-6, rtol=0)
    torch.testing.assert_close(features.embedding, functional.normalize(pooled), atol=1e-6, rtol=0)
    torch.testing.assert_close(encoder.encode_text(tokens), functional.normalize(text), atol=1e-6, rtol=0)
    info = encoder.info
    assert (info.family, info.implementation, info.step, info.context_length) == (
        "rwkv-clip",
        model.implementation,
        31,
        77,
    )
    assert info.step_unit == "epoch"
    assert info.logit_scale == pytest.approx(1 / 0.07)
    assert info.num_parameters == sum(p.numel() for p in model.parameters())
    assert info.spec == "rwkv.json=model_31.pt"


def test_official_numbers_come_out_normalised(parity: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(parity))
    try:
        import inputs
        import recipe
    finally:
        sys.path.remove(str(parity))
    config = json.loads((parity / "configs.json").read_text())["tiny"]
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    keys = load_model(config).state_dict()
    torch.save({k: torch.from_numpy(recipe.fill(k, v.shape)) for k, v in keys.items()}, tmp_path / "w.pt")
    encoder = load_encoder(f"{tmp_path / 'tiny.json'}={tmp_path / 'w.pt'}")
    golden = np.load(parity / "model_tiny.npz")
    size = config["input_size"]
    features = encoder.encode_image(torch.from_numpy(inputs.images(11, 2, size, size)))
    expected = torch.from_numpy(golden["f64:image_embedding"]).float()
    torch.testing.assert_close(features.embedding, functional.normalize(expected), atol=5e-5, rtol=0)
    text = encoder.encode_text(torch.from_numpy(golden["text_ids"]))
    expected = torch.from_numpy(golden["f64:text_embedding"]).float()
    torch.testing.assert_close(text, functional.normalize(expected), atol=5e-5, rtol=0)


def test_random_weights_depend_on_the_seed_alone(in_tmp: Path) -> None:
    torch.manual_seed(1)
    first = load_encoder(f"{SPEC}=random:0")
    torch.manual_seed(2)
    torch.rand(7)
    state = torch.get_rng_state()
    second, other = load_encoder(f"{SPEC}=random:0"), load_encoder(f"{SPEC}=random:1")
    assert torch.equal(state, torch.get_rng_state())
    assert not first.info.trained
    assert first.info.fingerprint == second.info.fingerprint != other.info.fingerprint


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.03), ("fp16", 0.005)])
def test_half_precision_stays_near_float32_and_is_stated(
    in_tmp: Path, precision: str, tolerance: float
) -> None:
    model = load_model("rwkv.json", seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    torch.save(model.state_dict(), "w.pt")
    full, half = load_encoder(f"{SPEC}=w.pt"), load_encoder(f"{SPEC}=w.pt", precision=precision)
    pixels, tokens = torch.randn(3, 3, 32, 32), full.tokenize(["a cat", "a dog"])
    a, b = full.encode_image(pixels), half.encode_image(pixels)
    assert b.embedding.dtype == b.probe.dtype == torch.float32
    assert 0 < float((a.embedding - b.embedding).abs().max()) < tolerance
    assert float((full.encode_text(tokens) - half.encode_text(tokens)).abs().max()) < tolerance
    assert half.info.precision == precision
    assert half.info.fingerprint == full.info.fingerprint


def test_the_implementation_asked_for_is_the_one_that_runs(in_tmp: Path) -> None:
    reference = load_encoder(f"{SPEC}=random:0", implementation="reference")
    assert reference.info.implementation == "reference"
    with pytest.raises(UserError, match="implementation"):
        load_encoder(f"{SPEC}=random:0", implementation="cuda9")


def test_ema_weights_are_selected(in_tmp: Path) -> None:
    last, averaged = load_model("rwkv.json", seed=1), load_model("rwkv.json", seed=2)
    torch.save({"model": last.state_dict(), "model_ema": averaged.state_dict()}, "e.pt")
    torch.save(averaged.state_dict(), "a.pt")
    pixels = torch.randn(1, 3, 32, 32)
    ema, plain = load_encoder(f"{SPEC}=e.pt@ema"), load_encoder(f"{SPEC}=a.pt")
    assert torch.equal(ema.encode_image(pixels).probe, plain.encode_image(pixels).probe)


def test_a_configuration_or_checkpoint_that_does_not_fit_is_refused(in_tmp: Path) -> None:
    with pytest.raises(ConfigError):
        load_encoder("tiny.json=random:0")
    torch.save({"logit_scale": torch.tensor(1.0)}, "w.pt")
    with pytest.raises(CheckpointError, match="Missing"):
        load_encoder(f"{SPEC}=w.pt")
    with pytest.raises(CheckpointError, match="No checkpoint"):
        load_encoder(f"{SPEC}=none.pt")
    with pytest.raises(UserError, match="needs weights"):
        load_encoder("rwkv-clip-b32")
    assert prefetch(f"{SPEC}=w.pt") == []
