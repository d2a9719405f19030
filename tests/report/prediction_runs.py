"""Builds runs with per-sample predictions, as the runner writes them, for tests of reports."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from report_runs import digest, record, write_run

from rwkvclip_eval.data.types import DatasetInfo
from rwkvclip_eval.metrics import classification
from rwkvclip_eval.records.schema import Record
from rwkvclip_eval.tasks.base import Samples
from rwkvclip_eval.tasks.classification import Ranked, Scaling, accuracies, rank

NAMES = ("tabby cat", "tiger cat", "lynx", "red fox", "grey wolf", "husky")


def seed_of(*parts: object) -> int:
    return int(digest(*parts)[:8], 16)


def ranked(
    model: str, dataset: str, n: int, names: tuple[str, ...], scale: float = 100.0, truncated: bool = False
) -> tuple[Ranked, Samples]:
    """Cosines of n images, in which classes beside each other are alike; the images are the set's own."""
    of_set = np.random.default_rng(seed_of(dataset))
    labels = of_set.integers(0, len(names), n)
    difficulty = of_set.normal(0, 0.02, n)
    noise = np.random.default_rng(seed_of(model, dataset)).normal(0, 0.018, (n, len(names)))
    away = np.abs(np.arange(len(names)) - labels[:, None])
    cosines = 0.2 + 0.05 * np.exp(-away) + (away == 0) * (0.02 - difficulty[:, None]) + noise
    info = DatasetInfo(
        name=dataset,
        kind="classification",
        split="test",
        class_names=names,
        num_samples=n,
        fingerprint=digest("data", dataset),
    )
    samples = Samples(info=info, keys=[f"{dataset}/{i:06d}" for i in range(n)], labels=labels)
    logits = (100 * cosines).astype(np.float32)
    scaling = None if truncated else Scaling(scale / 100, 0.0)
    blocks = [(slice(0, n), logits)]
    return rank(blocks, labels, len(names), truncated=truncated, scaling=scaling), samples


def zero_shot(
    run: Path,
    model: str,
    dataset: str,
    n: int = 500,
    names: tuple[str, ...] = NAMES,
    scale: float = 100.0,
    *,
    older: bool = False,
    truncated: bool = False,
    **changes: Any,
) -> list[Record]:
    """Write one unit's predictions; return its records.

    Args:
        run: run directory.
        model: name.
        dataset: name.
        n: images.
        names: of classes.
        scale: the model's own.
        older: leave out what predictions of before did not hold.
        truncated: integer logits.
        changes: fields of the records.
    """
    found, samples = ranked(model, dataset, n, names, scale, truncated)
    unit = f"{model}.zero_shot_classification.{dataset}.{changes.get('protocol', 'standard')}"
    table = found.table(samples)
    if older:
        table = table.drop_columns(["model_log_sum_exp"]).replace_schema_metadata(None)
    folder = run / "predictions" / unit
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "predictions.parquet")
    values = accuracies(found, samples.labels, len(names))
    info = {"logit_scale": scale}
    return [
        record(
            model=model,
            dataset=dataset,
            value=v.value,
            n=v.n,
            metric=v.name,
            unit=unit,
            primary=v.name == "top1_accuracy",
            ci_low=v.ci_low,
            ci_high=v.ci_high,
            notes={"logit_scale": 100.0, **v.notes},
            model_info=info,
            **changes,
        )
        for v in values
    ]


def hits(run: Path, unit: str) -> np.ndarray:
    table = pq.read_table(run / "predictions" / unit / "predictions.parquet")
    return classification.hits(
        np.array(table["prediction"].to_pylist())[:, None], np.array(table["label"].to_pylist())
    )


def run_of(path: Path, models: tuple[str, ...], datasets: tuple[str, ...], **changes: Any) -> Path:
    """A run of zero-shot classification with predictions."""
    path.mkdir(parents=True, exist_ok=True)
    records = [r for m in models for d in datasets for r in zero_shot(path, m, d, **changes)]
    return write_run(path, records)
