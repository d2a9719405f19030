"""The validation loss: of which pairs, what it is, and that training does not notice it."""

import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms.v2.functional import normalize, to_dtype, to_image
from train_runs import Run, left_by, lines, ranks, write_recipe

from rwkvclip_eval.errors import UserError
from rwkvclip_models import load_model, tokenize
from rwkvclip_models.transforms import CLIP_MEAN, CLIP_STD
from rwkvclip_train.data.build import open_index
from rwkvclip_train.data.crops import central_crop
from rwkvclip_train.data.held_out import HeldOut, WithoutHeldOut, held_out
from rwkvclip_train.data.open import open_pairs, open_sources, open_validation
from rwkvclip_train.data.pairs import Pairs
from rwkvclip_train.data.synthetic import SyntheticPairs
from rwkvclip_train.loop import train
from rwkvclip_train.recipe import load_recipe

SCENES = [{"dataset": "digits_scenes", "split": "test", "texts": "captions", "repeat": 0.05}]


def run(*arguments, output, **given):
    code, said = Run(*arguments, output=output, **given).wait()
    assert code == 0, said
    return said


def validated(out):
    return {line["step"]: line["val_loss"] for line in lines(out) if "val_loss" in line}


def names(parts):
    return [part.source.key(i) for part in parts for i in range(len(part.source))]


def test_which_pairs_are_held_out_is_a_function_of_name_and_seed():
    few, many = SyntheticPairs(2000), SyntheticPairs(4000)
    held = held_out(few, 0.1, 5).tolist()
    assert 140 < len(held) < 260
    assert [i for i in held_out(many, 0.1, 5).tolist() if i < 2000] == held
    assert held_out(few, 0.1, 6).tolist() != held
    assert set(held) < set(held_out(few, 0.2, 5).tolist())


def test_a_source_is_its_held_out_pairs_and_the_others_in_their_order():
    whole = SyntheticPairs(300)
    held = held_out(whole, 0.1, 0)
    inside, outside = HeldOut(whole, held), WithoutHeldOut(whole, held)
    keys = [[part.key(i) for i in range(len(part))] for part in (inside, outside)]
    assert keys == [list(inside.keys()), list(outside.keys())]
    kept = [key for key in whole.keys() if key not in keys[0]]  # noqa: SIM118  # a source is no mapping
    assert keys[1] == kept and len(keys[0]) + len(kept) == 300
    assert outside.texts(0) == whole.texts(outside.place(0))
    assert len({whole.fingerprint, inside.fingerprint, outside.fingerprint}) == 3
    assert len(WithoutHeldOut(whole, np.array([], dtype=np.int64))) == 300


def test_the_names_of_an_index_are_those_of_its_pairs(tmp_path, monkeypatch):
    from pair_files import as_tar, pairs

    from rwkvclip_train.data import index
    from rwkvclip_train.data.build import build_index

    monkeypatch.setattr(index, "KEYS_AT_ONCE", 2)
    as_tar(tmp_path, pairs())
    build_index(tmp_path)
    source = open_pairs(tmp_path)
    assert list(source.keys()) == [source.key(i) for i in range(len(source))]
    assert len(list(open_index(tmp_path).keys())) == 5


def test_training_never_sees_what_is_held_out(tmp_path):
    data = [{"dataset": "digits", "texts": "kinds"}, {"dataset": "digits", "texts": "templates"}]
    whole = load_recipe(write_recipe(tmp_path, data=data))
    recipe = load_recipe(write_recipe(tmp_path, data=data, validation={"every": 1, "fraction": 0.2}))
    sources = open_sources(recipe, None)
    trained, held = names(sources), names(open_validation(recipe, sources, None))
    assert not set(trained) & set(held)
    assert sorted(trained + held) == sorted(names(open_sources(whole, None)))
    # A pair of two sources is held out of both.
    assert all(held.count(name) == 2 for name in held)
    pairs = Pairs(sources, image_size_px=(8, 8), tokenize=tokenize, augmentation=None, seed=0)
    assert {pairs.name((0, i)) for i in range(len(pairs))} == set(trained)


@pytest.mark.parametrize(
    ("size", "out", "expected"),
    [
        ((100, 60), (8, 8), (20, 0, 60, 60)),
        ((60, 101), (8, 8), (0, 20, 60, 60)),
        ((40, 40), (8, 16), (0, 10, 40, 20)),
    ],
)
def test_the_middle_of_an_image_has_the_shape_of_what_comes_out(size, out, expected):
    assert central_crop(size, out)[:4] == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_is_that_of_the_model_in_eval_mode_on_the_whole_images(tmp_path, precision):
    validation = {"every": 2, "fraction": 0.05}
    path = write_recipe(tmp_path, steps=4, checkpoint_every=2, precision=precision, validation=validation)
    recipe = load_recipe(path)
    trained = train(recipe, tmp_path / "out", progress=False)
    found = validated(tmp_path / "out")
    assert list(found) == [2, 4]
    (part,) = open_validation(recipe, open_sources(recipe, None), None)
    pairs = Pairs([part], image_size_px=(16, 16), tokenize=tokenize, augmentation=None, seed=0)
    order = np.random.default_rng([0, len(pairs)]).permutation(len(pairs))[: len(pairs) // 8 * 8]
    for step, checkpoint in zip((2, 4), trained.checkpoints, strict=True):
        model = load_model(dict(recipe.model.config), checkpoint).eval()
        losses = []
        for batch in order.reshape(-1, 8).tolist():
            images = [
                part.source.image(i).convert("RGB").resize((16, 16), Image.Resampling.BILINEAR) for i in batch
            ]
            pixels = torch.stack(
                [
                    normalize(to_dtype(to_image(i), torch.float32, scale=True), CLIP_MEAN, CLIP_STD)
                    for i in images
                ]
            )
            texts = tokenize([pairs[0, i].text for i in batch], context_length=16)
            with torch.no_grad():
                a, b = (
                    F.normalize(x, dim=-1) for x in (model.encode_image(pixels), model.encode_text(texts))
                )
                logits, labels = model.logit_scale.exp() * a @ b.T, torch.arange(8)
            losses.append((F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2)
        assert found[step] == pytest.approx(
            float(torch.stack(losses).mean()), abs=1e-5 if precision == "fp32" else 0.1
        )


@pytest.mark.parametrize("family", ["rwkv-clip", "open_clip"])
def test_a_run_is_the_same_to_the_byte_with_and_without_validation(tmp_path, family):
    from test_loop_processes import MODELS

    for name, more in (("with", {"validation": {"every": 1, "data": SCENES}}), ("without", {})):
        recipe = load_recipe(
            write_recipe(tmp_path / name, steps=4, checkpoint_every=2, **MODELS[family], **more)
        )
        train(recipe, tmp_path / name / "out", progress=False, num_workers=int(name == "with"))
    one, other = (tmp_path / name / "out" for name in ("with", "without"))
    assert list(validated(one)) == [1, 2, 3, 4]
    assert [line for line in lines(one) if "val_loss" not in line] == lines(other)
    assert (one / "training" / "tiny.keys").read_bytes() == (other / "training" / "tiny.keys").read_bytes()
    for step in (2, 4):
        left = [load_file(f"{out}/models/tiny/step_{step:06d}.safetensors") for out in (one, other)]
        assert all(torch.equal(left[0][key], left[1][key]) for key in left[1])


def test_a_run_killed_between_validations_ends_with_the_same_bytes_and_the_best_by_them(tmp_path):
    changes = {"validation": {"every": 2, "fraction": 0.1}, "keep_last": 1, "keep_best_by": "val_loss"}
    recipe = write_recipe(tmp_path, steps=10, checkpoint_every=4, lr=0.05, **changes)
    run(recipe, "--out", tmp_path / "whole", output=tmp_path / "said")
    for step, workers in ((4, 1), (7, 0)):
        arguments = (recipe, "--out", tmp_path / "cut", "--num-workers", workers)
        assert Run(*arguments, output=tmp_path / "said", dies_at=step).wait()[0] == -signal.SIGKILL
    said = run(recipe, "--out", tmp_path / "cut", output=tmp_path / "said")
    assert left_by(tmp_path / "cut") == left_by(tmp_path / "whole")
    found = validated(tmp_path / "cut")
    assert list(found) == [2, 4, 6, 8, 10]
    best = min((4, 8, 10), key=found.__getitem__)
    kept = sorted(path.name for path in (tmp_path / "cut" / "models" / "tiny").glob("*.safetensors"))
    assert kept == [f"step_{step:06d}.safetensors" for step in sorted({best, 10})]
    assert f"Best by val_loss of the checkpoints that stay: {tmp_path}" in said.replace("\n", "")


def test_processes_and_passes_have_the_same_validation_loss(tmp_path):
    losses = []
    for number, passes in ((1, 1), (2, 1), (1, 2)):
        out = tmp_path / f"{number}-{passes}"
        changes = {"validation": {"every": 1, "data": SCENES}, "precision": "fp64", "accumulation": passes}
        recipe = write_recipe(out, steps=1, **changes)
        for one in ranks(number, recipe, "--out", out, output=tmp_path / "said"):
            code, said = one.wait()
            assert code == 0, said
        losses.append(validated(out)[1])
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-10)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"validation": {"every": 2}}, "give either fraction or data"),
        ({"validation": {"every": 2, "fraction": 0.1, "data": SCENES}}, "give either fraction or data"),
        ({"validation": {"every": 2, "fraction": 1}}, "validation.fraction"),
        ({"keep_best_by": "val_loss"}, "keep_best_by: there is no validation"),
        (
            {"validation": {"every": 3, "fraction": 0.1}, "keep_best_by": "val_loss"},
            "val_loss is measured every 3 steps, of which checkpoint_every 10 is no multiple",
        ),
        ({"validation": {"every": 2, "fraction": 1e-6}}, "validation has 0 pairs; expected at least 2"),
        ({"validation": {"every": 2, "fraction": 0.9999}}, "pairs of digits are held out"),
        ({"validation": {"every": 2, "data": [{"path": "absent", "texts": {"txt": 1}}]}}, "absent"),
    ],
)
def test_a_validation_that_cannot_be_is_refused_before_the_first_step(tmp_path, changes, said):
    with pytest.raises(UserError) as caught:
        train(load_recipe(write_recipe(tmp_path, **changes)), tmp_path / "out", progress=False)
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()
