"""A hundred kills at random moments of a small real run: the outcome is that of a run nobody killed.

Each attempt is a fork of a process that has the program imported (see `fork_server`), killed with SIGKILL at
a moment drawn from a seed, anywhere from its start to what a whole run takes; half of the kills hit the main
process alone and leave its workers to themselves. The same command then continues. When an attempt reaches
its end its outcome is compared, and the next begins with an empty folder.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from harness import Case, Harness
from PIL import Image
from small_world import NANO

import rwkvclip_eval as rc
from rwkvclip_eval.features.upkeep import entries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = 100
SUITE = """\
name: colours
tasks:
  - task: zero_shot_classification
    datasets:
      - {name: colours, folder: data/colours, templates: ["a {c}", "the {c}"]}
  - task: zero_shot_retrieval
    datasets:
      - {name: pictures, folder: data/pictures}
"""
ARGUMENTS = ("run", "suite.yaml", "-m", "rwkv.json=random:0", "--out", "out/run", "--batch-size", "2")
OUTCOME = ["unit", "status", "metric", "value", "n", "ci_low", "ci_high", "primary", "prompt_hash"]


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """The program in a fork server, beside the data of the run."""
    import json

    base = tmp_path_factory.mktemp("kills")
    world = base / "world"
    rng = np.random.default_rng(0)
    rows = ["image,caption"]
    for i in range(36):
        for path in (f"colours/{('red', 'green', 'blue')[i % 3]}/{i}.png", f"pictures/{i}.png"):
            file = world / "data" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(file)
        rows.append(f"{i}.png,picture number {i}")
    (world / "data" / "pictures" / "captions.csv").write_text("\n".join(rows) + "\n")
    (world / "suite.yaml").write_text(SUITE)
    (world / "rwkv.json").write_text(json.dumps(NANO))
    Image.new("RGB", (8, 8)).save(world / "picture.png")
    with Harness(world, base / "place") as made:
        yield made


def outcome(work: Path) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Return the records without times, and all predictions."""
    frame = rc.load_results(work / "out" / "run")
    columns = [*OUTCOME, "dataset_fingerprint", "feature_key", "model_info.fingerprint"]
    records = frame[columns].sort_values(["unit", "metric"]).reset_index(drop=True)
    files = sorted((work / "out" / "run" / "predictions").glob("*/*.parquet"))
    return records, {f"{f.parent.name}/{f.stem}": pd.read_parquet(f) for f in files}


def assert_same(found: Any, expected: Any) -> None:
    pd.testing.assert_frame_equal(found[0], expected[0])
    assert found[1].keys() == expected[1].keys()
    for name, table in expected[1].items():
        pd.testing.assert_frame_equal(found[1][name], table)


def assert_nothing_is_stuck(work: Path) -> None:
    assert all(entry["complete"] for entry in entries(work / "cache"))
    left = [p for folder in ("out", "cache") for p in (work / folder).rglob("*.tmp")]
    assert not left
    assert not list((work / "cache").rglob("*.partial"))


def test_a_hundred_kills_change_nothing_and_leave_nothing_stuck(harness: Harness) -> None:
    parts = ("suite.yaml", "rwkv.json", "data")
    case = Case(kind="kills", name="whole", argv=(*ARGUMENTS, "--num-workers", "0"), parts=parts)
    base = harness.lay_out(case)
    whole = harness.start(case, base)
    assert whole["code"] == 0, (base / "stderr").read_text()
    work = base / "work"
    expected = outcome(work)
    assert len(expected[1]) == 3
    rng = random.Random(20)
    kills = ends = attempts = 0
    base = harness.lay_out(case)
    while kills < KILLS or ends == 0:
        attempts += 1
        assert attempts < 4 * KILLS, f"{kills} kills and {ends} ends in {attempts} attempts"
        # Past the hundredth kill a run may end.
        wait = rng.uniform(0.02, 1.1 * whole["seconds"]) if kills < KILLS else None
        workers = str(rng.choice((0, 0, 2)))
        case = Case(kind="kills", name="killed", argv=(*ARGUMENTS, "--num-workers", workers), parts=parts)
        ended = harness.start(case, base, kill_after=wait, kill_group=rng.random() < 0.5)
        if ended["signal"] == 9:
            kills += 1
            continue
        assert ended["code"] == 0, (base / "stderr").read_text()
        assert_same(outcome(work), expected)
        assert_nothing_is_stuck(work)
        ends += 1
        if kills < KILLS:
            base = harness.lay_out(case)
    print(f"{kills} kills in {attempts} attempts, {ends} ends alike")  # noqa: T201  # figures for who runs it
