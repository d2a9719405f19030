from pathlib import Path

import pytest

from rwkvclip_eval.encoders import expand_specs, parse_spec
from rwkvclip_eval.encoders.spec import parse_step
from rwkvclip_eval.errors import UserError


def touch(*paths: str) -> None:
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_spec_is_a_name_and_perhaps_a_checkpoint_and_ema() -> None:
    spec = parse_spec("open_clip:ViT-B-32=runs/x/epoch_5.pt@ema")
    assert (spec.model, spec.checkpoint, spec.ema, spec.step) == (
        "open_clip:ViT-B-32",
        "runs/x/epoch_5.pt",
        True,
        5,
    )
    assert parse_spec("hf:openai/clip-vit-base-patch32").checkpoint is None
    assert parse_spec("clip-vit-b32=random:7").seed == 7


@pytest.mark.parametrize(
    "text", ["", "=x.pt", "clip-vit-b32=", "a=random:x", "a=random:-1", "a=random:0@ema"]
)
def test_a_malformed_spec_says_the_form_expected(text: str) -> None:
    with pytest.raises(UserError, match=r"NAME=CHECKPOINT|random:SEED"):
        parse_spec(text)


@pytest.mark.parametrize(
    ("name", "step", "unit"),
    [
        ("epoch_5.pt", 5, "epoch"),
        ("model_31.pt", 31, "epoch"),
        ("ViT-B-32_epoch_12.pt", 12, "epoch"),
        ("epoch_3_step_900.pt", 900, "step"),
        ("step=1000-loss0.25.ckpt.pt", 1000, "step"),
        ("global_step70.pt", 70, "step"),
        ("checkpoint-00040.safetensors", 40, ""),
        ("weights7.pt", 7, ""),
        ("ViT-B-32_latest.pt", None, ""),
        ("openai", None, ""),
        ("laion2b_s34b_b79k", None, ""),
        ("random:3", None, ""),
        ("hf://o/r/model_31.pt", 31, "epoch"),
    ],
)
def test_the_step_or_epoch_is_read_from_the_file_name(name: str, step: int | None, unit: str) -> None:
    assert parse_step(name) == (step, unit)
    spec = parse_spec(f"rwkv-clip-b32={name}")
    assert (spec.step, spec.step_unit) == (step, unit)


def test_a_glob_stands_for_every_checkpoint_in_numeric_step_order(in_tmp: Path) -> None:
    touch("runs/x/epoch_10.pt", "runs/x/epoch_2.pt", "runs/x/epoch_latest.pt")
    specs = expand_specs(["rwkv-clip-b32=runs/x/epoch_*.pt"])
    assert [s.name for s in specs] == [
        "rwkv-clip-b32@epoch_2",
        "rwkv-clip-b32@epoch_10",
        "rwkv-clip-b32@epoch_latest",
    ]
    assert [s.step for s in specs] == [2, 10, None]
    assert [s.step_unit for s in specs] == ["epoch", "epoch", ""]
    assert specs[0].text == "rwkv-clip-b32=runs/x/epoch_2.pt"


def test_a_glob_keeps_steps_and_epochs_apart(in_tmp: Path) -> None:
    touch("runs/step_3.pt", "runs/epoch_20.pt", "runs/epoch_1.pt", "runs/step_200.pt")
    specs = expand_specs(["rwkv-clip-b32=runs/*_*.pt"])
    assert [s.name.partition("@")[2] for s in specs] == ["epoch_1", "epoch_20", "step_3", "step_200"]


def test_the_names_of_a_glob_stay_when_later_checkpoints_appear(in_tmp: Path) -> None:
    touch("runs/epoch_1.pt")
    before = expand_specs(["clip-vit-b32=runs/epoch_*.pt@ema"])
    touch("runs/epoch_2.pt")
    after = expand_specs(["clip-vit-b32=runs/epoch_*.pt@ema"])
    assert [s.name for s in before] == ["clip-vit-b32@epoch_1-ema"]
    assert after[0] == before[0] and after[1].ema


def test_a_glob_without_match_is_an_error(in_tmp: Path) -> None:
    with pytest.raises(UserError, match=r"no file matches 'runs/epoch_\*.pt'"):
        expand_specs(["rwkv-clip-b32=runs/epoch_*.pt"])


def test_names_are_short_while_they_are_unique() -> None:
    specs = expand_specs(["clip-vit-b32=openai", "rwkv-clip-b32=a/model_31.pt"])
    assert [s.name for s in specs] == ["clip-vit-b32", "rwkv-clip-b32"]
    shared = expand_specs(["m=a/x.pt", "m=b/x.pt", "m=random:0"])
    assert [s.name for s in shared] == ["m@x", "m@x#2", "m@random:0"]


def test_the_same_model_twice_is_refused() -> None:
    with pytest.raises(UserError, match="more than once"):
        expand_specs(["m=x.pt", "m=x.pt"])


@pytest.mark.parametrize(
    ("text", "name", "public"),
    [
        ("/home/me/secret/own.json=/home/me/x/e_1.pt@ema", "own", "own.json=e_1.pt@ema"),
        ("open_clip:/home/me/own.json=x/e_1.pt", "open_clip:own", "open_clip:own.json=e_1.pt"),
        ("hf:./home/tiny", "hf:tiny", "hf:tiny"),
        ("hf:owner/repo", "hf:owner/repo", "hf:owner/repo"),
        ("a=hf://owner/repo/m.pt", "a", "a=hf://owner/repo/m.pt"),
        ("python:pkg.mod:make=/home/x.pt", "python:pkg.mod:make", "python:pkg.mod:make=x.pt"),
    ],
)
def test_display_name_and_public_text_hold_no_folder_of_this_machine(
    text: str, name: str, public: str
) -> None:
    spec = parse_spec(text)
    assert (spec.name, spec.public_text) == (name, public)
