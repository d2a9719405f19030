"""Class names and prompt templates: from the suite, the user's files, the data, or clip-benchmark's lists."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rwkvclip_eval.data.catalogue import names_of
from rwkvclip_eval.data.types import PromptFiles, ReferencePrompts
from rwkvclip_eval.errors import UserError, shortened, shown
from rwkvclip_eval.printable import code_points, look_alike, unreadable
from rwkvclip_eval.registry import unknown_name
from rwkvclip_eval.schema import came
from rwkvclip_models.files import expanded, read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rwkvclip_eval.data.catalogue import Variant
    from rwkvclip_eval.data.types import DatasetRef

SHIPPED = {
    "labels": "en_classnames.json",
    "templates": "en_zeroshot_classification_templates.json",
}

MOST_TEMPLATES = 10_000
"""Of a dataset; published lists have up to 80."""
MOST_LETTERS = 2000
"""Of a class name or a template; text towers read some hundred."""


def resolve_prompts(
    ref: DatasetRef,
    own_class_names: Sequence[str] | None,
    own_templates: Sequence[str] | None,
    base_dir: Path | None = None,
    variant: Variant | None = None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return class names in label order and templates with `{c}`; no templates where none are known.

    `ref.class_names` and `ref.templates` come first, then what `ref.prompts` says.

    Args:
        ref: how the suite names the dataset.
        own_class_names: what the source brought, if anything.
        own_templates: likewise.
        base_dir: folder of the suite file; paths in `ref.prompts` are relative to it.
        variant: the catalogue's version of the dataset; names the lists where clip-benchmark has several.

    Raises:
        UserError: no class names are to be had, a file lacks the dataset, a template has no
            place for the class name, or the names are the source's in another order (which would score
            every image against a wrong name). The text says which and what to write.
    """
    labels, templates = own_class_names, own_templates
    origin = "the data"
    if isinstance(ref.prompts, PromptFiles):
        if ref.prompts.labels is not None:
            labels, origin = _from_file(ref.prompts.labels, ref.name, base_dir), ref.prompts.labels
        if ref.prompts.templates is not None:
            templates = _from_file(ref.prompts.templates, ref.name, base_dir)
    elif ref.prompts == "clip-benchmark":
        # Its label lists leave out the sets whose own names it takes over, as we do.
        labels = shipped("labels", ref.name, variant) or labels
        templates = shipped("templates", ref.name, variant)
    origin = "class_names of the suite" if ref.class_names else origin
    labels = ref.class_names or labels or shipped("labels", ref.name, variant)
    templates = ref.templates or templates or shipped("templates", ref.name, variant)
    if not labels:
        raise UserError(
            f"{ref.name}: no class names. Write them in the suite (class_names: [...]), point prompts.labels "
            "at a label.json, or put classnames.txt beside the data."
        )
    own = [name.lower() for name in own_class_names or ()]
    given = [name.lower() for name in labels]
    if own and given != own and sorted(given) == sorted(own):
        first = next(i for i, (a, b) in enumerate(zip(given, own, strict=True)) if a != b)
        raise UserError(
            f"{ref.name}: the class names given are those of the data in another order (label {first} is "
            f"{own[first]!r} in the data, {given[first]!r} was given). Write them in label order."
        )
    check_class_names(labels, f"{ref.name}: in {origin}")
    _check_letters(labels, "class name", ref.name)
    return tuple(labels), normalise_templates(templates or (), ref.name)


def reference_prompts(
    name: str,
    own_class_names: Sequence[str] | None,
    own_templates: Sequence[str] | None,
    variant: Variant | None = None,
) -> ReferencePrompts | None:
    """Return what clip-benchmark asks of a dataset; None where neither it nor the data say.

    Args:
        name: of the dataset.
        own_class_names: what the source brought; that package takes them where it has no list.
        own_templates: likewise.
        variant: as in `resolve_prompts`.
    """
    listed = shipped("labels", name, variant)
    labels, templates = listed or own_class_names, shipped("templates", name, variant) or own_templates
    if not labels or not templates:
        return None
    placed = tuple(template.replace("{}", "{c}") for template in templates)
    return ReferencePrompts(tuple(labels), placed, own_names=listed is None)


def normalise_templates(templates: Iterable[str], name: str) -> tuple[str, ...]:
    """Return the templates with `{c}` where the class name goes; `{}` is accepted too.

    Raises:
        UserError: one has no such place; the text quotes it. Or there are more than `MOST_TEMPLATES`,
            or one is of more than `MOST_LETTERS`.
    """
    changed = tuple(t.replace("{}", "{c}") for t in itertools.islice(templates, MOST_TEMPLATES + 1))
    if len(changed) > MOST_TEMPLATES:
        raise UserError(f"{name}: more than {MOST_TEMPLATES} templates; each class name is put into all.")
    _check_letters(changed, "template", name)
    for template in changed:
        if why := unreadable(template):
            raise UserError(f"{name}: a template {why}.")
        if "{{" in template or "}}" in template:
            raise UserError(
                f"{name}: the template {shown(template)} has doubled braces, which would stand around the "
                "class name; write {c} once."
            )
        if "{c}" not in template:
            raise UserError(
                f"{name}: the template {shown(template)} has no {{c}} (or {{}}) for the class name."
            )
    return changed


def check_class_names(names: Iterable[str], where: str) -> None:
    """Refuse class names that nobody can see or write.

    Args:
        names: in label order.
        where: says whose they are, for messages.

    Raises:
        UserError: one shows nothing, or holds NUL or half a surrogate pair, or two that are not equal look
            alike; label and code points are named.
    """
    names = list(names)
    for i, name in enumerate(names):
        if why := unreadable(name):
            told = f"{where}, the class name of label {i} {why}"
            raise UserError(f"{told}; a prompt needs one that can be read.")
    if pair := look_alike(names):
        one, other = (f"label {names.index(name)} {name!a}" for name in map(str, pair))
        raise UserError(
            f"{where}, two class names that are not equal look alike: {shortened(one)} and "
            f"{shortened(other)}; spelt in Unicode as {code_points(pair[0])} and {code_points(pair[1])}."
        )


def check_each_once(names: Sequence[str], dataset: str) -> None:
    """Refuse a class name that a suite gives twice, unless the field's own list of the dataset repeats it.

    Raises:
        UserError: one stands there twice: no image could be found to be of the second.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    own = Counter(shipped("labels", dataset) or ()) if twice else Counter()
    if new := [name for name in twice if own[name] < 2]:
        first, second = [i for i, name in enumerate(names) if name == new[0]][:2]
        raise UserError(
            f"{dataset}: in class_names of the suite, {shown(new[0])} is the name of label {first} and of "
            f"label {second}; give each class its own."
        )


def _check_letters(texts: Iterable[str], what: str, name: str) -> None:
    longest = max(texts, key=len, default="")
    if len(longest) > MOST_LETTERS:
        raise UserError(
            f"{name}: the {what} {shown(longest)} has {len(longest)} letters; at most {MOST_LETTERS} are "
            "read."
        )


def shipped(which: str, name: str, variant: Variant | None = None) -> tuple[str, ...] | None:
    """Return clip-benchmark's class names (`labels`) or `templates` of a dataset; None where it has none."""
    lists = _shipped_lists(which)
    special = None
    if variant is not None:
        special = variant.class_list if which == "labels" else variant.template_list
    names = names_of(name) if special is None else (special,)
    found = next((lists[n] for n in names if n in lists), None)
    return None if found is None else tuple(found)


@functools.cache
def _shipped_lists(which: str) -> dict[str, list[str]]:
    """Read a list of the clip-benchmark package without importing it, which would load torch."""
    spec = importlib.util.find_spec("clip_benchmark")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("The package clip-benchmark is not installed: pip install clip-benchmark.")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / SHIPPED[which]
    lists: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return lists


def _from_file(given: str, name: str, base_dir: Path | None) -> tuple[str, ...]:
    """Return the list of dataset `name` in an official-format JSON file.

    Raises:
        UserError: the file cannot be read, is no mapping of lists, or lacks the dataset.
    """
    path = (base_dir or Path()) / expanded(given)
    lists = read_json(path, what="prompt file")
    if not isinstance(lists, dict):
        raise UserError(f"{path}: expected a mapping of dataset name to list of texts{came(lists)}.")
    names = names_of(name)
    folded = {str(key).lower(): value for key, value in lists.items()}
    found = next((folded[n.lower()] for n in names if n.lower() in folded), None)
    if found is None:
        raise UserError(f"{path}: {unknown_name('dataset', names[0], map(str, lists))}")
    if not (isinstance(found, list) and found and all(isinstance(text, str) for text in found)):
        raise UserError(f"{path}: {names[0]} must be a list of texts{came(found)}.")
    return tuple(found)
