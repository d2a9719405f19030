"""`run --dry-run`: what a run would do, what it lacks, and about how long it would take. Writes nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.data.open import check_data_root
from rwkvclip_eval.encoders.protocol import named_texts
from rwkvclip_eval.features.decoding import decoded_batches
from rwkvclip_eval.plan.averages import resolve_averages
from rwkvclip_eval.plan.units import in_shard, plan
from rwkvclip_eval.run.directory import is_finished, read_run
from rwkvclip_eval.run.identity import run_info, shard_folder
from rwkvclip_eval.run.needs import needs_of, tell_coverage
from rwkvclip_eval.run.options import load_model, make_store
from rwkvclip_eval.run.preflight import open_units
from rwkvclip_eval.run.splits import Datasets
from rwkvclip_eval.run.standing import duration
from rwkvclip_eval.run.workload import Load, work_load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.plan.suite import LoadedSuite
    from rwkvclip_eval.records.schema import Record
    from rwkvclip_eval.run.options import RunOptions
    from rwkvclip_eval.run.preflight import Opened

NUM_MEASURED = 2
"""Batches whose encoding is timed, after one to warm up."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a run would do.

    Attributes:
        loads: the units that are not finished, and what each has to encode.
        lines: what is missing, sums and times, in words.
        complete: whether every dataset is there.
    """

    loads: Sequence[Load]
    lines: Sequence[str]
    complete: bool


@dataclass(frozen=True)
class _Speed:
    """How fast a model encodes.

    Attributes:
        image_s: seconds an image takes.
        text_s: seconds a text takes.
        of: the dataset that was encoded to know it.
    """

    image_s: float
    text_s: float
    of: str


def dry_run(
    loaded: LoadedSuite,
    models: Sequence[str],
    out: Path,
    *,
    options: RunOptions,
    shard: tuple[int, int] | None = None,
) -> DryRun:
    """Return what `run_suite` would do with the same arguments.

    Every model is loaded, and a few batches are encoded with it to know its speed; nothing is kept of them.

    Raises:
        UserError: what would end the run before any encoding.
    """
    from rwkvclip_eval.encoders import expand_specs

    check_data_root(options.data_root)
    units = plan(loaded)
    specs = expand_specs(models)
    wanted = in_shard([unit.dataset_key for unit in units], len(specs), shard or (1, 1))
    averages = resolve_averages(loaded, units)
    info = run_info(loaded, models, specs, averages, options=options, shard=shard, command="")
    before: dict[str, list[Record]] = {}
    for record in read_run(shard_folder(out, shard), info)[0]:
        before.setdefault(record.unit, []).append(record)
    pending = [
        [
            unit
            for j, unit in enumerate(units)
            if (i, j) in wanted and not is_finished(before.get(unit.name(spec.name), ()), unit.task.version)
        ]
        for i, spec in enumerate(specs)
    ]
    each = list({unit.name(""): unit for own in pending for unit in own}.values())
    opened = open_units(each, Datasets(options, loaded.base_dir))
    loads: list[Load] = []
    seconds, basis = 0.0, []
    with make_store(options) as store:
        for spec, own in zip(specs, pending, strict=True):
            if not own:
                continue
            encoder = load_model(spec, options)
            new = work_load([(encoder.info, own)], opened, store, count_texts=True)
            loads += new
            images, texts = (sum(getattr(load, what) for load in new) for what in ("images", "texts"))
            if images or texts:
                speed = _measure(encoder, new, opened, options)
                seconds += images * speed.image_s + texts * speed.text_s
                basis.append(f"{spec.name} {1 / speed.image_s:,.3g} images/s on {speed.of}")
    lines = tell_coverage(needs_of(each), opened.problems, options.data_root) if each else []
    num_images = sum(load.images for load in loads)
    num_texts = sum(load.texts for load in loads)
    lines.append(
        f"{len(loads)} units to do, {len(wanted) - len(loads)} finished; {num_images:,} images and "
        f"{num_texts:,} texts to encode."
    )
    if basis:
        lines.append(
            f"Encoding takes about {duration(seconds)}, by {NUM_MEASURED} batches of each model encoded just "
            f"now ({'; '.join(basis)}). Scoring comes on top: seconds a dataset, for linear probes minutes."
        )
    return DryRun(loads=loads, lines=lines, complete=not opened.problems)


def _measure(encoder: Encoder, loads: Sequence[Load], opened: Opened, options: RunOptions) -> _Speed:
    """Return how fast `encoder` decodes and encodes, by a few batches of the first data there are."""
    dataset = opened.units[next(load.unit.name("") for load in loads if load.images or load.texts)].dataset
    size = max(1, min(options.encode.batch_size, len(dataset) // (NUM_MEASURED + 1)))
    batches = [range(start, start + size) for start in range(0, size * (NUM_MEASURED + 1), size)]
    batches = [batch for batch in batches if batch.stop <= len(dataset)]
    started = time.perf_counter()
    for i, (_, pixels, _) in enumerate(
        decoded_batches(encoder, dataset, batches, options.encode.num_workers)
    ):
        if pixels is not None:
            # What comes back is on a GPU only once it is done there.
            encoder.encode_image(pixels).embedding.cpu()
        if i == 0 and len(batches) > 1:
            started = time.perf_counter()
    image_s = (time.perf_counter() - started) / (size * max(1, len(batches) - 1))
    text_s = 0.0
    with_texts = next((load for load in loads if load.texts), None)
    if with_texts is not None:
        unit = with_texts.unit
        samples = opened.units[unit.name("")].samples
        texts = list(unit.task.texts(samples, unit.protocol))[: options.encode.batch_size]
        # The first warms up.
        for _ in range(2):
            started = time.perf_counter()
            named_texts(encoder.encode_text(encoder.tokenize(texts)))["embedding"].cpu()
            text_s = (time.perf_counter() - started) / len(texts)
    return _Speed(image_s, text_s, dataset.info.name)
