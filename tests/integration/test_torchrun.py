"""Several processes encode one run under `torchrun`: equal bytes, one message, nothing that hangs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from command import environment

import rwkvclip_eval as rc
from rwkvclip_eval.features.options import EncodeOptions
from rwkvclip_eval.run.suite_run import run_suite

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_eval.run.suite_run import RunSummary

TOY = "python:toy_factory:make"

# Times and what depends on the machine are no part of an outcome.
NOT_OUTCOME = ("created_utc", "seconds")

RWKV_CLIP = {
    "input_size": 32,
    "image_depth": 1,
    "image_embed_dims": 16,
    "image_patch_size": 16,
    "image_hidden_rate": 2,
    "image_num_heads": 1,
    "ctx_len": 12,
    "vocab_size": 49408,
    "head_size": 16,
    "n_layer": 1,
    "n_embd": 16,
    "dim_att": 16,
    "dim_ffn": 32,
}


def torchrun(
    base: Path, ranks: int, *arguments: str | Path, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in `ranks` processes in the folder `base`, with the feature store base/cache."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return subprocess.run(
        [sys.executable, *launch, "-m", "rwkvclip_eval", "run", *map(str, arguments), "--no-report"],
        env=environment(base / "cache", **extra),
        cwd=base,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def features(base: Path) -> dict[str, bytes]:
    """Return the bytes of every finished entry's files, journals left out."""
    files = [path for path in (base / "cache").rglob("*") if path.suffix in (".npy", ".json")]
    return {str(path.relative_to(base)): path.read_bytes() for path in files}


def outcome(run: Path) -> list[dict[str, object]]:
    lines = (run / "results.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in NOT_OUTCOME} for line in lines]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    config = tmp_path_factory.mktemp("config") / "tiny.json"
    config.write_text(json.dumps(RWKV_CLIP))
    return [TOY, f"{config}=random:0"]


@pytest.fixture(scope="module")
def alone(colour_suite: Path, models: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of one process: `run` and `cache`."""
    base = tmp_path_factory.mktemp("alone")
    options = rc.RunOptions(cache_dir=base / "cache", encode=EncodeOptions(batch_size=4))
    summary: RunSummary = run_suite(colour_suite, models, base / "run", options=options)
    assert summary.exit_code == 0
    return base


def test_a_killed_rank_stops_all_and_another_number_of_ranks_ends_with_the_bytes_of_one_process(
    colour_suite: Path, models: list[str], alone: Path, tmp_path: Path
) -> None:
    run = [colour_suite, "--batch-size", "4", "--out", "run", *(f"--model={model}" for model in models)]
    killed = torchrun(tmp_path, 2, *run, TOY_DELAY_S="0.1", TOY_KILLED_RANK="1")
    assert killed.returncode != 0
    assert killed.stderr.count("Interrupted; run the same command again to continue.") <= 1
    journals = list((tmp_path / "cache").rglob("journal-1.jsonl"))
    assert [path.read_text().count("start") for path in journals] == [2]
    assert not (tmp_path / "run" / "results.jsonl").exists()

    done = torchrun(tmp_path, 3, *run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" units in ") == 1
    assert features(tmp_path) == features(alone)
    assert outcome(tmp_path / "run") == outcome(alone / "run")
    tables = sorted(path.relative_to(alone) for path in alone.rglob("*.parquet"))
    assert tables
    for table in tables:
        assert (tmp_path / table).read_bytes() == (alone / table).read_bytes()
    (spent,) = json.loads((tmp_path / "run" / "run.json").read_text())["stage_seconds"][-1:]
    assert spent["encode"] > 0


@pytest.mark.slow
def test_ranks_that_fail_leave_one_message(colour_suite: Path, tmp_path: Path) -> None:
    run = [colour_suite, "--batch-size", "4", "--model", "python:toy_factory:of_another_norm", "--out", "run"]
    failed = torchrun(tmp_path, 2, *run)
    assert failed.returncode != 0
    assert failed.stderr.count("must have L2 norm 1") == 1
    assert "Interrupted" not in failed.stderr
    assert not (tmp_path / "run" / "results.jsonl").exists()


@pytest.mark.slow
def test_ranks_that_cannot_encode_end_with_the_records_that_say_why(
    colour_suite: Path, tmp_path: Path
) -> None:
    run = [colour_suite, "--batch-size", "4", "--model", "python:toy_factory:broken", "--out", "run"]
    failed = torchrun(tmp_path, 2, *run)
    assert re.search(r"exitcode\s*:\s*3", failed.stderr)
    reasons = [line["reason"] for line in outcome(tmp_path / "run")]
    assert len(reasons) == 3
    assert all("NaN or infinity" in str(reason) for reason in reasons)
