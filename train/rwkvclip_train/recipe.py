"""The recipe: everything that decides what a training run computes, read from YAML and checked before it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, ValidationError, model_validator

from rwkvclip_eval.data.prompts import MOST_LETTERS
from rwkvclip_eval.data.types import FolderName, Place, VersionName
from rwkvclip_eval.errors import UserError, joined, shown
from rwkvclip_eval.plan.suite import SuiteTask
from rwkvclip_eval.registry import unknown_name
from rwkvclip_eval.schema import Strict, readable
from rwkvclip_eval.yaml_file import YAML_LIMIT_BYTES, mistakes, parse_yaml
from rwkvclip_models.files import read_text
from rwkvclip_train.flavour import Flavour, Quirks, with_flavour
from rwkvclip_train.recipe_changes import apply_changes, named_by_change

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RECIPES = Path(__file__).parent / "recipes"
MAX_STEPS = 1_000_000_000
MAX_LR = 1.0

Tower = Literal["image", "text"]
Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, le=1e9)]


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
    """One source of pairs: a dataset split, or a folder with an index."""

    dataset: VersionName | None = Field(
        None, description="NAME or NAME@VARIANT, as suites write it; wds_* folders are under --data-root"
    )
    path: Place | None = Field(
        None,
        min_length=1,
        description="instead of dataset: a folder that `rwkvclip-train data index` has indexed, or "
        "synthetic:N for N computed pairs",
    )
    index: Place | None = Field(None, description="of path: folder of the index; PATH/index by default")
    split: FolderName = Field("train", description="of dataset: never one that the model will be scored on")
    texts: Literal["captions", "templates", "kinds"] | Templates | dict[Name, NotNegative] = Field(
        description="what an image's texts are. captions: those of a retrieval dataset; templates: the "
        "prompts of a classification dataset with the class name in; a list: the same with these templates, "
        "{c} standing for the class name; kinds: raw, caption and description of the embedded digits; a "
        "mapping, {raw: 1, synthetic: 1}: of path (or the digits), kinds of text and how often each is drawn "
        "beside the others; where a pair lacks one, the others take its share"
    )
    repeat: float = Field(
        1,
        gt=0,
        le=MAX_STEPS,
        description="how often an epoch sees each of its images, to balance sources; 0.5: each in every "
        "second epoch",
    )

    @property
    def label(self) -> str:
        """The dataset's name, or the path."""
        return self.dataset or self.path or ""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.dataset is None) == (self.path is None):
            raise ValueError("give either dataset or path")
        if self.path is None and self.index is not None:
            raise ValueError("index: only a path has one")
        if not isinstance(self.texts, dict):
            if self.path is not None:
                raise ValueError("texts: of a path, expected a mapping of kinds to weights, as {raw: 1}")
        elif not any(self.texts.values()):
            raise ValueError("texts: expected a weight above 0 for one of the kinds")
        return self


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


class ValidationRecipe(Strict):
    """The loss on pairs that training never sees, in eval mode and without augmentation."""

    every: int = Field(gt=0, le=MAX_STEPS, description="steps; also at the end")
    fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="of the pairs of data, how many are held out of training: by a hash of a pair's name and "
        "the seed",
    )
    data: Annotated[tuple[DataRecipe, ...], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="instead of fraction: sources of their own, in the form of the recipe's data"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.fraction is None) == (self.data is None):
            raise ValueError("give either fraction or data")
        return self


class EvaluationRecipe(Strict):
    """Evaluation of checkpoints while training goes on."""

    every: int | None = Field(
        None,
        gt=0,
        le=MAX_STEPS,
        description="steps, a multiple of checkpoint_every; also at the end; by default at every checkpoint",
    )
    tasks: Annotated[tuple[SuiteTask, ...], Field(min_length=1, max_length=100)] = Field(
        description="as a suite's file has them: a list of {task: zero_shot_classification, datasets: "
        "[digits]}; wds_* folders are under --data-root"
    )
    limit: int | None = Field(
        None, gt=0, le=MAX_STEPS, description="images of a dataset at most, for less time; by default all"
    )


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
    lr: float = Field(
        gt=0, le=MAX_LR, description="peak learning rate; AdamW moves a weight by about so much"
    )
    betas: tuple[float, float] = Field((0.9, 0.98), description="AdamW's; see quirks.beta1_cycle")
    weight_decay: float = Field(0.2, ge=0, le=1e6, description="AdamW's; see quirks.decay_everything")
    warmup_fraction: float = Field(
        0.1, ge=0, lt=1, description="share of the steps with a rising rate; 0.1 in the official script"
    )
    clip_norm: float = Field(1.0, gt=0, description="largest L2 norm of the gradient")
    seed: int = Field(0, ge=0, lt=2**31, description="of weights, order, texts, crops and drop path")
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = Field(
        "fp32",
        description="bf16, fp16: autocast, weights stay float32; fp64: all in float64 with the reference "
        "operator, for checks",
    )
    flavour: Flavour = Field(
        "corrected", description="official: with all quirks of the official script; corrected: with none"
    )
    quirks: Quirks = Quirks.model_validate({})
    world_size: int = Field(
        8, gt=0, le=100_000, description="GPUs of the run that quirks imitate, however many there are"
    )
    accumulation: int = Field(
        1,
        gt=0,
        le=1_000_000,
        description="parts that each batch is taken in, for less memory and the same step",
    )
    activation_checkpointing: bool = Field(
        False,
        description="keep only the blocks' inputs and compute the rest again: less memory, slower",
    )
    compile: bool = Field(False, description="torch.compile the towers")
    init: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="checkpoint whose weights to start from: a path or hf://…",
    )
    lock: Annotated[tuple[Tower, ...], Field(max_length=2)] = Field(
        (), description="towers that keep the weights of init: image or text"
    )
    log_every: int = Field(10, gt=0, le=MAX_STEPS, description="steps")
    checkpoint_every: int = Field(1000, gt=0, le=MAX_STEPS, description="steps; also at the end")
    keep_last: int | None = Field(
        None, gt=0, le=MAX_STEPS, description="checkpoints that stay beside the best; by default all"
    )
    keep_best: int = Field(1, ge=0, le=MAX_STEPS, description="of the older ones, how many of the best stay")
    keep_best_by: str = Field(
        "loss",
        min_length=1,
        max_length=1000,
        description="what the best checkpoints have the best of. loss: the mean of training since the one "
        "before; val_loss: of validation; val_metric: the mean of the primary metrics of evaluation; "
        "TASK/PROTOCOL/DATASET/METRIC: a number of evaluation, by its name in the log",
    )
    validation: ValidationRecipe | None = None
    evaluation: EvaluationRecipe | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_flavour(cls, given: Any) -> Any:
        return with_flavour(given) if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if misfits := list(self._misfits()):
            raise ValueError("; ".join(misfits))
        return self

    def _misfits(self) -> Iterator[str]:
        """Yield what cannot be asked for together."""
        if (self.steps is None) == (self.epochs is None):
            yield "give either steps or epochs"
        for key, beta in zip(("first", "second"), self.betas, strict=True):
            if not 0 <= beta < 1:
                yield f"betas: the {key} must be in [0, 1), got {beta}"
        if self.batch_size % self.accumulation:
            yield (
                f"accumulation: batch_size {self.batch_size} has no {self.accumulation} equal parts; give "
                "a divisor of it"
            )
        shares = self.world_size * (self.accumulation if self.quirks.accumulation_drops_batches else 1)
        if self.quirks.shuffle_buffer_order and self.batch_size % shares:
            yield (
                f"quirks.shuffle_buffer_order: batch_size {self.batch_size} has no {shares} equal shares, "
                "world_size times the parts of which accumulation drops all but one"
            )
        if self.quirks.text_decay_bfloat16 and self.model.family != "rwkv-clip":
            yield f"quirks.text_decay_bfloat16: a model of family {self.model.family} has no such parameters"
        if self.quirks.text_decay_bfloat16 and self.precision == "fp64":
            yield "quirks.text_decay_bfloat16: precision fp64 has no bfloat16 parameters; set it to false"
        if len(set(self.lock)) == len(get_args(Tower)):
            yield "lock: both towers are, so that there is nothing to train; leave one of them out"
        if self.lock and self.init is None:
            yield "lock: a tower of random weights would stay one; give the checkpoint of it as init"
        yield from self._misfits_of_measures()

    def _misfits_of_measures(self) -> Iterator[str]:
        every = self.evaluation.every if self.evaluation else None
        if every and every % self.checkpoint_every:
            yield (
                f"evaluation.every: {every} is no multiple of checkpoint_every {self.checkpoint_every}, and "
                "checkpoints are what is evaluated"
            )
        if self.keep_best_by == "val_loss":
            if self.validation is None:
                yield "keep_best_by: there is no validation to have the val_loss of"
            elif self.checkpoint_every % self.validation.every:
                yield (
                    f"keep_best_by: val_loss is measured every {self.validation.every} steps, of which "
                    f"checkpoint_every {self.checkpoint_every} is no multiple"
                )
        elif self.keep_best_by != "loss" and self.evaluation is None:
            yield f"keep_best_by: there is no evaluation to have {shown(self.keep_best_by)} of"

    @property
    def tower_gradient_scale(self) -> float:
        """What the towers' gradients are multiplied by, for `global_contrastive_loss`."""
        return 1 / self.world_size if self.quirks.tower_gradients_over_world_size else 1.0

    def num_steps(self, num_samples: int) -> int:
        """Return the number of optimizer steps over `num_samples` images.

        What is left of an epoch after its last whole batch is dropped, or filled up to a batch where
        quirks.shuffle_buffer_order says so.

        Raises:
            RecipeError: one batch is more than the data.
        """
        if self.batch_size > num_samples:
            raise RecipeError(
                f"Recipe {self.name}: batch_size is {self.batch_size}, but data holds only {num_samples} "
                "images and no image may be its own negative: lower batch_size or add data."
            )
        if self.steps is not None:
            return self.steps
        # Rounded up where the quirk asks for it.
        incomplete = self.quirks.shuffle_buffer_order and num_samples % self.batch_size > 0
        return (self.epochs or 0) * (num_samples // self.batch_size + incomplete)


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that ship with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(recipe: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a shipped name or of a YAML file, with changes.

    Args:
        recipe: name or path.
        changes: each `key=value`, as `--set` takes it; see `recipe_changes.py`.

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
    changed = apply_changes(content, changes, error=RecipeError)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        lines = mistakes(error, node, str(path))
        raise RecipeError(joined([named_by_change(line, changed) for line in lines])) from error
