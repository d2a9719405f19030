"""Encodes and scores one unit (model × task × dataset × protocol).

Data flows one way: opened splits → features (store) → task.score → records and predictions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvclip_eval.errors import (
    DamagedData,
    DataNotFound,
    EncodingFailed,
    SuiteError,
    UserError,
    users_code,
)
from rwkvclip_eval.run.examples import gallery, with_content
from rwkvclip_eval.run.given import check_result
from rwkvclip_eval.run.outcome import UnitOutcome, no_number, score_records
from rwkvclip_eval.run.splits import samples_of
from rwkvclip_eval.tasks import OWN_TASKS
from rwkvclip_eval.tasks.base import Compute, Features, Samples, TaskResult
from rwkvclip_eval.tasks.similarity import SIMILARITIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rwkvclip_eval.data.types import Dataset
    from rwkvclip_eval.encoders.protocol import Encoder, EncoderInfo
    from rwkvclip_eval.features.context import Context
    from rwkvclip_eval.features.engine import Engine
    from rwkvclip_eval.features.store import FeatureStore, ImageFeatureSet
    from rwkvclip_eval.plan.units import Unit
    from rwkvclip_eval.protocols import Protocol
    from rwkvclip_eval.run.options import RunOptions
    from rwkvclip_eval.run.preflight import Opened
    from rwkvclip_eval.run.splits import OpenedUnit
    from rwkvclip_eval.tasks.base import Need, Task
    from rwkvclip_eval.tasks.similarity import Similarity


def run_unit(
    encoder: Encoder,
    unit: Unit,
    opened: Opened,
    store: FeatureStore,
    engine: Engine,
    options: RunOptions,
) -> UnitOutcome:
    """Encode and score one unit; problems with its data or settings become a record, not an exception.

    So do samples that the model cannot encode, and scoring that runs out of memory.

    Args:
        encoder: the model.
        unit: what to do.
        opened: its splits, or why they cannot be used; that of a unit which cannot apply may be absent.
        store: keeps features.
        engine: encodes those that the store lacks.
        options: how to run.

    Raises:
        UserError: a problem of the model whatever the data, or of the output.
    """
    info = encoder.info
    if not info.has_text and "text" in unit.task.needs:
        reason = f"{info.name} has no text tower, which {unit.task.name} needs."
        return no_number(unit, info, "not_applicable", reason)
    name = unit.name("")
    try:
        if name in opened.problems:
            raise opened.problems[name]
        return _worked_on(encoder, opened.units[name], store, engine, options)
    except DataNotFound as error:
        return no_number(unit, info, "missing_data", error.brief)
    except (DamagedData, EncodingFailed, SuiteError, _UnitProblem) as error:
        return no_number(unit, info, "failed", str(error))


def _worked_on(
    encoder: Encoder, opened: OpenedUnit, store: FeatureStore, engine: Engine, options: RunOptions
) -> UnitOutcome:
    started = time.perf_counter()
    unit, needs, context = opened.unit, opened.unit.task.needs, engine.context
    similarity = _similarity(encoder.info)
    _check(opened, encoder.info, options)

    def encoded(split: Dataset) -> _Encoded:
        return _kept(store.images(encoder, split, engine), split, options.allow_missing)

    judged = encoded(opened.dataset)
    texts = unit.task.texts(judged.samples, unit.protocol) if "text" in needs else ()
    learned = {split: encoded(other) for split, other in opened.fit.items()}
    features = dataclasses.replace(
        judged.features(needs, similarity),
        texts=store.texts(encoder, texts, engine) if "text" in needs else {},
        similarity=similarity,
        logit_scale=encoder.info.logit_scale,
        logit_bias=encoder.info.logit_bias or 0.0,
        fit={split: (one.samples, one.features(needs, similarity)) for split, one in learned.items()},
        compute=_compute(unit.task, encoder.info.name, context, options),
    )
    stored = [judged.stored, *(one.stored for one in learned.values())]
    ran = dataclasses.replace(
        encoder.info, device=judged.stored.device, implementation=judged.stored.implementation
    )
    result = _scored(unit.task, unit.protocol, judged.samples, features, context)
    tables = with_content(result.predictions, opened.dataset, options.cache_dir, context)
    result = dataclasses.replace(result, predictions=tables)
    examples = gallery(opened.dataset, judged.kept, result)
    records = score_records(opened, ran, stored, result, time.perf_counter() - started)
    return UnitOutcome(records=records, result=result, examples=examples)


def _check(opened: OpenedUnit, info: EncoderInfo, options: RunOptions) -> None:
    """Refuse what is known to fail before anything is encoded for it.

    Raises:
        DamagedData: the task does not score sets of this kind.
        UserError: the memory budget is too small.
    """
    unit = opened.unit
    if not opened.scorable:
        kinds = " or ".join(sorted(unit.task.kinds))
        of = opened.dataset.info
        raise DamagedData(f"{unit.task.name} scores {kinds} sets; {of.name} is {of.kind}.")
    with _of_this_unit():
        given = {split: samples_of(other) for split, other in opened.fit.items()}
        unit.task.check_budget(given, unit.protocol, info.probe_dim, options.memory_budget)


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    """One split's features and the samples that have some.

    Attributes:
        stored: as the store has them.
        samples: those whose images could be decoded.
        kept: their row numbers.
    """

    stored: ImageFeatureSet
    samples: Samples
    kept: np.ndarray[Any, Any]

    def features(self, needs: frozenset[Need], similarity: Similarity) -> Features:
        """Return the arrays that a task asks for, and those by which images are compared."""
        # An index array would copy every feature into memory; a slice leaves them on disk until read.
        rows = self.kept if self.stored.missing else slice(None)
        compared = similarity.image_arrays if "embedding" in needs else ()
        wanted = {*(needs - {"text"}), *compared}
        arrays = self.stored.arrays
        return Features(images={name: array[rows] for name, array in arrays.items() if name in wanted})


def _similarity(info: EncoderInfo) -> Similarity:
    """Return how an encoder compares.

    Raises:
        UserError: there is no such way, or it reads arrays that the encoder does not declare.
    """
    similarity = SIMILARITIES.get(info.similarity)
    declared = [*(f"{name} of images" for name in info.image_shapes)]
    declared += [f"{name} of texts" for name in info.text_shapes]
    read = [f"{name} of images" for name in similarity.image_arrays]
    read += [f"{name} of texts" for name in similarity.text_arrays if info.has_text]
    if lacking := [name for name in read if name not in declared]:
        raise UserError(
            f"{info.name} is compared by {info.similarity!r}, which reads {' and '.join(lacking)}; it "
            f"declares {', '.join(declared)}. Declare them in its EncoderInfo (image_arrays, text_arrays)."
        )
    return similarity


def _kept(stored: ImageFeatureSet, dataset: Dataset, allow_missing: int) -> _Encoded:
    """Return one split's features with the samples that have some.

    Raises:
        DamagedData: more images are damaged than the user allows.
    """
    kept = np.array([i for i in range(len(dataset)) if i not in stored.missing], dtype=np.int64)
    if len(stored.missing) > allow_missing:
        names = "; ".join(reason.rstrip(".") for reason in list(stored.missing.values())[:5])
        raise DamagedData(
            f"{len(stored.missing)} of {len(dataset)} images of {dataset.info.name} are damaged "
            f"({allow_missing} allowed): {names}. Mend the data, or pass "
            f"--allow-missing {len(stored.missing)}."
        )
    if not len(kept):
        raise DamagedData(f"Not one of the {len(dataset)} images of {dataset.info.name} can be decoded.")
    return _Encoded(stored=stored, samples=samples_of(dataset, kept), kept=kept)


def _compute(task: Task, model: str, context: Context, options: RunOptions) -> Compute:
    """Return where a task works: where encoding is done, but for Metal, which has no float64."""
    device = options.device
    if device.startswith("mps"):
        device = "cpu"
        if task.fit_splits:
            context.on_message(f"{model} · {task.name} is solved on the CPU, since Metal has no float64.")
    on_progress = context.on_progress
    return Compute(
        device, options.memory_budget, lambda done, total, what: on_progress(done, total, f"{model} · {what}")
    )


def _scored(
    task: Task, protocol: Protocol, samples: Samples, features: Features, context: Context
) -> TaskResult:
    device = features.compute.device
    # An exception of our own tasks is a defect of ours.
    own = users_code(f"The task {task.name}", failing=task.name not in OWN_TASKS)
    with context.timings.stage("score"), _of_this_unit(), own, _explained_limits(task, protocol, device):
        result = task.score(samples, features, protocol)
        check_result(task, result)
        return result


class _UnitProblem(UserError):
    """A problem of one unit's settings: its record tells, and the others run."""


@contextlib.contextmanager
def _of_this_unit() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise _UnitProblem(str(error)) from error


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""What torch's errors say, most of which are plain RuntimeErrors: GPU, main memory, GPU libraries."""


@contextlib.contextmanager
def _explained_limits(task: Task, protocol: Protocol, device: str) -> Iterator[None]:
    """Say what to do where scoring on `device` ran out of memory or met a matrix it cannot factor.

    Raises:
        UserError: one of these happened.
    """
    import torch

    try:
        yield
    except (MemoryError, RuntimeError, np.linalg.LinAlgError) as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        unsolved = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # public, unlisted
        if isinstance(error, np.linalg.LinAlgError | unsolved):
            given = task.Options.of(protocol).model_dump()
            cure = (
                " Features of extreme size make such: options: {standardize: true} in the suite helps."
                if given.get("standardize") is False
                else ""
            )
            raise UserError(f"Scoring met a matrix that cannot be solved ({said}).{cure}") from error
        if not isinstance(error, MemoryError) and not any(words in said for words in _OUT_OF_MEMORY):
            raise
        cures = ["let it take less with --memory-budget"] if task.keeps_budget else []
        cures += [] if device.startswith("cpu") else ["run on --device cpu"]
        advice = " or ".join([*cures, "free some"])
        raise UserError(
            f"Scoring ran out of memory ({said}): {advice}. The same command tries again, with the features "
            "it has stored."
        ) from error
