"""The recipe: everything that decides what a training run computes, read from YAML and checked before it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from rwkvclip_eval.data.prompts import MOST_LETTERS
from rwkvclip_eval.data.types import FolderName, VersionName
from rwkvclip_eval.errors import UserError, joined, shown
from rwkvclip_eval.registry import unknown_name
from rwkvclip_eval.schema import Strict, readable
from rwkvclip_eval.yaml_file import YAML_LIMIT_BYTES, mistakes, parse_yaml
from rwkvclip_models.files import read_text

RECIPES = Path(__file__).parent / "recipes"
MAX_STEPS = 1_000_000_000

Fraction = Annotated[float, Field(ge=0, le=1)]


def _with_class_name(template: str) -> str:
    if "{c}" not in readable(template):
        raise ValueError(f"expected {{c}} where the class name goes, got {shown(template)}")
    return template


Templates = Annotated[
    tuple[Annotated[str, Field(max_length=MOST_LETTERS), AfterValidator(_with_class_name)], ...],
    Field(min_length=1, max_length=1000),
]
Name = Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class RecipeError(UserError):
    """A recipe that does not say what it should, or asks for the impossible; the text names the key."""


class ModelRecipe(Strict):
    """The model to train, from scratch."""

    family: Literal["rwkv-clip", "open_clip"] = Field(
        description="rwkv-clip: RWKV-CLIP's towers; open_clip: any CLIP that open_clip builds from a config"
    )
    config: dict[str, Any] = Field(
        description="the keys of an official-format RWKV-CLIP config, or of an open_clip model config"
    )


class DataRecipe(Strict):
    """One dataset split to train on."""

    dataset: VersionName = Field(
        description="NAME or NAME@VARIANT, as suites write it; wds_* folders are under --data-root"
    )
    split: FolderName = Field("train", description="never a split that the model will be scored on")
    texts: Literal["captions", "templates", "kinds"] | Templates = Field(
        description="what an image's texts are. captions: those of a retrieval dataset; templates: the "
        "prompts of a classification dataset with the class name in; a list: the same with these templates, "
        "{c} standing for the class name; kinds: raw, caption and description of the embedded digits"
    )
    repeat: int = Field(
        1, gt=0, le=MAX_STEPS, description="how often an epoch sees each of its images, to balance datasets"
    )


class AugmentationRecipe(Strict):
    """Random resized crop and flip; the defaults are the official script's, but for the flip."""

    crop_area: tuple[Fraction, Fraction] = Field((0.7, 1.0), description="share of the image's area kept")
    crop_aspect: tuple[float, float] = Field((0.8, 1.25), description="width / height of the crop")
    horizontal_flip: Fraction = Field(
        0.0, description="probability; 0.5 in the official script, 0 where left and right matter (digits)"
    )

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        for key in ("crop_area", "crop_aspect"):
            low, high = getattr(self, key)
            if not 0 < low <= high:
                raise ValueError(f"{key}: expected [low, high] with 0 < low ≤ high, got [{low}, {high}]")
        return self


class Recipe(Strict):
    """Everything that decides what a training run computes."""

    name: Name = Field(description="names the folder, the config and the log of the model")
    model: ModelRecipe
    data: Annotated[tuple[DataRecipe, ...], Field(min_length=1, max_length=1000)]
    augmentation: AugmentationRecipe = AugmentationRecipe.model_validate({})
    steps: int | None = Field(None, gt=0, le=MAX_STEPS, description="optimizer steps; or epochs")
    epochs: int | None = Field(None, gt=0, le=MAX_STEPS, description="passes over the data; or steps")
    batch_size: int = Field(
        ge=2, le=1_000_000, description="pairs per step; the other pairs of the batch are negatives"
    )
    lr: float = Field(gt=0, description="peak learning rate")
    betas: tuple[float, float] = Field((0.9, 0.98), description="AdamW's")
    weight_decay: float = Field(0.2, ge=0, description="AdamW's, on matrices only")
    warmup_fraction: float = Field(0.1, ge=0, lt=1, description="share of the steps with rising rate")
    clip_norm: float = Field(1.0, gt=0, description="largest L2 norm of the gradient")
    seed: int = Field(0, ge=0, lt=2**31, description="of weights, order and crops")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="bf16, fp16: autocast; fp16 with a scaled loss"
    )
    init: str | None = Field(
        None, description="checkpoint to begin from: a path or hf://owner/repo/file; by default from scratch"
    )
    locked: tuple[Literal["image", "text"], ...] = Field(
        (), description="towers whose weights stay as they are"
    )
    skip_bad: int = Field(
        0, ge=0, le=MAX_STEPS, description="steps whose loss or gradient is not finite that may be left out"
    )
    accumulation: int = Field(
        1, gt=0, le=MAX_STEPS, description="passes that a step is cut into, for less memory; same gradients"
    )
    activation_checkpointing: bool = Field(
        False, description="make each layer's activations again in the backward pass, for less memory"
    )
    compile: bool = Field(False, description="run the model through torch.compile")
    log_every: int = Field(10, gt=0, le=MAX_STEPS, description="steps")
    checkpoint_every: int = Field(1000, gt=0, le=MAX_STEPS, description="steps; also at the end")
    keep_last: int | None = Field(
        None, gt=0, le=MAX_STEPS, description="checkpoints that stay beside the best; by default all"
    )
    keep_best: int = Field(
        0, ge=0, le=MAX_STEPS, description="of the older ones, how many with the least mean loss stay"
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        for key, beta in zip(("first", "second"), self.betas, strict=True):
            if not 0 <= beta < 1:
                raise ValueError(f"betas: the {key} must be in [0, 1), got {beta}")
        return self

    def num_steps(self, num_samples: int) -> int:
        """Return the number of optimizer steps over `num_samples` images; the rest of an epoch is dropped.

        Raises:
            RecipeError: one batch is more than the data.
        """
        if self.batch_size > num_samples:
            raise RecipeError(
                f"Recipe {self.name}: batch_size is {self.batch_size}, but data holds only {num_samples} "
                "images and no image may be its own negative: lower batch_size or add data."
            )
        return self.steps or (self.epochs or 0) * (num_samples // self.batch_size)

    def warmup_steps(self, num_steps: int) -> int:
        """Return how many of `num_steps` have a rising learning rate."""
        return min(math.ceil(self.warmup_fraction * num_steps), num_steps - 1)


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that ship with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(recipe: str | Path) -> Recipe:
    """Return the recipe of a shipped name or of a YAML file.

    Raises:
        RecipeError: there is none, it is not YAML, or it does not fit the schema; every misfit is listed.
    """
    path = Path(recipe)
    if not path.exists():
        if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
            raise RecipeError(
                f"No recipe at {path}: give the path of a YAML file or one of the shipped "
                f"recipes: {', '.join(shipped_recipes())}."
            )
        if str(recipe) not in shipped_recipes():
            raise RecipeError(unknown_name("recipe", str(recipe), shipped_recipes()))
        path = RECIPES / f"{recipe}.yaml"
    text = read_text(path, what="recipe", limit=YAML_LIMIT_BYTES, error=RecipeError)
    node, content = parse_yaml(text, str(path), error=RecipeError)
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: expected a mapping of recipe keys, got {type(content).__name__}.")
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise RecipeError(joined(mistakes(error, node, str(path)))) from error
