"""What `validate` checks beyond names: that what a suite brings itself is there and fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.data.catalogue import canonical_name, catalogue, record_name
from rwkvclip_eval.data.open import DATASETS
from rwkvclip_eval.data.prompts import resolve_prompts
from rwkvclip_eval.data.types import ClipBenchmarkSource, HuggingFaceSource
from rwkvclip_eval.errors import SuiteError, UserError
from rwkvclip_eval.plan.averages import resolve_averages
from rwkvclip_eval.plan.units import plan
from rwkvclip_eval.run.options import RunOptions
from rwkvclip_eval.run.preflight import open_unit
from rwkvclip_eval.run.splits import Datasets
from rwkvclip_models.files import expanded

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_eval.data.types import DatasetRef
    from rwkvclip_eval.plan.suite import LoadedSuite
    from rwkvclip_eval.plan.units import Unit


def check_suite(loaded: LoadedSuite) -> int:
    """Return the number of units of a suite, after opening the datasets it brings itself as a run would.

    Files below its folders are read once for their fingerprint, which the run then finds done. Datasets of
    the catalogue are not looked for; their class names and prompt files are.

    Raises:
        SuiteError: something does not fit; every mistake is listed with its line.
    """
    units = plan(loaded)
    resolve_averages(loaded, units)
    datasets = Datasets(RunOptions(offline=True), loaded.base_dir)
    problems: dict[str, None] = {}
    for unit in units:
        try:
            if _brought(unit.ref, loaded.base_dir):
                open_unit(unit, datasets)
            else:
                _check_prompts(unit, loaded.base_dir)
        except UserError as error:
            problems[f"{_where(loaded, unit)}: {error}"] = None
    if problems:
        raise SuiteError("\n".join(problems))
    return len(units)


def _brought(ref: DatasetRef, base_dir: Path) -> bool:
    """Return whether the suite itself says where the data lie, on this machine."""
    if isinstance(ref.source, HuggingFaceSource):
        return (base_dir / expanded(ref.source.path)).is_dir() if ref.source.path else False
    if isinstance(ref.source, ClipBenchmarkSource):
        return ref.source.root is not None
    return ref.source is not None or ref.folder is not None


def _check_prompts(unit: Unit, base_dir: Path) -> None:
    """Check class names, templates and prompt files of a set of the catalogue, without its data.

    Raises:
        UserError: they cannot be had or their number is not that of the catalogue.
    """
    record = record_name(unit.ref.name)
    if record is None or unit.ref.name in DATASETS:
        return
    entry, ref = catalogue()[record], unit.ref
    variant = unit.variant or "default"
    given = ref.class_names is not None or ref.templates is not None or not isinstance(ref.prompts, str)
    if not given or entry.kind_of(variant) == "retrieval":
        return
    # Stands for the names that the data bring.
    own = ("?",)
    class_names, _ = resolve_prompts(ref, own, None, base_dir, entry.variant(variant))
    expected = entry.classes_of(variant)
    if class_names != own and expected is not None and len(class_names) != expected:
        raise UserError(f"{record}: {len(class_names)} class names for {expected} classes.")


def _where(loaded: LoadedSuite, unit: Unit) -> str:
    """Return file and line of the entry that a unit comes from."""
    for i, task in enumerate(loaded.suite.tasks):
        for j, ref in enumerate(task.datasets):
            same = canonical_name(ref.name) == unit.dataset and ref.split == unit.ref.split
            if task.task == unit.task.name and same:
                return loaded.where("tasks", i, "datasets", j)
    return loaded.source
