import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from rwkvclip_models.config import load_config
from rwkvclip_train.cli import main
from rwkvclip_train.flavour import Quirks
from rwkvclip_train.recipe import Recipe, RecipeError, load_recipe, shipped_recipes
from rwkvclip_train.recipe_keys import recipe_page, recipe_rows

GOOD = {
    "name": "small",
    "model": {"family": "open_clip", "config": {"embed_dim": 8}},
    "data": [{"dataset": "digits", "texts": "templates"}],
    "steps": 10,
    "batch_size": 4,
    "lr": 0.001,
}

RWKV = GOOD | {"model": {"family": "rwkv-clip", "config": {}}, "batch_size": 8}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "recipe.yaml"
    content = {key: value for key, value in (GOOD | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_recipe_file_gives_the_values_it_states(tmp_path):
    recipe = load_recipe(write(tmp_path, warmup_fraction=0.2))
    assert (recipe.name, recipe.steps, recipe.warmup_fraction, recipe.betas) == (
        "small",
        10,
        0.2,
        (0.9, 0.98),
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"warmup_fracton": 0.1}, "Did you mean 'warmup_fraction'"),
        (
            {"augmentation": {"horizontal_flp": 0}},
            "recipe.yaml:2: augmentation.horizontal_flp: unknown key 'horizontal_flp'. "
            "Did you mean 'horizontal_flip'",
        ),
        ({"lr": -1}, "lr: Input should be greater than 0 (got -1)"),
        ({"lr": None}, "recipe.yaml:1: lr: the key 'lr' is missing."),
        ({"epochs": 3}, "give either steps or epochs"),
        ({"steps": None}, "give either steps or epochs"),
        ({"batch_size": 1}, "batch_size: Input should be greater than or equal to 2"),
        ({"betas": [0.9, 1.0]}, "betas: the second must be in [0, 1)"),
        ({"augmentation": {"crop_area": [0.9, 0.5]}}, "crop_area: expected [low, high]"),
        (
            {"model": {"family": "clip", "config": {}}},
            "model.family: Input should be 'rwkv-clip' or 'open_clip'",
        ),
        ({"data": []}, "data: the list is empty"),
        ({"name": "../escape"}, "name: String should match pattern"),
    ],
)
def test_a_misfit_is_named_with_its_key(tmp_path, changes, said):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, **changes))
    assert said in str(caught.value)
    assert "recipe.yaml" in str(caught.value)


def test_all_misfits_are_listed_at_once(tmp_path):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, lr=0, batch_size="many"))
    assert len(str(caught.value).splitlines()) == 2


def test_an_unknown_shipped_name_lists_near_matches():
    with pytest.raises(RecipeError, match="Did you mean 'nano-digits-clip'"):
        load_recipe("nano-digit-clip")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match="No recipe at"):
        load_recipe(tmp_path / "absent.yaml")


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "just words"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"odd\.yaml"):
        load_recipe(path)


def test_a_batch_larger_than_the_data_is_refused_with_the_key():
    with pytest.raises(RecipeError, match="batch_size is 4, but data holds only 3"):
        Recipe.model_validate(GOOD).num_steps(3)


def test_epochs_count_whole_batches_only():
    recipe = Recipe.model_validate({**GOOD, "steps": None, "epochs": 3})
    assert recipe.num_steps(11) == 6


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_loads_under_its_own_name(name):
    assert load_recipe(name).name == name


@pytest.mark.parametrize("name", [n for n in shipped_recipes() if n.endswith(("-b32", "-b16"))])
def test_recipes_of_the_paper_have_the_released_models_and_the_official_options(name):
    recipe = load_recipe(name)
    size = name.rpartition("-")[2]
    assert load_config(recipe.model.config) == load_config(f"rwkv-clip-{size}")
    stated = (recipe.lr, recipe.weight_decay, recipe.betas, recipe.warmup_fraction, recipe.clip_norm)
    assert stated == (1e-3, 0.2, (0.9, 0.98), 0.1, 1.0)
    assert (recipe.batch_size, recipe.epochs, recipe.precision, recipe.seed) == (512 * 8, 32, "bf16", 0)
    crop = recipe.augmentation
    assert (crop.crop_area, crop.crop_aspect, crop.horizontal_flip) == ((0.7, 1.0), (0.8, 1.25), 0.5)
    assert [source.texts for source in recipe.data] == [{"raw": 1, "synthetic": 1, "generated": 1}]
    assert recipe.flavour == "corrected"


def test_the_corrected_flavour_is_the_default_and_has_no_quirk_the_official_one_has_all():
    corrected, official = (
        Recipe.model_validate({**RWKV, **given}) for given in ({}, {"flavour": "official"})
    )
    assert set(corrected.quirks.model_dump().values()) == {False}
    assert set(official.quirks.model_dump().values()) == {True}
    differ = {k for k, v in official.model_dump().items() if v != corrected.model_dump()[k]}
    assert differ == {"flavour", "quirks"}
    assert (official.tower_gradient_scale, corrected.tower_gradient_scale) == (1 / 8, 1)
    assert Recipe.model_validate(official.model_dump()) == official


@pytest.mark.parametrize("quirk", list(Quirks.model_fields))
def test_a_single_quirk_is_switched_in_either_flavour(tmp_path, quirk):
    path = write(tmp_path, model=RWKV["model"], batch_size=8)
    for flavour, value in (("official", False), ("corrected", True)):
        recipe = load_recipe(path, [f"flavour={flavour}", f"quirks.{quirk}={str(value).lower()}"])
        expected = dict.fromkeys(Quirks.model_fields, not value) | {quirk: value}
        assert recipe.quirks.model_dump() == expected


def test_a_clip_has_no_text_decay_to_keep_in_bfloat16():
    official = Recipe.model_validate({**GOOD, "batch_size": 8, "flavour": "official"})
    assert not official.quirks.text_decay_bfloat16
    with pytest.raises(ValidationError, match="family open_clip has no such parameters"):
        Recipe.model_validate({**GOOD, "quirks": {"text_decay_bfloat16": True}})


def test_all_that_cannot_go_together_is_listed_at_once(tmp_path):
    changes = [
        "betas=[1.5, 0.9]",
        "accumulation=3",
        "flavour=official",
        "world_size=3",
        "lock=[text]",
        "epochs=2",
    ]
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, model=RWKV["model"]), [*changes, "precision=fp64"])
    for said in (
        "give either steps or epochs",
        "betas: the first must be in [0, 1), got 1.5",
        "accumulation: batch_size 4 has no 3 equal parts",
        "quirks.shuffle_buffer_order: batch_size 4 has no 9 equal shares",
        "quirks.text_decay_bfloat16: precision fp64",
        "lock: a tower of random weights would stay one",
    ):
        assert said in str(caught.value)
    with pytest.raises(RecipeError, match="lock: both towers are"):
        load_recipe(write(tmp_path), ["lock=[text, image]", "init=weights.pt"])


def test_set_changes_single_keys_with_yaml_values_later_ones_prevailing(tmp_path):
    changes = ["lr=5e-4", "lr=0.002", "data.0.repeat=3", "betas=[0.8, 0.9]", "steps=null", "epochs=2"]
    changes += ["augmentation.horizontal_flip=0.5", "name=other", "model.config.embed_dim=16"]
    recipe = load_recipe(write(tmp_path), changes)
    assert (recipe.lr, recipe.data[0].repeat, recipe.betas) == (0.002, 3, (0.8, 0.9))
    assert (recipe.steps, recipe.epochs, recipe.name) == (None, 2, "other")
    assert recipe.augmentation.horizontal_flip == 0.5
    assert recipe.model.config == {"embed_dim": 16}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("lr", "--set: expected KEY=VALUE, as quirks.beta1_cycle=true, got 'lr'"),
        ("=3", "--set: expected KEY=VALUE"),
        ("lr=1e30", "--set lr: Input should be less than or equal to 1 (got 1e+30)"),
        ("lr=fast", "--set lr: Input should be a valid number (got 'fast')"),
        ("lr=.nan", "--set lr: Input should be a finite number"),
        ("lr=[", "--set lr:1: not valid YAML"),
        ("steps='3'", "--set steps: Input should be a valid integer (got '3')"),
        ("lrr=1", "--set lrr: unknown key 'lrr'. Did you mean 'lr'"),
        (
            "quirks.beta1_cycl=true",
            "--set quirks.beta1_cycl: unknown key 'beta1_cycl'. Did you mean 'beta1_cycle'",
        ),
        ("lr.low=1", "--set lr.low: lr is 0.001, which has no keys of its own"),
        ("data.1.repeat=2", "--set data.1.repeat: data is a list; expected a number below 1, got '1'"),
        ("data.first.repeat=2", "got 'first'"),
        ("flavour=officia", "--set flavour: Input should be 'official' or 'corrected' (got 'officia')"),
        ("quirks=3", "--set quirks: expected a mapping"),
    ],
)
def test_a_change_that_does_not_fit_is_named(tmp_path, change, said):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path), [change])
    assert said in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_every_key_of_a_recipe_is_documented_on_its_page_and_by_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = recipe_rows()
    assert all(meaning for _, _, meaning in rows), [key for key, _, meaning in rows if not meaning]
    keys = {key for key, _, _ in rows}
    assert {"batch_size", "model.family", "data.texts", "augmentation.crop_area"} <= keys
    page = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
    assert page.read_text(encoding="utf-8") == recipe_page()
    assert [line.split("\t")[0] for line in explain(monkeypatch, capsys)[1:]] == [r[0] for r in rows]


def test_explain_shows_a_key_with_those_below_it_and_near_matches_of_what_is_none(monkeypatch, capsys):
    lines = explain(monkeypatch, capsys, "quirks")
    assert [line.split("\t")[0] for line in lines[1:]] == [
        "quirks",
        *(f"quirks.{q}" for q in Quirks.model_fields),
    ]
    assert "`False`; official `True`" in lines[2]
    assert [line.split("\t")[:2] for line in explain(monkeypatch, capsys, "lr")[1:]] == [["lr", "needed"]]
    monkeypatch.setattr(sys, "argv", ["rwkvclip-train", "--explain", "quirk"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "Unknown recipe key 'quirk'. Did you mean 'quirks'?" in capsys.readouterr().err


def explain(monkeypatch, capsys, *key):
    """Return the lines that `rwkvclip-train --explain KEY` prints."""
    monkeypatch.setattr(sys, "argv", ["rwkvclip-train", "--explain", *key])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    return capsys.readouterr().out.splitlines()
