import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rwkvclip_eval.encoders import (
    ENCODERS,
    EncoderInfo,
    EncoderSpec,
    ImageFeatures,
    list_models,
    load_encoder,
    parse_spec,
    prefetch,
    register_encoder,
)
from rwkvclip_eval.errors import UserError


def test_every_family_is_listed_with_a_spec_that_parses_and_belongs_to_it() -> None:
    from rwkvclip_eval.encoders import family_of

    rows = list_models()
    assert {row["family"] for row in rows} >= {"rwkv-clip", "open_clip", "hf", "python"}
    for row in rows:
        assert family_of(parse_spec(row["example"])) is ENCODERS.get(row["name"])


def test_names_are_listed_without_loading_a_model_library() -> None:
    code = (
        "import sys; from rwkvclip_eval import encoders; encoders.list_models(); "
        "encoders.expand_specs(['a=b']); "
        "sys.exit(', '.join({'torch', 'open_clip', 'transformers', 'torchvision'} & set(sys.modules)) or 0)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Constant:
    def __init__(self, norm: float = 1.0) -> None:
        self.norm = norm
        self.info = EncoderInfo(
            name="-",
            spec="-",
            family="plugin",
            checkpoint_sha256="0",
            fingerprint="0",
            embed_dim=2,
            probe_dim=2,
            image_size_px=(2, 2),
            context_length=4,
            logit_scale=1.0,
        )

    def preprocess(self, image: object) -> torch.Tensor:
        return torch.zeros(3, 2, 2)

    def encode_image(self, pixels: torch.Tensor) -> ImageFeatures:
        embedding = torch.tensor([[self.norm, 0.0]] * len(pixels))
        return ImageFeatures(embedding, embedding)

    def tokenize(self, texts: object) -> torch.Tensor:
        return torch.zeros(1, 4, dtype=torch.int64)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(tokens), 3)


def test_a_registered_family_is_loaded_by_name_and_its_output_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ENCODERS, "_entries", dict(ENCODERS._entries))

    def load(spec: EncoderSpec, **options: object) -> Constant:
        assert options == {"device": "cpu", "precision": "fp32", "implementation": "auto", "offline": False}
        return Constant(norm=float(spec.checkpoint or 1))

    register_encoder("constant", load)
    encoder = load_encoder("constant")
    assert encoder.info.name == "constant" and prefetch("constant") == []
    encoder.encode_image(torch.zeros(2, 3, 2, 2))
    with pytest.raises(UserError, match="norm 1, got 2"):
        load_encoder("constant=2").encode_image(torch.zeros(2, 3, 2, 2))
    with pytest.raises(UserError, match=r"shape \[1, 3\], expected \[1, 2\]"):
        encoder.encode_text(encoder.tokenize(["a"]))
    with pytest.raises(UserError, match="taken"):
        register_encoder("clip-vit-b32", load)


def test_a_path_where_a_model_is_named_says_how_to_name_one(tmp_path: Path) -> None:
    (tmp_path / "model_31.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"model_31\.pt' is a file, not the name of a model; write NAME="):
        load_encoder(str(tmp_path / "model_31.pt"))
    with pytest.raises(UserError, match="is a folder"):
        load_encoder(str(tmp_path))
    for text, kind in (
        (f"{tmp_path}/step_*.pt", "a pattern of files"),
        ("runs/absent.safetensors", "the path of a checkpoint"),
    ):
        with pytest.raises(UserError) as caught:
            load_encoder(text)
        assert f"{text!r} is {kind}, not the name of a model; write NAME={text}" in str(caught.value)
        assert f"'rwkv-clip-b32={text}'" in str(caught.value)
