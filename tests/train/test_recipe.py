import sys
from pathlib import Path

import pytest
import yaml

from rwkvclip_train.cli import main
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


def test_every_key_of_a_recipe_is_documented_on_its_page_and_by_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = recipe_rows()
    assert all(meaning for _, _, meaning in rows), [key for key, _, meaning in rows if not meaning]
    keys = {key for key, _, _ in rows}
    assert {"batch_size", "model.family", "data.texts", "augmentation.crop_area"} <= keys
    page = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
    assert page.read_text(encoding="utf-8") == recipe_page()
    monkeypatch.setattr(sys, "argv", ["rwkvclip-train", "--keys"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()[1:]] == [r[0] for r in rows]
