"""Made-up measurements of speed, as run directories."""

import dataclasses
import json
import math
from pathlib import Path

from rwkvclip_eval.records.efficiency import Block, Cell, Measured, Part, Repeat, write_block
from rwkvclip_eval.records.schema import RunInfo

JITTER = (1.0, 1.004, 0.997, 1.002, 0.999)
ENVIRONMENT = {
    "python": "3.11.7",
    "packages": {"torch": "2.11.0", "rwkvclip-eval": "1.0"},
    "cpu": {"model": "Some CPU", "num_cores": 2},
    "git": {"commit": "0123456789abcdef", "clean": True},
}


def measured(model: str, seconds: float, *, turn: int = 0, n: int = 5, **facts: object) -> Measured:
    """Return a model's times: `seconds`, less or more by a few thousandths in each repeat."""
    series = [seconds * JITTER[(turn + i) % len(JITTER)] for i in range(n)]
    return Measured(
        model=model,
        spec=f"{model}=random:0",
        flops=10**9,
        repeats=[Repeat(seconds=one, calls=9, other_load=0.0) for one in series],
        latency_s={f"p{p}": seconds * (1 + p / 1000) for p in (50, 90, 95, 99)},
        baseline_bytes=100_000_000,
        peak_bytes=150_000_000,
        **facts,  # type: ignore[arg-type]  # fields of Measured
    )


def block(side: int, *models: Measured, noisy: str = "", **changes: object) -> Block:
    """Return a cell of the image tower, or of what `changes` says."""
    cell = dataclasses.replace(Cell(tower="image", batch=4, height=side, width=side), **changes)  # type: ignore[arg-type]
    return Block(cell=cell, device="cpu", models=models, ceiling_flops=1e11, noisy=noisy)


def pair(
    side: int, ours: float, theirs: float, *, noisy: str = "", model: str = "ours", **changes: object
) -> Block:
    """Return a cell of two models that take so many seconds; both share the noise of its size."""
    turn = side // 100
    models = (measured(model, ours, turn=turn), measured("theirs", theirs, turn=turn))
    return block(side, *models, noisy=noisy, **changes)


def linear_against_quadratic(**changes: object) -> list[Block]:
    """Return cells in which ours grows as the pixels, theirs as their square; equal at 400 px."""
    return [
        pair(side, 1e-6 * side**2, 1e-6 * side**2 * (side / 400) ** 2, **changes)  # type: ignore[arg-type]
        for side in (200, 300, 500, 800)
    ]


def taken_apart(seconds: float = 0.04, *, model: str = "ours", **facts: object) -> Block:
    """Return a cell whose models were taken apart, with energy and a largest batch."""
    one = pair(200, seconds, 0.08, model=model)
    parts = [
        Part(name="projections", seconds=seconds / 2, flops=8 * 10**8, bytes=10**7),
        Part(name="Bi-WKV", seconds=seconds / 4, flops=2 * 10**8, bytes=2 * 10**7),
        Part(name="rest", seconds=seconds / 4, flops=0, bytes=10**6),
    ]
    known = {"energy_j": 2.0, "energy_note": "a counter", "largest_batch": 96, "largest_note": "of up to 128"}
    models = [dataclasses.replace(m, **{**known, "parts": parts, **facts}) for m in one.models]  # type: ignore[arg-type]
    return dataclasses.replace(one, models=models, ceiling_bytes=1e10)


def info(command: str = "bench", **environment: object) -> RunInfo:
    """Return the description of a measurement on two cores."""
    return RunInfo(
        command=command,
        suite_name="efficiency",
        suite_text="",
        suite_sha256="",
        models=[],
        identity={"device": "cpu", "threads": 2},
        environment={**ENVIRONMENT, **environment},
        started_utc="",
    )


def write_run(path: Path, *blocks: Block, **environment: object) -> Path:
    """Write a run directory with those cells, without records."""
    path.mkdir(parents=True)
    for one in blocks:
        write_block(path / "cells" / f"{one.cell.key}.json", one)
    (path / "run.json").write_text(json.dumps(dataclasses.asdict(info(**environment))), encoding="utf-8")
    return path


def two_models(
    slower: float = 1.0, *, sides: tuple[int, ...] = (224, 448, 896), **how: object
) -> list[Block]:
    """Return cells of ours, whose times are `slower` times those of before, and of theirs."""
    return [
        block(
            side,
            measured("ours", slower * 1e-6 * side**2, turn=side // 7, **how),  # type: ignore[arg-type]
            measured("theirs", 1e-6 * side**2 * math.sqrt(side / 400), turn=side // 11, **how),  # type: ignore[arg-type]
        )
        for side in sides
    ]
