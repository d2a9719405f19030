"""Writes what `doctor --full` found: doctor.json (everything) and doctor.md (rows, worst errors, times)."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING

from rwkvclip_eval.bench import operator_table
from rwkvclip_eval.bench.limits import verdicts
from rwkvclip_eval.environment import environment
from rwkvclip_models.disk import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from rwkvclip_eval.bench.operators import Timing
    from rwkvclip_eval.bench.towers import TowerTiming
    from rwkvclip_eval.doctor.checks import DoctorReport
    from rwkvclip_eval.doctor.comparison import Case

_TOWER_HEADERS = ("image", "batch", "RWKV-CLIP", "ViT", "speed-up", "memory", "ViT's memory")


def write(
    out_dir: Path,
    report: DoctorReport,
    cases: Sequence[Case] = (),
    times: Sequence[Timing] = (),
    towers: Sequence[TowerTiming] = (),
) -> None:
    """Write doctor.json and doctor.md into `out_dir`, each at once or not at all.

    Raises:
        OutputError: the folder cannot be written.
    """
    facts = environment()
    judged = list(verdicts(times, towers))
    everything = {
        "environment": facts,
        "ok": report.ok,
        "checks": [dataclasses.asdict(c) for c in report.checks],
        # JSON has no NaN or infinity; null says the case gave no number.
        "cases": [
            dataclasses.asdict(c)
            | {"errors": {k: v if math.isfinite(v) else None for k, v in c.errors.items()}}
            for c in cases
        ],
        "times": [dataclasses.asdict(t) for t in times],
        "towers": [dataclasses.asdict(t) for t in towers],
        "limits": [dataclasses.asdict(v) | {"met": v.met} for v in judged],
    }
    write_text(out_dir / "doctor.json", json.dumps(everything, indent=1, allow_nan=False) + "\n")
    gpus = ", ".join(gpu["name"] for gpu in facts["gpus"]) or "no GPU"
    text = [
        "# Diagnosis",
        f"{facts['cpu']['model']} ({facts['cpu']['num_threads']} threads), {gpus}; "
        f"torch {facts['packages']['torch']}, CUDA {facts['cuda']}, Python {facts['python']}; "
        + ("everything passed." if report.ok else "**something failed.**"),
        _markdown(report.HEADERS, report.rows()),
        "## Operator times",
        operator_table.LEGEND,
        _markdown(operator_table.HEAD, operator_table.timing_rows(times)),
    ]
    if towers:
        table = _markdown(_TOWER_HEADERS, _tower_rows(towers))
        text += ["## Image towers, B/16, bfloat16, both compiled", table]
    if judged:
        limits = [
            (v.what, f"{v.measured:.2f}", f"{v.limit:.2f}", "met" if v.met else "missed") for v in judged
        ]
        text += ["## Limits", _markdown(("what", "measured", "limit", "verdict"), limits)]
    write_text(out_dir / "doctor.md", "\n\n".join(text) + "\n")


def _tower_rows(towers: Iterable[TowerTiming]) -> Iterator[tuple[str, ...]]:
    for t in towers:
        cells = (
            *(f"{ms:.2f} ms" for ms in (t.rwkv_ms, t.clip_ms)),
            f"{t.speedup:.2f}",
            *(f"{size / 2**30:.2f} GiB" for size in (t.rwkv_peak_bytes, t.clip_peak_bytes)),
        )
        yield (f"{t.image_px} px", str(t.batch), *(cells if not t.problem else (t.problem, *[""] * 4)))


def _markdown(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    from tabulate import tabulate

    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return tabulate(cells, headers, tablefmt="github", disable_numparse=True)
