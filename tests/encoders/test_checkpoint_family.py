"""A checkpoint given under the name of another kind of model is told what it is, for every pair."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from rwkvclip_eval.encoders import load_encoder
from rwkvclip_eval.errors import CheckpointError
from rwkvclip_models import load_model
from rwkvclip_models.checkpoint_family import FAMILIES, key_family

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
PICTURE = {"image_size": 32, "patch_size": 16}
NAMES = {
    "rwkv": "an RWKV-CLIP",
    "open_clip": "a CLIP as OpenAI, open_clip and ALIP write it",
    "custom": "an open_clip model with a text tower of its own",
    "coca": "a CoCa of open_clip's",
    "hf_clip": "a Hugging Face CLIP",
    "hf_siglip": "a Hugging Face SigLIP",
    "hf_vit": "a vision tower of Hugging Face's",
    "hf_dino": "a vision tower of Hugging Face's",
}


@pytest.fixture(scope="module")
def states(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_configs: dict[str, dict[str, Any]],
    hf_clip: Path,
    hf_siglip: Path,
) -> dict[str, dict[str, torch.Tensor]]:
    config = tmp_path_factory.mktemp("configs") / "rwkv.json"
    config.write_text(json.dumps(tiny_configs["rwkv"]))
    clip = tiny_configs["open_clip"]
    coca = clip | {
        "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    }
    coca["text_cfg"] = coca["text_cfg"] | {"context_length": 76, "embed_cls": True, "output_tokens": True}
    coca["vision_cfg"] = coca["vision_cfg"] | {
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    }
    models: dict[str, Any] = {
        "rwkv": load_model(config, seed=0),
        "open_clip": open_clip.CLIP(**clip),
        "custom": open_clip.CustomTextCLIP(**clip),
        "coca": open_clip.CoCa(**coca),
        "hf_vit": ViTModel(ViTConfig(**TOWER, **PICTURE)),
        "hf_dino": Dinov2Model(Dinov2Config(**TOWER, **PICTURE)),
    }
    found = {name: model.state_dict() for name, model in models.items()}
    found |= {f.name.replace("tiny", "hf"): load_file(f / "model.safetensors") for f in (hf_clip, hf_siglip)}
    return found


def test_every_kind_is_told_by_its_keys(states: dict[str, dict[str, torch.Tensor]]) -> None:
    assert {name: getattr(key_family(state), "name", None) for name, state in states.items()} == NAMES
    assert key_family(["a.weight", "b.bias"]) is None
    for keys, name in (
        (["blocks.0.attn.qkv.weight", "patch_embed.proj.weight"], "a ViT as timm and DINO write it"),
        (["conv1.weight", "layer1.0.conv1.weight", "fc.weight"], "a ResNet as torchvision writes it"),
        (["emb.weight", "blocks.0.att.time_decay", "head.weight"], "an RWKV language model"),
        (["bert.embeddings.word_embeddings.weight"], "a text model of Hugging Face's"),
    ):
        assert getattr(key_family(keys), "name", None) == name
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize("named", ["rwkv.json={}", "open_clip:tiny.json={}", "open_clip:custom.json={}"])
def test_a_file_of_another_kind_is_told_what_it_is_and_how_it_is_given(
    states: dict[str, dict[str, torch.Tensor]],
    tiny_configs: dict[str, dict[str, Any]],
    in_tmp: Path,
    named: str,
) -> None:
    Path("custom.json").write_text(json.dumps(tiny_configs["open_clip"] | {"custom_text": True}))
    own = {"rwkv.json={}": {"rwkv"}}.get(named, {"open_clip", "custom"})
    for name in states.keys() - own:
        torch.save(states[name], "weights.pt")
        with pytest.raises(CheckpointError) as caught:
            load_encoder(named.format("weights.pt"))
        said = str(caught.value)
        assert f"weights.pt holds {NAMES[name]} (keys such as " in said, said
        assert len(said) < 400, said
    torch.save(states["rwkv"], "weights.pt")
    if "rwkv" not in own:
        with pytest.raises(CheckpointError, match=r"give it as rwkv-clip-b32=weights\.pt"):
            load_encoder(named.format("weights.pt"))


@pytest.mark.parametrize("folder", ["hf_clip", "hf_siglip"])
def test_a_hugging_face_folder_with_other_weights_is_told_what_they_are(
    states: dict[str, dict[str, torch.Tensor]],
    folder: str,
    hf_clip: Path,
    hf_siglip: Path,
    copy_of: Callable[[Path], Path],
) -> None:
    for name in states.keys() - {folder}:
        copy = copy_of({"hf_clip": hf_clip, "hf_siglip": hf_siglip}[folder])
        tensors = {key: value.contiguous().clone() for key, value in states[name].items()}
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError) as caught:
            load_encoder(f"hf:{copy}")
        shutil.rmtree(copy)
        if {folder, name} != {"hf_clip", "hf_siglip"}:
            assert f"model.safetensors holds {NAMES[name]} (keys such as " in str(caught.value), name
        assert len(str(caught.value)) < 1500
