import json
import linecache
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from rwkvclip_eval.encoders import NonFiniteEmbedding, as_encoder, load_encoder, towers
from rwkvclip_eval.encoders.arithmetic import arithmetic
from rwkvclip_eval.errors import UserError
from rwkvclip_models import load_model


class Noisy(nn.Module):
    """Draws random numbers even in eval mode, has dropout and a part that is frozen in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 4)
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.5)
        self.logit_scale = 50.0

    def encode_image(self, pixels: Tensor) -> Tensor:
        torch.rand(3)
        return self.dropout(self.norm(self.linear(pixels.flatten(1))))


def small(image: Image.Image) -> Tensor:
    return torch.full((3, 2, 2), image.size[0] / 100)


def test_a_training_loop_goes_on_as_if_nothing_had_happened() -> None:
    torch.manual_seed(0)
    module = Noisy().train()
    module.norm.eval()
    statistics = module.norm.running_mean
    assert statistics is not None
    before = statistics.clone()
    switches = (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder = as_encoder(module, name="now", preprocess=small)
        first = encoder.encode_image(torch.ones(2, 3, 2, 2))
        second = encoder.encode_image(torch.ones(2, 3, 2, 2))
        # Casts cached while encoding must not reach the backward pass.
        module.encode_image(torch.ones(2, 3, 2, 2)).sum().backward()
    assert torch.equal(first.embedding, second.embedding)
    assert module.training and module.dropout.training and not module.norm.training
    assert torch.equal(statistics, before)
    assert switches == (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision())
    assert not first.probe.requires_grad and module.linear.weight.grad is not None


def test_encoding_leaves_the_random_generator_alone() -> None:
    state = torch.get_rng_state()
    encoder = as_encoder(Noisy(), name="now", preprocess=small)
    after_building = torch.get_rng_state()
    encoder.encode_image(torch.ones(2, 3, 2, 2))
    assert torch.equal(after_building, torch.get_rng_state())
    assert not torch.equal(state, after_building)  # nn.Linear's own initialisation


def test_vision_only_modules_have_no_text_half() -> None:
    encoder = as_encoder(Noisy(), name="now", preprocess=small)
    assert not encoder.info.has_text and encoder.info.logit_scale is None
    with pytest.raises(UserError, match="also needs an encode_text"):
        as_encoder(Noisy(), name="now", preprocess=small, tokenize=open_clip.tokenize)


def test_encoding_after_a_training_step_is_refused_and_a_new_encoder_has_a_new_fingerprint() -> None:
    module = Noisy().eval()
    encoder = as_encoder(module, name="now", preprocess=small)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    module.encode_image(torch.randn(2, 3, 2, 2)).sum().backward()
    optimizer.step()
    with pytest.raises(UserError, match="weights changed"):
        encoder.encode_image(torch.ones(2, 3, 2, 2))
    again = as_encoder(module, name="now", preprocess=small)
    assert again.info.fingerprint != encoder.info.fingerprint
    assert again.info.checkpoint_sha256 != encoder.info.checkpoint_sha256


def test_rwkv_clip_and_open_clip_models_bring_preprocessing_and_tokenizer(
    in_tmp: Path, image: Image.Image
) -> None:
    rwkv = load_model("rwkv.json", seed=0).train()
    clip = open_clip.CLIP(**json.loads(Path("tiny.json").read_text())).train()
    for module, spec in ((rwkv, "rwkv.json"), (clip, "open_clip:tiny.json")):
        torch.save(module.state_dict(), "w.pt")
        inside, loaded = as_encoder(nn.DataParallel(module), name="now"), load_encoder(f"{spec}=w.pt")
        pixels, tokens = loaded.preprocess(image)[None], loaded.tokenize(["a photo of a cat"])
        assert torch.equal(inside.preprocess(image)[None], pixels)
        assert torch.equal(inside.tokenize(["a photo of a cat"]), tokens)
        # A loaded CLIP keeps its tokens first, one in memory is left as it is: the same but for rounding.
        pairs = (
            (inside.encode_image(pixels).embedding, loaded.encode_image(pixels).embedding),
            (inside.encode_text(tokens), loaded.encode_text(tokens)),
        )
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=0, atol=0 if spec == "rwkv.json" else 1e-6)
        assert module.training and inside.info.name == inside.info.spec == "now"


class Negated(open_clip.CLIP):
    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        return -super().encode_image(image, normalize)


def test_a_subclass_that_encodes_images_in_its_own_way_is_taken_at_its_word(in_tmp: Path) -> None:
    model = Negated(**json.loads(Path("tiny.json").read_text()))
    pixels = torch.randn(1, 3, 32, 32)
    encoder = as_encoder(
        model, name="now", preprocess=lambda _: torch.zeros(3, 32, 32), tokenize=open_clip.tokenize
    )
    with torch.no_grad():
        own = nn.functional.normalize(model.eval().encode_image(pixels))
    torch.testing.assert_close(encoder.encode_image(pixels).embedding, own)


def test_what_a_module_lacks_is_told() -> None:
    with pytest.raises(UserError, match="no encode_image"):
        as_encoder(nn.Linear(2, 2), name="now", preprocess=small)
    with pytest.raises(UserError, match="give preprocess="):
        as_encoder(Noisy(), name="now")
    with pytest.raises(UserError, match=r"\[3, H, W\] float32"):
        as_encoder(Noisy(), name="now", preprocess=lambda image: image)
    with pytest.raises(UserError, match="image tower on one 5×5 px image failed"):
        as_encoder(Noisy(), name="now", preprocess=lambda _: torch.zeros(3, 5, 5))


class Fixed(nn.Module):
    """Returns given embeddings, for the checks."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def encode_image(self, pixels: Tensor) -> Tensor:
        return pixels[:, :, 0, 0] * self.scale

    def encode_text(self, tokens: Tensor) -> Tensor:
        return tokens.float() * self.scale


def fixed() -> object:
    return as_encoder(
        Fixed(),
        name="fixed",
        preprocess=lambda _: torch.ones(3, 2, 2),
        tokenize=lambda texts: torch.ones(len(texts), 3, dtype=torch.int64),
    )


def test_non_finite_embeddings_name_their_rows() -> None:
    encoder = fixed()
    pixels = torch.ones(4, 3, 2, 2)
    pixels[1, 0], pixels[3, 2] = float("nan"), float("inf")
    with pytest.raises(NonFiniteEmbedding, match="2 of 4 rows") as caught:
        encoder.encode_image(pixels)
    assert caught.value.rows == (1, 3)


def test_dead_features_of_norm_zero_are_refused() -> None:
    encoder = fixed()
    with pytest.raises(UserError, match="norm"):
        encoder.encode_image(torch.zeros(2, 3, 2, 2))
    with pytest.raises(UserError, match="norm"):
        encoder.encode_text(torch.zeros(2, 3, dtype=torch.int64))


def test_impossible_devices_and_precisions_are_refused() -> None:
    for device, message in (("gpu", "Unknown device"), ("cuda:x", "is not cpu, cuda")):
        with pytest.raises(UserError, match=message):
            as_encoder(Noisy(), name="f", preprocess=small, device=device)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="'cuda' asked for"):
            load_encoder("clip-vit-b32=random:0", device="cuda")
    with pytest.raises(UserError, match=r"Unknown precision 'fp61'. Did you mean 'fp16'"):
        load_encoder("clip-vit-b32=random:0", precision="fp61")


def test_float32_means_ieee_float32_whatever_the_program_allowed() -> None:
    cudnn = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    try:
        with arithmetic(torch.device("cpu"), "fp32"):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
            assert torch.backends.cudnn.conv.fp32_precision == "ieee"
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32 == cudnn
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.gpu
def test_a_model_on_the_gpu_gives_the_features_of_the_cpu(in_tmp: Path) -> None:
    for spec in ("rwkv.json=random:0", "open_clip:tiny.json=random:0"):
        cpu, cuda = load_encoder(spec), load_encoder(spec, device="cuda")
        pixels, tokens = torch.randn(3, 3, 32, 32), cpu.tokenize(["a", "b"])
        assert cuda.info.device == "cuda"
        image = cuda.encode_image(pixels).embedding.cpu()
        torch.testing.assert_close(image, cpu.encode_image(pixels).embedding, atol=1e-5, rtol=0)
        text = cuda.encode_text(tokens).cpu()
        torch.testing.assert_close(text, cpu.encode_text(tokens), atol=1e-5, rtol=0)


def test_what_is_no_module_is_said_to_be_none() -> None:
    with pytest.raises(UserError, match="expected a spec, an Encoder or a torch module, got int"):
        as_encoder(3, name="model")


def test_an_edit_of_a_users_code_gives_another_description(in_tmp: Path, monkeypatch: Any) -> None:
    import functools
    import importlib
    import sys

    from torchvision import transforms

    source = (
        "import torch\nfrom torchvision.transforms.functional import pil_to_tensor\n"
        "def scale(image, by):\n    return pil_to_tensor(image) * by\n"
        "class Part(torch.nn.Module):\n    def forward(self, x):\n        return x * 1\n"
        "class Whole(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.part = Part()\n    def forward(self, x):\n        return self.part(x)\n"
        "class Transform:\n    def __repr__(self):\n        return 'Transform()'\n"
        "    def __call__(self, x):\n        return x * 1\n"
    )
    monkeypatch.syspath_prepend(in_tmp)

    def described(text: str) -> list[object]:
        (in_tmp / "users_code.py").write_text(text)
        sys.modules.pop("users_code", None)
        importlib.invalidate_caches()
        linecache.clearcache()
        code = importlib.import_module("users_code")
        return [
            towers.describe(code.scale),
            towers.describe(functools.partial(code.scale, by=2)),
            towers.describe(transforms.Compose([transforms.Lambda(code.scale)])),
            towers.describe(code.Transform()),
            towers.describe_module(code.Whole()),
        ]

    before, again = described(source), described(source)
    after = described(source.replace("* by", "* by / 2").replace("x * 1", "x * 10"))
    assert before == again
    assert not [a for a, b in zip(before, after, strict=True) if a == b]


def test_a_transform_of_a_library_is_described_by_its_text() -> None:
    from rwkvclip_models import eval_transform

    assert towers.describe(eval_transform(224)) != towers.describe(eval_transform(192))
    assert " at 0x" not in towers.describe(eval_transform(224))
