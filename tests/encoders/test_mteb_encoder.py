"""Models of the package mteb as encoders: its own code makes the features."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from rwkvclip_eval.encoders import load_encoder
from rwkvclip_eval.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ["a photo of a cat", "naïve façade 猫 🐈, twice"]


@pytest.fixture
def folder(hf_clip: Path, tmp_path: Path) -> Path:
    """The tiny CLIP with a tokenizer that knows, as real ones do, how long a text may be."""
    target = tmp_path / "own" / "tiny_clip"
    shutil.copytree(hf_clip, target)
    settings = json.loads((target / "tokenizer_config.json").read_text())
    (target / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 20}))
    return target


@pytest.fixture
def local_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A name under which mteb's implementation of CLIP loads the tiny one."""
    mteb = pytest.importorskip("mteb", reason="mteb is not installed")
    from mteb.models.model_implementations import MODEL_REGISTRY
    from mteb.models.model_implementations.clip_models import CLIPModel

    own = mteb.get_model_meta("openai/clip-vit-base-patch32")
    # Its names have two parts; so has a relative path.
    name = "/".join(folder.parts[-2:])
    monkeypatch.chdir(folder.parents[1])
    changes = {"name": name, "loader": CLIPModel, "revision": None}
    monkeypatch.setitem(MODEL_REGISTRY, name, own.model_copy(update=changes))
    return name


def pictures() -> list[Image.Image]:
    """Return pictures of three sizes, which only their own bytes can stand for in one batch."""
    gradient = Image.linear_gradient("L")
    return [Image.merge("RGB", (gradient, gradient.rotate(90 * i), gradient)).resize((40 + 9 * i, 37))
            for i in range(3)]  # fmt: skip


def test_its_features_are_those_of_the_same_weights_here(local_model: str, folder: Path) -> None:
    theirs, ours = load_encoder(f"mteb:{local_model}"), load_encoder(f"hf:{folder}")
    images: Any = [theirs.preprocess(image) for image in pictures()]
    same = torch.stack([ours.preprocess(image) for image in pictures()])
    torch.testing.assert_close(
        theirs.encode_image(images).embedding, ours.encode_image(same).embedding, atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        theirs.encode_text(theirs.tokenize(TEXTS)),
        ours.encode_text(ours.tokenize(TEXTS)),
        atol=1e-6,
        rtol=0,
    )
    info = theirs.info
    assert (info.family, info.embed_dim, info.implementation) == ("mteb", 24, "mteb")
    assert info.has_text and info.num_parameters == ours.info.num_parameters
    assert info.fingerprint != ours.info.fingerprint


def test_other_weights_have_another_fingerprint(local_model: str, folder: Path) -> None:
    from mteb.models.model_implementations.clip_models import CLIPModel

    before = load_encoder(f"mteb:{local_model}").info
    original = CLIPModel.__init__

    def changed(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        with torch.no_grad():
            self.model.visual_projection.weight.mul_(1.5)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(CLIPModel, "__init__", changed)
        after = load_encoder(f"mteb:{local_model}").info
    assert before.fingerprint != after.fingerprint
    assert before.fingerprint == load_encoder(f"mteb:{local_model}").info.fingerprint


def test_a_whole_suite_runs_with_one(local_model: str) -> None:
    import rwkvclip_eval as rc

    results = rc.evaluate(f"mteb:{local_model}", "quickstart", limit=40)
    assert {r.status for r in results.records} == {"ok"}
    assert {r.task for r in results.records} == {"zero_shot_classification", "zero_shot_retrieval"}


def test_a_failure_of_its_code_is_one_message(local_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mteb.models.model_implementations.clip_models import CLIPModel

    encoder = load_encoder(f"mteb:{local_model}")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such device")

    monkeypatch.setattr(CLIPModel, "get_text_embeddings", broken)
    with pytest.raises(UserError, match=r"mteb fails on a batch of text \(RuntimeError: no such device\)"):
        encoder.encode_text(encoder.tokenize(["a"]))


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("mteb:openai/clip-vit-base-patch33", "Did you mean: 'openai/clip-vit-base-patch32'"),
        ("mteb:intfloat/multilingual-e5-small", "it reads no images"),
        ("mteb:openai/clip-vit-base-patch32=model.pt", "mteb loads its own weights"),
    ],
)
def test_what_cannot_be_an_encoder_is_one_message(spec: str, told: str) -> None:
    pytest.importorskip("mteb", reason="mteb is not installed")
    with pytest.raises(UserError, match=told):
        load_encoder(spec)


def test_a_model_that_wants_instructions_or_another_similarity_is_refused(
    local_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mteb.models.model_implementations import MODEL_REGISTRY

    own = MODEL_REGISTRY[local_model]
    for change, told in (
        ({"use_instructions": True}, "wants an instruction for each task"),
        ({"similarity_fn_name": "dot"}, "compares by dot"),
    ):
        monkeypatch.setitem(MODEL_REGISTRY, local_model, own.model_copy(update=change))
        with pytest.raises(UserError, match=told):
            load_encoder(f"mteb:{local_model}")


def test_without_the_package_there_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(UserError, match="needs the package mteb, which is not installed: pip install mteb"):
        load_encoder("mteb:openai/clip-vit-base-patch32")
