"""Opens what a recipe names: evaluation datasets, folders with an index, computed pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.errors import name_some
from rwkvclip_eval.registry import unknown_name
from rwkvclip_train.data.build import open_index
from rwkvclip_train.data.digit_texts import three_kinds
from rwkvclip_train.data.held_out import HeldOut, WithoutHeldOut, held_out
from rwkvclip_train.data.indexed import IndexedPairs
from rwkvclip_train.data.pairs import Part
from rwkvclip_train.data.source import ImagesWithTexts
from rwkvclip_train.data.synthetic import SyntheticPairs, parse_synthetic
from rwkvclip_train.recipe import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.data.types import Dataset
    from rwkvclip_train.data.source import PairSource
    from rwkvclip_train.recipe import DataRecipe, Recipe

LEAST = 2
"""Pairs to validate on: no other pair, no loss."""
DIGIT_KINDS = ("raw", "caption", "description")


def open_sources(recipe: Recipe, data_root: Path | None) -> list[Part]:
    """Open the data of a recipe with the texts it asks for, without what validation holds out.

    Raises:
        RecipeError: the texts asked for do not exist, or a source is held out as a whole.
        DataNotFound, DamagedData, UserError: data are absent, damaged or unknown, or have no index.
    """
    parts = [_open_part(part, data_root) for part in recipe.data]
    if recipe.validation is None or recipe.validation.fraction is None:
        return parts
    found = []
    for asked, part in zip(recipe.data, parts, strict=True):
        held = held_out(part.source, recipe.validation.fraction, recipe.seed)
        if len(held) == len(part.source):
            raise RecipeError(
                f"validation.fraction: all {len(held)} pairs of {asked.label} are held out: lower it."
            )
        found.append(dataclasses.replace(part, source=WithoutHeldOut(part.source, held)))
    return found


def open_validation(recipe: Recipe, sources: Sequence[Part], data_root: Path | None) -> list[Part]:
    """Open the pairs of which a recipe has the validation loss: held out of `sources`, or of their own.

    Raises:
        RecipeError: the texts asked for do not exist, or they are not even two pairs.
        DataNotFound, DamagedData, UserError: data are absent, damaged or unknown, or have no index.
    """
    asked = recipe.validation
    if asked is None:
        return []
    if asked.data is not None:
        parts = [_open_part(part, data_root) for part in asked.data]
    else:
        held = [(part, part.source) for part in sources if isinstance(part.source, WithoutHeldOut)]
        parts = [Part(HeldOut(one.source, one.held), part.weights) for part, one in held if len(one.held)]
    if (number := sum(map(len, parts))) < LEAST:
        raise RecipeError(
            f"Recipe {recipe.name}: validation has {number} pairs; expected at least {LEAST}: raise "
            "validation.fraction, or give validation.data."
        )
    return parts


def _open_part(part: DataRecipe, data_root: Path | None) -> Part:
    weights = dict(part.texts) if isinstance(part.texts, Mapping) else None
    if part.path is not None:
        # A relative folder is looked for under the data root too, as a dataset's is.
        path = Path(part.path)
        below_root = data_root / path if data_root and not path.is_dir() else path
        source: PairSource = open_pairs(part.path if parse_synthetic(part.path) else below_root, part.index)
    else:
        assert part.dataset is not None
        dataset = open_dataset(
            DatasetRef.model_validate({"name": part.dataset, "split": part.split}), data_root=data_root
        )
        source = ImagesWithTexts(dataset, _texts(part, dataset))
    if weights is not None:
        check_kinds(source, weights, f"data: {part.label}: texts")
    return Part(source, weights, part.repeat)


def open_pairs(
    where: str | Path, index: str | Path | None = None, *, digests: bool = True
) -> IndexedPairs | SyntheticPairs:
    """Return the pairs of a folder with an index, or of `synthetic:N`.

    Args:
        where: the folder, or what is computed.
        index: of the folder; `where`/index by default.
        digests: refuse files of the index that are not those that were written.

    Raises:
        DataNotFound: there is no such folder or no index.
        DamagedData: the index is damaged, or of files that have changed since.
        UserError: it is `synthetic:` of nothing.
    """
    made = parse_synthetic(str(where))
    return made or IndexedPairs(open_index(Path(where), Path(index) if index else None, digests=digests))


def check_kinds(source: PairSource, weights: Mapping[str, float], where: str) -> None:
    """Refuse kinds of text that no pair has, and pairs that have none of the kinds.

    Args:
        source: of the pairs.
        weights: by kind.
        where: what asks for them, for messages.

    Raises:
        RecipeError: there are such kinds or pairs; they are named.
    """
    for kind in weights:
        if kind not in source.kinds:
            raise RecipeError(f"{where}: {unknown_name('kind of text', kind, source.kinds)}")
    lacking = source.lacking([kind for kind, weight in weights.items() if weight > 0])
    if len(lacking):
        some = name_some(source.key(int(i)) for i in lacking[:5])
        others = [kind for kind in source.kinds if not weights.get(kind)]
        cure = f"add a kind to fall back on ({', '.join(others)}), or " if others else ""
        raise RecipeError(
            f"{where}: {len(lacking)} of {len(source)} pairs have no text of kind {' or '.join(weights)} "
            f"({some}): {cure}index the folder with --kinds {','.join(weights)}, which leaves them out."
        )


def _texts(part: DataRecipe, dataset: Dataset) -> Mapping[str, Sequence[Sequence[str]]]:
    """Return kind → texts of each image of a dataset.

    Raises:
        RecipeError: the dataset has no such texts.
    """
    info = dataset.info
    where = f"data: {part.dataset} is a {info.kind} dataset"
    if part.texts == "kinds" or isinstance(part.texts, Mapping):
        by_kind = zip(*three_kinds(info.name, part.split), strict=True)
        return {kind: [[text] for text in texts] for kind, texts in zip(DIGIT_KINDS, by_kind, strict=True)}
    if part.texts == "captions":
        if dataset.captions is None:
            raise RecipeError(
                f"{where}, which has no captions: use texts: templates, or a list of templates."
            )
        return {"caption": dataset.captions}
    templates = info.templates if part.texts == "templates" else tuple(part.texts)
    if dataset.labels is None or info.kind != "classification":
        raise RecipeError(f"{where}; templates need the classes of a classification dataset: use captions.")
    if not templates or not all("{c}" in t for t in templates):
        raise RecipeError(
            f"{where}; its texts need templates with {{c}} for the class name: got {templates}."
        )
    of_class = [[t.replace("{c}", name) for t in templates] for name in info.class_names]
    return {"template": [of_class[label] for label in dataset.labels]}
