"""The first run: a nano RWKV-CLIP and a nano CLIP, trained and evaluated on data that needs no download."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

import rwkvclip_eval
from rwkvclip_eval import load_results
from rwkvclip_models.device import num_threads
from rwkvclip_train.loop import train
from rwkvclip_train.recipe import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_train.loop import TrainedModel

RECIPES = ("nano-digits-rwkv-clip", "nano-digits-clip")


@dataclass(frozen=True, kw_only=True)
class Headline:
    """One number of the first table, with what it takes to judge it.

    Attributes:
        model: as the report names it.
        dataset: record name.
        metric: name.
        value: fraction in [0, 1].
        ci_low: lower end of the 95 % interval; None where none is defined.
        ci_high: upper end.
        n: units the value is a mean over.
    """

    model: str
    dataset: str
    metric: str
    value: float
    ci_low: float | None
    ci_high: float | None
    n: int

    @property
    def interval(self) -> str:
        """The 95 % interval in per cent, empty where none is defined."""
        if self.ci_low is None or self.ci_high is None:
            return ""
        return f"[{100 * self.ci_low:.1f}, {100 * self.ci_high:.1f}]"


@dataclass(frozen=True, kw_only=True)
class QuickstartResult:
    """What the quickstart leaves behind.

    Attributes:
        out: the run directory.
        report: the HTML file to open.
        models: with checkpoints and training logs, RWKV-CLIP first.
        headlines: the primary metric of each model on each dataset.
        train_seconds: wall time of training.
        seconds: wall time in all.
    """

    out: Path
    report: Path
    models: tuple[TrainedModel, ...]
    headlines: tuple[Headline, ...]
    train_seconds: float
    seconds: float

    @property
    def text(self) -> str:
        """What to print: the headline numbers and where the report is."""
        rows = [
            (h.dataset, h.metric, h.model, f"{h.value:.1%}", h.interval, f"n={h.n}") for h in self.headlines
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(6)] if rows else []
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
        sizes = ", ".join(f"{m.name} {m.num_parameters:,}" for m in self.models)
        return "\n".join(
            [
                f"Trained in {self.train_seconds:.0f} s of {self.seconds:.0f} s (parameters: {sizes}).",
                *(line.rstrip() for line in lines),
                f"Report: {self.report}",
            ]
        )


def run_quickstart(out: Path, *, device: str = "cpu", progress: bool = True) -> QuickstartResult:
    """Train both nano models, evaluate them on the suite `quickstart` and write the report.

    Stopped at any moment, the same call continues. Opens no socket.

    Args:
        out: run directory; `training/` in it holds the training curves.
        device: for training and evaluation.
        progress: show bars on standard error.

    Raises:
        UserError: there is no such device, or `out` cannot be written or belongs to another run.
    """
    started = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(num_threads())
    try:
        models = tuple(train(load_recipe(r), out, device=device, progress=progress) for r in RECIPES)
        trained = time.perf_counter()
        rwkvclip_eval.run_suite(
            "quickstart",
            [model.spec for model in models],
            out,
            options=rwkvclip_eval.RunOptions(device=device, offline=True),
            command="rwkvclip-eval quickstart",
        )
        report = rwkvclip_eval.write_report([out], out / "report")
    finally:
        torch.set_num_threads(threads)
    return QuickstartResult(
        out=out,
        report=report.index,
        models=models,
        headlines=headlines(out),
        train_seconds=trained - started,
        seconds=time.perf_counter() - started,
    )


def headlines(out: Path) -> tuple[Headline, ...]:
    """Return the primary metric of each model on each dataset of the run directory `out`."""
    records = load_results(out)
    primary = records[(records["status"] == "ok") & records["primary"]]
    return tuple(
        Headline(
            model=row["model"],
            dataset=row["dataset"],
            metric=row["metric"],
            value=row["value"],
            ci_low=row["ci_low"],
            ci_high=row["ci_high"],
            n=int(row["n"]),
        )
        for row in primary.to_dict("records")
    )
