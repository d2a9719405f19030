"""What zero-shot predictions tell beside accuracies: classes taken for one another, and calibration.

Axes: n images, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rwkvclip_eval.compare.tables import read_table
from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.metrics.calibration import (
    Reliability,
    calibration_interval,
    expected_calibration_error,
    reliability,
)
from rwkvclip_eval.records.metrics import Metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rwkvclip_eval.compare.tables import Table
    from rwkvclip_eval.metrics.intervals import Interval
    from rwkvclip_eval.report.loading import Entry

TASK = "zero_shot_classification"
ECE = Metric(name="expected_calibration_error", title="expected calibration error", better="lower")
MAX_CONFUSIONS = 20
_ROUNDING = 1e-3
"""Of logits kept in float32."""
_COLUMNS = ("label", "prediction", "top_logits", "model_log_sum_exp")


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A class that is taken for another.

    Attributes:
        label: its name.
        prediction: name of the other.
        count: images.
        share: of the images of the class.
    """

    label: str
    prediction: str
    count: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Confidence beside accuracy, at the model's own logit scale and bias.

    Attributes:
        bins: images by confidence.
        error: expected calibration error.
        interval: of it.
    """

    bins: Reliability
    error: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What the predictions of one unit tell.

    Attributes:
        entry: a number of the unit.
        confusions: the largest first.
        calibration: None where predictions were made before the model's own scale was kept, or with integer
            logits.
    """

    entry: Entry
    confusions: tuple[Confusion, ...]
    calibration: Calibration | None


def read_outcomes(entries: Sequence[Entry]) -> dict[tuple[str, str], Outcomes]:
    """Return unit and model → what the runs keep of it, for zero-shot classification.

    Raises:
        OutputError: a file is damaged.
    """
    found: dict[tuple[str, str], Outcomes] = {}
    for entry in entries:
        r = entry.record
        key = (r.unit, entry.model)
        path = entry.run.path / "predictions" / r.unit / "predictions.parquet"
        # A unit that is no name of a folder would lead out of the run.
        if r.task != TASK or r.status != "ok" or key in found or "/" in r.unit or not path.exists():
            continue
        table = read_table(path, _COLUMNS)
        label, prediction = table["label"], table["prediction"]
        found[key] = Outcomes(
            entry=entry,
            confusions=tuple(_confusions(table)),
            calibration=_calibration(table, entry, label == prediction),
        )
    return found


def _confusions(table: Table) -> list[Confusion]:
    label, prediction, name = table["label"], table["prediction"], table.class_name
    wrong = label != prediction
    pairs, counts = np.unique(np.stack([label[wrong], prediction[wrong]]), axis=1, return_counts=True)
    of_class = dict(zip(*(x.tolist() for x in np.unique(label, return_counts=True)), strict=True))

    order = np.argsort(-counts, kind="stable")[:MAX_CONFUSIONS]
    return [
        Confusion(label=name(a), prediction=name(b), count=count, share=count / of_class[a])
        for a, b, count in ((*pairs[:, i].tolist(), int(counts[i])) for i in order)
    ]


def _calibration(table: Table, entry: Entry, hit: NDArray[np.bool_]) -> Calibration | None:
    scale, ranked = entry.record.model_info.get("logit_scale"), entry.record.notes.get("logit_scale")
    if "model_log_sum_exp" not in table.columns or scale is None or not ranked:
        return None
    bias = entry.record.model_info.get("logit_bias") or 0.0
    top = table["top_logits"].astype(np.float64)[:, 0]
    log_confidence = float(scale) / float(ranked) * top + float(bias) - table["model_log_sum_exp"]
    if log_confidence.max() > _ROUNDING:
        raise OutputError(
            f"{table.path}: model_log_sum_exp lies below the largest logit, which cannot be. Run the "
            "suite again."
        )
    confidence = np.exp(np.minimum(0.0, log_confidence))
    bins = reliability(confidence, hit)
    return Calibration(
        bins=bins,
        error=expected_calibration_error(bins),
        interval=calibration_interval(confidence, hit),
    )
