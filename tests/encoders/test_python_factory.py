from pathlib import Path

import pytest
import torch
from PIL import Image

from rwkvclip_eval.encoders import load_encoder
from rwkvclip_eval.errors import UserError

TEN_LINES = """
import torch, torchvision
class Mine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = torch.nn.Linear(48, 8), torch.nn.EmbeddingBag(256, 8)
    def encode_image(self, pixels): return self.image(pixels.flatten(1))
    def encode_text(self, tokens): return self.text(tokens)
def preprocess(image): return torchvision.transforms.functional.to_tensor(image.convert("RGB").resize((4, 4)))
def tokenize(texts): return torch.tensor([list(t.encode()[:12].ljust(12)) for t in texts])
def factory(checkpoint, device):
    model = Mine()
    if checkpoint: model.load_state_dict(torch.load(checkpoint, weights_only=True))
    return model, preprocess, tokenize
def typo(checkpoint, device): return Mnie(), preprocess, tokenize
def broken(checkpoint, device): raise RuntimeError("no such layer")
def nothing(checkpoint, device): return 3
value = 3
"""


@pytest.fixture
def module(in_tmp: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    # Its own name in every test, since Python imports a name once.
    name = f"mine_{abs(hash(request.node.name))}"
    (in_tmp / f"{name}.py").write_text(TEN_LINES)
    monkeypatch.syspath_prepend(str(in_tmp))
    return f"python:{name}"


def test_ten_lines_make_a_model(module: str, image: Image.Image) -> None:
    encoder = load_encoder(f"{module}:factory=random:0")
    again = load_encoder(f"{module}:factory=random:0")
    pixels = encoder.preprocess(image)[None]
    assert torch.equal(encoder.encode_image(pixels).embedding, again.encode_image(pixels).embedding)
    assert encoder.encode_text(encoder.tokenize(["a", "longer text"])).shape == (2, 8)
    info = encoder.info
    assert (info.family, info.embed_dim, info.image_size_px, info.context_length) == ("python", 8, (4, 4), 12)
    assert not info.trained and info.fingerprint == again.info.fingerprint


def test_the_checkpoint_is_handed_over_and_hashed(module: str) -> None:
    state = {
        "image.weight": torch.ones(8, 48),
        "image.bias": torch.zeros(8),
        "text.weight": torch.ones(256, 8),
    }
    torch.save(state, "epoch_3.pt")
    encoder = load_encoder(f"{module}:factory=epoch_3.pt")
    assert (encoder.info.step, encoder.info.step_unit) == (3, "epoch") and encoder.info.trained
    torch.testing.assert_close(
        encoder.encode_text(encoder.tokenize(["a"])), torch.full((1, 8), 8**-0.5), atol=1e-6, rtol=0
    )


def test_an_edit_of_the_models_source_gives_another_fingerprint(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(in_tmp))
    found = []
    for name, text in (("mine_a", TEN_LINES), ("mine_b", TEN_LINES.replace("flatten(1)", "flatten(1) * 2"))):
        (in_tmp / f"{name}.py").write_text(text)
        found.append(load_encoder(f"python:{name}:factory=random:0").info.fingerprint)
    assert found[0] != found[1]


OWN_ENCODER = """
import torch
from rwkvclip_eval.encoders import EncoderInfo, ImageFeatures
class Own:
    info = EncoderInfo(name="x", spec="x", family="python", checkpoint_sha256="0", fingerprint="0",
                       embed_dim=2, probe_dim=3, image_size_px=(4, 4), context_length=None, logit_scale=None)
    def preprocess(self, image): return torch.zeros(3, 4, 4)
    def encode_image(self, pixels):
        return ImageFeatures(torch.tensor([[0.6, 0.8]] * len(pixels)), torch.ones(len(pixels), 3))
class NoImage:
    info = Own.info
def factory(checkpoint, device): return Own()
def lacking(checkpoint, device): return NoImage()
"""


def test_an_encoder_of_ones_own_is_taken_under_the_name_of_the_run(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(in_tmp))
    (in_tmp / "own_encoder.py").write_text(OWN_ENCODER)
    encoder = load_encoder("python:own_encoder:factory=x/epoch_4.pt")
    assert encoder.info.spec == "python:own_encoder:factory=epoch_4.pt" and encoder.info.step == 4
    assert encoder.encode_image(torch.zeros(2, 3, 4, 4)).probe.shape == (2, 3)
    with pytest.raises(UserError, match="NoImage lacks preprocess, encode_image"):
        load_encoder("python:own_encoder:lacking")


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("", "is not python:package.module:factory"),
        (":factroy", "Did you mean 'factory'"),
        (":value", "is a int, not a function"),
        (":broken", "failed with RuntimeError: no such layer"),
        (":nothing", "expected an Encoder .* or a triple .* got int"),
        (":typo", "NameError"),
        (":factory=none.pt", "FileNotFoundError"),
        (":factory=x.pt@ema", "choose in the factory"),
    ],
)
def test_what_goes_wrong_in_a_factory_is_told(module: str, suffix: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_encoder(module + suffix)


def test_a_module_that_is_not_there_is_named(in_tmp: Path) -> None:
    with pytest.raises(UserError, match="no module named 'not_there'"):
        load_encoder("python:not_there.models:factory")
    (in_tmp / "syntax_error.py").write_text("def f(:")
    with pytest.raises(UserError, match="SyntaxError"):
        load_encoder("python:syntax_error:f")
