import json
import pickle
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from rwkvclip_eval.bench.parts import attention_kernels
from rwkvclip_eval.encoders import load_encoder, make_fingerprint, prefetch
from rwkvclip_eval.encoders.open_clip import towers, untrained_image_tower
from rwkvclip_eval.errors import CheckpointError, ConfigError, UserError

SPEC = "open_clip:tiny.json"
TEXTS = ["a photo of a cat", "two dogs"]


def tiny(seed: int = 0, **changes: Any) -> Any:
    config = json.loads(Path("tiny.json").read_text()) | changes
    torch.manual_seed(seed)
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    return kind(**config).eval()


def test_features_equal_the_library_with_its_own_preprocessing_and_model(
    in_tmp: Path, image: Image.Image
) -> None:
    model = tiny()
    torch.save(model.state_dict(), "w.pt")
    encoder = load_encoder(f"{SPEC}=w.pt")
    pixels = torch.stack([encoder.preprocess(image), encoder.preprocess(image.rotate(90))])
    own = open_clip.image_transform(32, is_train=False)
    assert torch.equal(pixels[0], own(image))
    features = encoder.encode_image(pixels)
    tokens = encoder.tokenize(TEXTS)
    assert torch.equal(tokens, open_clip.tokenize(TEXTS))
    with torch.no_grad():
        image_embedding = model.encode_image(pixels, normalize=True)
        text_embedding = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(features.embedding, image_embedding, atol=1e-6, rtol=0)
    torch.testing.assert_close(encoder.encode_text(tokens), text_embedding, atol=1e-6, rtol=0)


def test_the_probe_is_the_normed_class_token_before_the_projection(in_tmp: Path) -> None:
    model = tiny()
    torch.save(model.state_dict(), "w.pt")
    encoder = load_encoder(f"{SPEC}=w.pt")
    pixels = torch.randn(3, 3, 32, 32)
    seen: list[torch.Tensor] = []
    model.visual.ln_post.register_forward_hook(lambda _m, _i, output: seen.append(output))
    with torch.no_grad():
        model.encode_image(pixels)
    class_token = seen[0][:, 0] if seen[0].dim() == 3 else seen[0]
    features = encoder.encode_image(pixels)
    assert (encoder.info.probe_dim, encoder.info.embed_dim) == (64, 24)
    torch.testing.assert_close(features.probe, class_token, atol=1e-6, rtol=0)
    projected = functional.normalize(features.probe @ model.visual.proj.detach(), dim=-1)
    torch.testing.assert_close(features.embedding, projected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "vision",
    [
        {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2},
        {"pool_type": "avg"},
        {"final_ln_after_pool": True},
        {"output_tokens": True},
        {"layers": [1, 1, 1, 1], "width": 8},
        {
            "timm_model_name": "resnet10t",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
        },
    ],
)
def test_every_kind_of_image_tower_gives_the_models_own_embedding(in_tmp: Path, vision: Any) -> None:
    base = json.loads(Path("tiny.json").read_text())["vision_cfg"]
    model = tiny(vision_cfg=base | vision)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        embedding, probe = towers(model).image(pixels)
        own = model.encode_image(pixels)
    own = own[0] if isinstance(own, tuple) else own
    torch.testing.assert_close(embedding, own, atol=1e-6, rtol=0)
    assert probe.shape[0] == 2
    if "pool_type" in vision or "attentional_pool" in vision:
        assert probe.shape[1] != embedding.shape[1] or vision.get("attentional_pool")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"epoch": 5, "state_dict": s, "optimizer": {"state": {}}},
        lambda s: {"model": {f"module.{k}": v for k, v in s.items()}, "args": {"lr": 1e-3}},
        lambda s: {"state_dict": {f"module._orig_mod.{k}": v for k, v in s.items()}},
    ],
)
def test_training_checkpoints_are_unwrapped(in_tmp: Path, wrap: Any) -> None:
    state = tiny().state_dict()
    torch.save(state, "plain.pt")
    torch.save(wrap(state), "epoch_5.pt")
    plain, wrapped = load_encoder(f"{SPEC}=plain.pt"), load_encoder(f"{SPEC}=epoch_5.pt")
    tokens = plain.tokenize(TEXTS)
    assert torch.equal(plain.encode_text(tokens), wrapped.encode_text(tokens))
    assert wrapped.info.step == 5 and wrapped.info.trained


def test_ema_selects_the_averaged_weights(in_tmp: Path) -> None:
    last, averaged = tiny(1).state_dict(), tiny(2).state_dict()
    torch.save({"state_dict": last, "state_dict_ema": averaged}, "e.pt")
    torch.save(averaged, "averaged.pt")
    ema, plain = load_encoder(f"{SPEC}=e.pt@ema"), load_encoder(f"{SPEC}=e.pt")
    tokens = ema.tokenize(TEXTS)
    expected = load_encoder(f"{SPEC}=averaged.pt").encode_text(tokens)
    assert torch.equal(ema.encode_text(tokens), expected)
    assert not torch.allclose(plain.encode_text(tokens), expected)
    assert ema.info.fingerprint != plain.info.fingerprint
    with pytest.raises(CheckpointError, match="EMA"):
        load_encoder(f"{SPEC}=averaged.pt@ema")


def test_safetensors_are_read(in_tmp: Path) -> None:
    save_file(tiny().state_dict(), "w.safetensors")
    assert load_encoder(f"{SPEC}=w.safetensors").info.family == "open_clip"


def test_sigmoid_models_state_scale_and_bias(in_tmp: Path) -> None:
    config = json.loads(Path("tiny.json").read_text()) | {"custom_text": True, "init_logit_bias": -10.0}
    Path("siglip.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3}}))
    torch.save(tiny(custom_text=True, init_logit_bias=-10.0).state_dict(), "w.pt")
    encoder = load_encoder("open_clip:siglip.json=w.pt")
    assert encoder.info.logit_bias == -10.0
    assert encoder.info.logit_scale == pytest.approx(1 / 0.07)
    assert "mean=[0.5" in repr(encoder.preprocess) or "mean=(0.5" in repr(encoder.preprocess)


def test_alip_is_the_plain_gelu_vit_b_32_and_clip_openai_the_quickgelu_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rwkvclip_eval.encoders import open_clip as adapter
    from rwkvclip_eval.encoders import parse_spec

    alip = adapter._architecture(parse_spec("alip-vit-b32=alip.pt"))
    openai = adapter._architecture(parse_spec("clip-vit-b32=openai"))
    laion = adapter._architecture(parse_spec("clip-vit-b32=laion2b_s34b_b79k"))
    assert alip.name == openai.name == "ViT-B-32"
    assert not alip.config.get("quick_gelu") and not laion.config.get("quick_gelu")
    assert openai.config["quick_gelu"]


def test_alips_keys_and_shapes_are_those_of_the_model_loaded_for_it(parity: Path) -> None:
    manifest = json.loads((parity / "manifest_ALIP_ViT-B-32.json").read_text())
    entries = manifest.items() if isinstance(manifest, dict) else manifest
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32"))
    assert {k: list(s) for k, s in entries} == {k: list(v.shape) for k, v in model.state_dict().items()}


def test_loading_registers_nothing_and_draws_no_random_number(in_tmp: Path) -> None:
    torch.save(tiny().state_dict(), "w.pt")
    names, before = open_clip.list_models(), torch.get_rng_state()
    load_encoder(f"{SPEC}=w.pt")
    load_encoder(f"{SPEC}=random:3")
    assert torch.equal(before, torch.get_rng_state())
    assert open_clip.list_models() == names


def test_the_preprocessing_is_picklable_without_the_model(in_tmp: Path) -> None:
    encoder = load_encoder(f"{SPEC}=random:0")
    assert len(pickle.dumps(encoder.preprocess)) < 10_000


def test_a_wrong_model_name_lists_near_matches() -> None:
    with pytest.raises(UserError, match="Did you mean 'ViT-B-32'"):
        load_encoder("open_clip:ViT-B32=openai")
    with pytest.raises(UserError, match="Did you mean 'openai'"):
        load_encoder("clip-vit-b32=opnai")
    with pytest.raises(UserError, match="Unknown pretrained tag of ViT-B-32 'openai'"):
        load_encoder("alip-vit-b32=openai")
    with pytest.raises(UserError, match="Did you mean 'clip-vit-b32'"):
        load_encoder("clip-vitb32=openai")


def test_a_name_without_weights_says_which_there_are() -> None:
    with pytest.raises(UserError, match="needs weights"):
        load_encoder("clip-vit-b32")


def test_a_checkpoint_of_another_configuration_lists_keys_and_shapes_and_the_one_that_fits(
    in_tmp: Path,
) -> None:
    with torch.device("meta"):
        keys = open_clip.CLIP(**open_clip.get_model_config("ViT-S-32")).state_dict()
    large = {k: torch.zeros(v.shape, dtype=torch.float16) for k, v in keys.items()}
    torch.save(large, "w.pt")
    with pytest.raises(CheckpointError) as caught:
        load_encoder(f"{SPEC}=w.pt")
    text = str(caught.value)
    assert "visual.conv1.weight" in text and "[384, 3, 32, 32]" in text and "[64, 3, 16, 16]" in text
    assert "ViT-S-32" in text


def test_weights_that_are_not_finite_are_refused(in_tmp: Path) -> None:
    state = tiny().state_dict()
    state["visual.proj"][0, 0] = float("nan")
    torch.save(state, "w.pt")
    with pytest.raises(CheckpointError, match=r"visual\.proj"):
        load_encoder(f"{SPEC}=w.pt")


def test_damaged_and_foreign_files_are_named_for_what_they_are(in_tmp: Path) -> None:
    torch.save(tiny().state_dict(), "w.pt")
    content = Path("w.pt").read_bytes()
    Path("cut.pt").write_bytes(content[: len(content) // 2])
    Path("page.pt").write_text("<!DOCTYPE html><html>404</html>")
    for name, message in (("cut.pt", "cut short"), ("page.pt", "web page"), ("none.pt", "No checkpoint")):
        with pytest.raises(CheckpointError, match=message):
            load_encoder(f"{SPEC}={name}")


class Trap:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


def test_code_in_a_checkpoint_is_never_run(in_tmp: Path) -> None:
    torch.save({"state_dict": tiny().state_dict(), "trap": Trap()}, "w.pt")
    with pytest.raises(CheckpointError, match="refused"):
        load_encoder(f"{SPEC}=w.pt")
    assert not Path("executed").exists()


def test_a_configuration_that_is_not_open_clips_is_refused(in_tmp: Path) -> None:
    with pytest.raises(ConfigError, match="lacks embed_dim"):
        load_encoder("open_clip:rwkv.json=random:0")
    with pytest.raises(ConfigError, match=r"Cannot read the model configuration missing\.json"):
        load_encoder("open_clip:missing.json=random:0")
    config = json.loads(Path("tiny.json").read_text())
    config["vision_cfg"]["breadth"] = 3
    Path("typo.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="breadth"):
        load_encoder("open_clip:typo.json=random:0")


def test_a_pretrained_tag_comes_from_the_hub_cache_by_its_safe_file(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[tuple[str, str, bool]] = []

    def download(repo: str, file: str, *, local_files_only: bool) -> str:
        asked.append((repo, file, local_files_only))
        return "w.pt"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert prefetch("clip-vit-b32=openai") == ["w.pt"]
    assert asked == [("timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors", False)]


def test_equal_weights_and_settings_give_equal_fingerprints(in_tmp: Path) -> None:
    torch.save(tiny().state_dict(), "a.pt")
    Path("sub").mkdir()
    Path("sub/b.pt").write_bytes(Path("a.pt").read_bytes())
    a, b = load_encoder(f"{SPEC}=a.pt"), load_encoder(f"{SPEC}=sub/b.pt")
    assert a.info.fingerprint == b.info.fingerprint
    config = json.loads(Path("tiny.json").read_text())
    Path("gelu.json").write_text(json.dumps(config | {"quick_gelu": True}))
    assert load_encoder("open_clip:gelu.json=a.pt").info.fingerprint != a.info.fingerprint
    settings = {"model_cfg": config, "preprocess_cfg": {"resize_mode": "squash"}}
    Path("squash.json").write_text(json.dumps(settings))
    assert load_encoder("open_clip:squash.json=a.pt").info.fingerprint != a.info.fingerprint
    assert make_fingerprint(x=1) != a.info.fingerprint


def test_tokenizers_of_the_hub_are_used_and_offline_misses_are_named(
    in_tmp: Path, clip_tokenizer_dir: Path
) -> None:
    config = json.loads(Path("tiny.json").read_text())
    config["text_cfg"]["hf_tokenizer_name"] = str(clip_tokenizer_dir)
    Path("own.json").write_text(json.dumps(config))
    encoder = load_encoder("open_clip:own.json=random:0", offline=True)
    assert encoder.tokenize(["cat", "a dog"]).shape == (2, 77)
    assert encoder.info.fingerprint != load_encoder(f"{SPEC}=random:0").info.fingerprint
    config["text_cfg"]["hf_tokenizer_name"] = "owner/none"
    Path("own.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="tokenizer owner/none is not in the local"):
        load_encoder("open_clip:own.json=random:0", offline=True)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.03), ("fp16", 0.005)])
def test_half_precision_stays_near_float32(in_tmp: Path, precision: str, tolerance: float) -> None:
    full, half = load_encoder(f"{SPEC}=random:0"), load_encoder(f"{SPEC}=random:0", precision=precision)
    pixels, tokens = torch.randn(3, 3, 32, 32), full.tokenize(TEXTS)
    difference = (full.encode_image(pixels).embedding - half.encode_image(pixels).embedding).abs().max()
    assert 0 < float(difference) < tolerance
    assert float((full.encode_text(tokens) - half.encode_text(tokens)).abs().max()) < tolerance


def test_no_weight_is_copied_for_each_token_in_low_precision(in_tmp: Path) -> None:
    from torch.profiler import ProfilerActivity, profile

    encoder = load_encoder(f"{SPEC}=random:0", precision="bf16")
    pixels, tokens = torch.randn(3, 3, 32, 32), encoder.tokenize(TEXTS)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        encoder.encode_image(pixels)
        encoder.encode_text(tokens)
    ran = {event.key for event in profiled.key_averages()}
    assert "aten::addmm" in ran
    # A product for each token, of weights that are expanded to as many.
    assert "aten::bmm" not in ran


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_attention_on_a_processor_is_torchs_fused_one(in_tmp: Path, precision: str) -> None:
    encoder = load_encoder(f"{SPEC}=random:0", precision=precision)
    pixels, tokens = torch.randn(3, 3, 32, 32), encoder.tokenize(TEXTS)
    for call in (lambda: encoder.encode_image(pixels), lambda: encoder.encode_text(tokens)):
        assert attention_kernels(call) == ["flash_attention_for_cpu"]


def test_an_untrained_image_tower_takes_images_of_the_size_asked_for() -> None:
    tower = untrained_image_tower("ViT-B-32", 64)
    with torch.no_grad():
        assert tower(torch.zeros(1, 3, 64, 64)).shape == (1, 512)
