import json
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional

from rwkvclip_eval.bench.subject import Subject
from rwkvclip_eval.encoders import load_encoder, prefetch
from rwkvclip_eval.errors import CheckpointError, ConfigError, UserError
from rwkvclip_eval.records.efficiency import Cell

TEXTS = ["a photo of a cat", "two dogs " * 30]


def test_clip_equals_transformers_own_processor_and_model(hf_clip: Path, image: Image.Image) -> None:
    from transformers import AutoProcessor, CLIPModel

    encoder = load_encoder(f"hf:{hf_clip}")
    processor, model = AutoProcessor.from_pretrained(hf_clip), CLIPModel.from_pretrained(hf_clip).eval()
    inputs = processor(
        text=TEXTS, images=image, return_tensors="pt", padding=True, truncation=True, max_length=20
    )
    pixels = encoder.preprocess(image)[None]
    assert torch.equal(pixels, inputs["pixel_values"])
    with torch.no_grad():
        own = model(**inputs)
        pooled = model.vision_model(pixel_values=pixels).pooler_output
    features = encoder.encode_image(pixels)
    torch.testing.assert_close(features.embedding, own.image_embeds, atol=1e-6, rtol=0)
    torch.testing.assert_close(features.probe, pooled, atol=1e-6, rtol=0)
    tokens = encoder.tokenize(TEXTS)
    assert tokens.shape == (2, 20) and tokens.dtype == torch.int64
    torch.testing.assert_close(encoder.encode_text(tokens), own.text_embeds, atol=1e-6, rtol=0)
    info = encoder.info
    assert (info.embed_dim, info.probe_dim, info.image_size_px, info.context_length) == (24, 48, (32, 32), 20)
    assert info.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert info.logit_bias is None and info.spec == info.name == "hf:tiny_clip"


@pytest.mark.parametrize(("height", "width", "tokens"), [(48, 80, 33), (32, 32, 7), (96, 16, 20)])
def test_clip_takes_other_sizes_to_be_timed_and_counts_as_open_clips_does(
    hf_clip: Path, height: int, width: int, tokens: int
) -> None:
    subject = Subject(load_encoder(f"hf:{hf_clip}"))
    cells = [Cell(tower="image", batch=2, height=height, width=width), Cell(tower="text", tokens=tokens)]
    cells.append(Cell(tower="train", batch=2, height=height, width=width, tokens=tokens))
    for cell in cells:
        subject.call(cell)()
    config = subject.towers.module.config
    vision, text = config.vision_config, config.text_config

    def block(one: object, count: int) -> int:
        # q k v output, scores and their sums, the MLP: multiply-adds of a token.
        return (
            4 * one.hidden_size**2 + 2 * count * one.hidden_size + 2 * one.hidden_size * one.intermediate_size
        )

    patches = (height // vision.patch_size) * (width // vision.patch_size)
    image = (patches + 1) * vision.num_hidden_layers * block(vision, patches + 1)
    image += (
        patches * 3 * vision.patch_size**2 * vision.hidden_size + vision.hidden_size * config.projection_dim
    )
    words = tokens * text.num_hidden_layers * block(text, tokens) + text.hidden_size * config.projection_dim
    assert [subject.count_flops(cell) for cell in cells[:2]] == [2 * 2 * image, 2 * words]


def test_clip_refuses_images_of_another_size_that_nobody_asked_to_time(hf_clip: Path) -> None:
    encoder = load_encoder(f"hf:{hf_clip}")
    with pytest.raises(Exception, match="doesn't match model"):
        encoder.encode_image(torch.zeros(1, 3, 48, 48))


def test_an_end_that_no_text_has_is_refused(hf_clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(hf_clip, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ConfigError, match="eos_token_id is 3, but the tokenizer makes of the text 'a' the ids"
    ):
        load_encoder(f"hf:{folder}")


def test_siglip_equals_transformers_with_texts_padded_to_the_full_context(
    hf_siglip: Path, image: Image.Image
) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer, SiglipModel

    encoder = load_encoder(f"hf:{hf_siglip}")
    tokenizer, model = AutoTokenizer.from_pretrained(hf_siglip), SiglipModel.from_pretrained(hf_siglip).eval()
    inputs = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="pt")
    pixels = AutoImageProcessor.from_pretrained(hf_siglip)(images=image, return_tensors="pt")
    with torch.no_grad():
        own = model(**inputs, **pixels)
    features = encoder.encode_image(encoder.preprocess(image)[None])
    torch.testing.assert_close(features.embedding, own.image_embeds, atol=1e-6, rtol=0)
    torch.testing.assert_close(functional.normalize(features.probe), own.image_embeds, atol=1e-6, rtol=0)
    tokens = encoder.tokenize(TEXTS)
    assert torch.equal(tokens, inputs["input_ids"]) and tokens.shape[1] == 16
    text = encoder.encode_text(tokens)
    torch.testing.assert_close(text, own.text_embeds, atol=1e-6, rtol=0)
    assert encoder.info.logit_bias == -10.0
    scale, bias = encoder.info.logit_scale, encoder.info.logit_bias
    assert scale is not None
    torch.testing.assert_close(scale * features.embedding @ text.T + bias, own.logits_per_image)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_images_of_every_mode_are_taken(hf_clip: Path, image: Image.Image, mode: str) -> None:
    encoder = load_encoder(f"hf:{hf_clip}")
    pixels = encoder.preprocess(image.convert("L").convert(mode) if mode == "LA" else image.convert(mode))
    assert pixels.shape == (3, 32, 32) and pixels.dtype == torch.float32


def vision_folder(kind: str, folder: Path) -> Path:
    import transformers

    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    config, model = {
        "clip": ("CLIPVisionConfig", "CLIPVisionModel"),
        "vit": ("ViTConfig", "ViTModel"),
        "vit-classifier": ("ViTConfig", "ViTForImageClassification"),
        "dinov2": ("Dinov2Config", "Dinov2Model"),
    }[kind]
    torch.manual_seed(0)
    getattr(transformers, model)(getattr(transformers, config)(**sizes)).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["clip", "vit", "vit-classifier", "dinov2"])
def test_vision_only_models_have_no_text_half(kind: str, tmp_path: Path, image: Image.Image) -> None:
    from transformers import AutoModel

    folder = vision_folder(kind, tmp_path / kind)
    encoder = load_encoder(f"hf:{folder}")
    assert not encoder.info.has_text and encoder.info.logit_scale is None
    pixels = encoder.preprocess(image)[None]
    features = encoder.encode_image(pixels)
    with torch.no_grad():
        own = AutoModel.from_pretrained(folder).eval()(pixel_values=pixels)
    # A classifier's file has no pooler: its own class token, not a pooler of random weights, is taken.
    expected = own.last_hidden_state[:, 0] if kind == "vit-classifier" else own.pooler_output
    torch.testing.assert_close(features.probe, expected, atol=1e-6, rtol=0)
    with pytest.raises(UserError, match="vision-only"):
        encoder.tokenize(["a"])
    with pytest.raises(UserError, match="vision-only"):
        encoder.encode_text(torch.zeros(1, 1, dtype=torch.int64))


def test_random_weights_need_only_the_settings_and_are_marked_untrained(
    hf_clip: Path, copy_of: Callable[[Path], Path]
) -> None:
    folder = copy_of(hf_clip)
    (folder / "model.safetensors").unlink()
    a, b = load_encoder(f"hf:{folder}=random:1"), load_encoder(f"hf:{folder}=random:1")
    other = load_encoder(f"hf:{folder}=random:2")
    assert not a.info.trained
    assert a.info.fingerprint == b.info.fingerprint != other.info.fingerprint


def test_pickled_weights_are_read_without_running_code(
    hf_clip: Path, copy_of: Callable[[Path], Path]
) -> None:
    from safetensors.torch import load_file

    folder = copy_of(hf_clip)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    tokens = load_encoder(f"hf:{hf_clip}").tokenize(TEXTS)
    own, pickled = load_encoder(f"hf:{hf_clip}"), load_encoder(f"hf:{folder}")
    assert torch.equal(own.encode_text(tokens), pickled.encode_text(tokens))

    class Trap:
        def __reduce__(self) -> object:
            return Path.touch, (folder / "executed",)

    torch.save({"trap": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        load_encoder(f"hf:{folder}")
    assert not (folder / "executed").exists()


def test_truncated_missing_and_incomplete_weights_are_refused(
    hf_clip: Path, copy_of: Callable[[Path], Path]
) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy_of(hf_clip)
    file = folder / "model.safetensors"
    state, content = load_file(file), file.read_bytes()
    file.write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_encoder(f"hf:{folder}")
    save_file({k: v for k, v in state.items() if "visual_projection" not in k}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="visual_projection"):
        load_encoder(f"hf:{folder}")
    save_file({k: v[:20] if k == "visual_projection.weight" else v for k, v in state.items()}, file)
    with pytest.raises(CheckpointError, match=r"weight is \[20, 48\], expected \[24, 48\]"):
        load_encoder(f"hf:{folder}")
    state["logit_scale"] = torch.tensor(float("inf"))
    save_file(state, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="logit_scale"):
        load_encoder(f"hf:{folder}")
    file.unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        load_encoder(f"hf:{folder}")


def test_folders_and_names_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_encoder(f"hf:{tmp_path / 'none'}")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_encoder(f"hf:{tmp_path}")
    with pytest.raises(UserError, match="hf:owner/repo"):
        load_encoder("hf:clip")
    with pytest.raises(UserError, match="own weights"):
        load_encoder("hf:openai/clip=x.pt")


def test_other_dual_encoders_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip"}))
    with pytest.raises(ConfigError, match="blip"):
        load_encoder(f"hf:{tmp_path}")


def test_the_preprocessing_is_picklable(hf_clip: Path, image: Image.Image) -> None:
    encoder = load_encoder(f"hf:{hf_clip}")
    again = pickle.loads(pickle.dumps(encoder.preprocess))
    assert torch.equal(again(image), encoder.preprocess(image))


def test_the_fingerprint_knows_no_folder(hf_clip: Path, copy_of: Callable[[Path], Path]) -> None:
    here, there = load_encoder(f"hf:{hf_clip}"), load_encoder(f"hf:{copy_of(hf_clip)}")
    assert here.info.fingerprint == there.info.fingerprint


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def cached(hf_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The hub's cache with one repository in it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "models--owner--tiny"
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text("c0ffee")
    shutil.copytree(hf_clip, root / "snapshots/c0ffee")
    return "hf:owner/tiny"


@pytest.mark.usefixtures("no_network")
def test_offline_opens_no_socket_and_takes_what_is_cached(cached: str, hf_clip: Path) -> None:
    encoder = load_encoder(cached, offline=True)
    assert encoder.info.fingerprint == load_encoder(f"hf:{hf_clip}", offline=True).info.fingerprint
    assert encoder.info.name == cached


@pytest.mark.usefixtures("no_network", "cached")
@pytest.mark.parametrize(
    "spec",
    [
        "hf:owner/other",
        "clip-vit-b32=openai",
        "rwkv-clip-b32=hf://owner/repo/model_31.pt",
        "alip-vit-b32=hf://owner/repo/alip.pt",
    ],
)
def test_offline_names_what_is_not_cached(spec: str) -> None:
    with pytest.raises(CheckpointError, match=r"not in the local|local cache"):
        load_encoder(spec, offline=True)


def test_prefetch_of_a_local_folder_fetches_nothing(hf_clip: Path) -> None:
    assert prefetch(f"hf:{hf_clip}") == []
