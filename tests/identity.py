"""Shows that a change of the code changed no outcome: runs the same commands with two checkouts and compares.

    python tests/identity.py run CHECKOUT OUT [--store CACHE] [--data DIR]
    python tests/identity.py compare BEFORE AFTER

`run` runs the quickstart, `smoke` and `smoke-probe` (`--limit 200`; random RWKV-CLIP B/32, CLIP ViT-B/32,
the quickstart's trained RWKV-CLIP) and a run of two processes with the code of CHECKOUT, each in a folder.
With `--store` of an earlier OUT its trained model is taken, and features are looked for in its store.
`compare` compares values, intervals, predictions, examples, averages, what a reader sees, weights and stored
features; times, versions and fields that only the newer side knows are left out, these named.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
NOT_OUTCOME = {"created_utc", "seconds", "schema_version", "tables"}
"""Of a record: times, the version of its schema, and digests of files that are compared by themselves."""
OF_A_FILE = {"model_info", "feature_key"}
"""Of a record of the quickstart: named by the bytes of a checkpoint, of which the weights are compared."""
NOT_IDENTITY = {
    *("command", "environment", "started_utc", "duration_s", "stage_seconds", "schema_version"),
    "results_sha256",
}
"""Of run.json."""


def main() -> int:
    """Run or compare; 1 where something differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("checkout", type=Path)
    run.add_argument("out", type=Path)
    run.add_argument("--store", type=Path, help="OUT of an earlier `run`, whose features must be found")
    run.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    compare = commands.add_parser("compare")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.command == "run":
        run_all(given.checkout.resolve(), given.out.resolve(), given.data.resolve(), given.store)
        return 0
    problems, told = differences(given.before, given.after)
    sys.stdout.write("\n".join([*told, *problems, f"{len(problems)} differences"]) + "\n")
    return 1 if problems else 0


def run_all(checkout: Path, out: Path, data: Path, store: Path | None) -> None:
    """Run every command with the code of `checkout`; what is finished is not run again."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(checkout / folder) for folder in (".", "models", "train")),
        "OMP_NUM_THREADS": "1",
        "RWKVCLIP_CACHE_DIR": str(out / "cache"),
        "XDG_CACHE_HOME": str(out / "cache"),
    }
    out.mkdir(parents=True, exist_ok=True)
    if store is not None and not (out / "store").exists():
        shutil.copytree(store / "store", out / "store")
    models_of = out / "quickstart" if store is None else store.resolve() / "quickstart"

    def call(name: str, *arguments: str, launcher: tuple[str, ...] = ()) -> None:
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "rwkvclip_eval", *arguments],
            env=environment,
            cwd=out,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{name}: exit code {done.returncode}")

    call("quickstart", "quickstart", "--out", "quickstart")
    folder = models_of / "models" / "nano-digits-rwkv-clip"
    nano = f"{folder / folder.name}.json={sorted(folder.glob('step_*.pt'))[-1]}"
    models = [*("-m", "rwkv-clip-b32=random:0"), *("-m", "clip-vit-b32=random:0"), *("-m", nano)]
    common = [
        "--data-root",
        str(data),
        "--limit",
        "200",
        "--offline",
        "--num-workers",
        "0",
        "--cache",
        "store",
    ]
    for suite in ("smoke", "smoke-probe"):
        call(suite, "run", suite, *models, *common, "--out", suite)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    two = ["--data-root", str(data), "--limit", "64", "--offline", "--num-workers", "0", "--no-report"]
    call(
        "ranks",
        "run",
        "smoke",
        "-m",
        nano,
        *two,
        "--cache",
        "ranks-store",
        "--out",
        "ranks",
        launcher=torchrun,
    )


def differences(before: Path, after: Path) -> tuple[list[str], list[str]]:
    """Return what differs between two outputs of `run`, and what was compared or left out."""
    problems: list[str] = []
    told: list[str] = []
    for run in ("quickstart", "smoke", "smoke-probe", "ranks"):
        old, new = _records(before / run), _records(after / run)
        added = {key for record in new.values() for key in record} - {key for r in old.values() for key in r}
        told.append(f"{run}: {len(old)} records; new fields: {', '.join(sorted(added)) or 'none'}")
        problems += [f"{run}: {key} is on one side only" for key in old.keys() ^ new.keys()]
        for key in old.keys() & new.keys():
            for name in old[key]:
                if name not in NOT_OUTCOME | (OF_A_FILE if run == "quickstart" else set()) and not _alike(
                    old[key][name], new[key].get(name)
                ):
                    problems += _told(f"{run}: {key}: {name}", old[key][name], new[key].get(name))
        for name, value in _json(before / run / "run.json").items():
            found = _json(after / run / "run.json").get(name)
            if name not in NOT_IDENTITY and not _alike(value, found):
                problems += _told(f"{run}: run.json: {name}", value, found)
        problems += _other_files(before / run, after / run, "predictions/**/*.parquet", _table)
        problems += _other_files(before / run, after / run, "examples/*.json", Path.read_bytes)
        problems += _other_files(before / run, after / run, "models/**/step_*.pt", _weights)
        problems += _other_files(before / run, after / run, "report/index.html", _page)
    for store in ("store", "ranks-store"):
        entries = [
            {str(p.relative_to(side / store)) for p in (side / store).rglob("meta.json")}
            for side in (before, after)
        ]
        told.append(f"{store}: {len(entries[0])} entries")
        problems += [f"{store}: {name} is gone" for name in entries[0] - entries[1]]
        problems += _other_files(before / store, after / store, "features/**/*.npy", Path.read_bytes)
    return problems, told


def _records(run: Path) -> dict[str, dict[str, Any]]:
    lines = (run / "results.jsonl").read_text().splitlines()
    return {f"{r['unit']} {r['metric']}": r for r in map(json.loads, lines)}


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _alike(old: Any, new: Any) -> bool:
    """Return whether `new` says all that `old` does, byte for byte; keys that only it has are left out."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and _alike(value, new[key]) for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_alike, old, new))
    return json.dumps(old) == json.dumps(new)


def _told(where: str, old: Any, new: Any) -> list[str]:
    """Return a line for every part in which two values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = [_told(f"{where}.{key}", value, new.get(key)) for key, value in old.items()]
        return [line for own in lines for line in own]
    return [] if _alike(old, new) else [f"{where}: {old!r} → {new!r}"]


def _other_files(before: Path, after: Path, pattern: str, read: Callable[[Path], object]) -> list[str]:
    sides = [{str(p.relative_to(side)): p for p in side.glob(pattern)} for side in (before, after)]
    problems = [f"{before.name}: {name} is on one side only" for name in sides[0].keys() ^ sides[1].keys()]
    both = sides[0].keys() & sides[1].keys()
    return problems + [
        f"{before.name}: {name} differs" for name in both if read(sides[0][name]) != read(sides[1][name])
    ]


def _table(path: Path) -> object:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return table.schema.remove_metadata(), [column.to_pylist() for column in table.columns]


def _weights(path: Path) -> object:
    import torch

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return value.tolist() if isinstance(value, torch.Tensor) else value

    return plain(torch.load(path, weights_only=True))


def _page(path: Path) -> list[str]:
    """Return the words that a reader sees, without times, versions and the folder of the run."""
    text = re.sub(r"(?s)<(script|style).*?</\1>", " ", path.read_text())
    text = re.sub(r"<[^>]+>", "\n", text)
    changing = (
        r"\d+(\.\d+)?\s?(s|ms|min)\b|\d+ %|\d{4}-\d\d-\d\d\S*( \d\d:\d\d\S*)?"  # times
        r"|\S*\.pt\b|[0-9a-f]{7,40}|\d+\.\d+\.\d+\S*"  # paths, commits, versions
    )
    lines = [re.sub(changing, "…", line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    return [line for before, line in pairwise(["", *lines]) if before not in ("seconds", "git.clean")]


if __name__ == "__main__":
    sys.exit(main())
