"""Cases of what runs left behind: stores, run directories, the state and log of a training run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from cases_inputs import cases, run
from data_files import npy, npy_header
from harness import Case
from mutations import Change, file_damages, in_json, in_places, written
from small_world import UNIT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

STORE = ("suite.yaml", "rwkv.json", "data/colours", "cache", "runs/real")


def _same_values(work: Path) -> list[str]:
    """Return what differs from a run that nobody damaged; a refusal gives no numbers at all."""
    if not (work / "out" / "results.jsonl").exists():
        return []
    runs = [(work / folder / "results.jsonl").read_text().splitlines() for folder in ("runs/real", "out")]
    values = [
        [tuple(map(json.loads(line).get, ("metric", "value", "ci_low"))) for line in lines] for lines in runs
    ]
    return [] if values[0] == values[1] else [f"{values[1]} instead of {values[0]}"]


def _entry(name: str, change: Change) -> Change:
    """Return the change of one file of the store's entry of images."""

    def apply(work: Path) -> None:
        (keys,) = (work / "cache/features").glob("??/*/keys.json")
        target = keys.with_name(name)
        link = work / "tmp" / "entry"
        link.symlink_to(target.parent)
        change(work)
        link.unlink()

    return apply


def stores() -> Iterator[Case]:
    files: dict[str, Mapping[str, Change]] = {}
    for name in ("meta.json", "embedding.npy", "keys.json"):
        files[name] = dict(file_damages(f"tmp/entry/{name}"))
    fields = [("kind",), ("encoder", "name"), ("total",), ("missing",), ("bytes",), ("sha256",), ("format",)]
    files["meta.json"] = {**files["meta.json"], **in_json("tmp/entry/meta.json", fields)}
    arrays = {
        "7 TiB": npy_header((1 << 40,)),
        "of objects": npy(np.array([None, {}], dtype=object)),
        "of another shape": npy(np.zeros((2, 3), np.float32)),
        "of another type": npy(np.zeros((6, 16), np.int64)),
        "of NaN": npy(np.full((6, 16), np.nan, np.float32)),
        "of ones": npy(np.ones((6, 16), np.float32)),
    }
    files["embedding.npy"] = {
        **files["embedding.npy"],
        **{name: written("tmp/entry/embedding.npy", content) for name, content in arrays.items()},
    }
    for name, changes in files.items():
        for what, change in changes.items():
            damaged = _entry(name, change)
            yield Case(
                kind=f"store: {name}",
                name=what,
                argv=run("suite.yaml"),
                parts=STORE,
                change=damaged,
                check=_same_values,
            )
            if what in (
                "half",
                "a pipe",
                "a link to /dev/zero",
                "brackets",
                "7 TiB",
                "kind is a list",
                "encoder.name is control characters",
            ):
                for command in ("show", "clear"):
                    yield Case(
                        kind=f"cache {command}",
                        name=f"{name}: {what}",
                        argv=("cache", command),
                        parts=("cache",),
                        change=damaged,
                    )
    foreign: dict[str, Change] = {
        "a folder that is no store": written("cache/features/ab/thesis.txt", "x"),
        "a store and a foreign file": written("cache/features/thesis.txt", "x"),
    }
    for what, change in foreign.items():
        yield Case(kind="cache clear", name=what, argv=("cache", "clear"), change=change)
    linked: dict[str, Change] = {
        "an entry that leads outside": _linked_entry,
        "a store that leads outside": _linked_store,
    }
    for what, change in linked.items():
        yield Case(
            kind="cache clear",
            name=what,
            argv=("cache", "clear"),
            parts=("cache",),
            change=change,
            codes=frozenset({0, 2}),
        )


def _linked_entry(work: Path) -> None:
    (work / "cache/features/ab").mkdir()
    (work / "cache/features/ab" / ("ab" * 32)).symlink_to(work.parent / "outside")


def _linked_store(work: Path) -> None:
    shutil.rmtree(work / "cache/features")
    (work.parent / "outside" / "ab" / ("ab" * 32)).mkdir(parents=True)
    (work.parent / "outside" / "ab" / ("ab" * 32) / "letter.txt").write_text("x")
    (work / "cache/features").symlink_to(work.parent / "outside")


RUN_FIELDS = [("command",), ("suite_text",), ("models",), ("environment",), ("duration_s",), ("identity",)]
RECORD_FIELDS = [
    ("unit",),
    ("value",),
    ("n",),
    ("model",),
    ("model_info",),
    ("ci_low",),
    ("notes",),
    ("status",),
    ("model_info", "num_parameters"),
    ("schema_version",),
]
LOG_FIELDS = [("step",), ("loss",), ("model",)]
EXAMPLE_FIELDS = [
    ("examples",),
    ("examples", 0, "query"),
    ("examples", 0, "retrieved"),
    ("examples", 0, "target"),
    ("thumbnails",),
    ("thumbnails", "0"),
]


def reports() -> Iterator[Case]:
    argv, parts = ("report", "runs/made", "--out", "out"), ("runs/made",)
    for file, fields, line in (
        ("results.jsonl", RECORD_FIELDS, 0),
        ("run.json", RUN_FIELDS, None),
        ("training/tiny.jsonl", LOG_FIELDS, 1),
        (f"examples/{UNIT}.json", EXAMPLE_FIELDS, None),
    ):
        path = f"runs/made/{file}"
        kind = f"report: {'examples' if file.startswith('examples') else file}"
        yield from cases(kind, argv, parts, file_damages(path, text=True))
        yield from cases(kind, argv, parts, in_json(path, fields, line=line))
    curve = "runs/probe/predictions/tiny.linear_probe.cifar10.standard/regularisation.parquet"
    argv, parts = ("report", "runs/probe", "--out", "out"), ("runs/probe",)
    yield from cases("report: curve", argv, parts, file_damages(curve))
    again = tuple("runs/real" if word == "out" else word for word in run("suite.yaml"))
    parts = ("runs/real", "suite.yaml", "rwkv.json", "data/colours", "cache")
    for file in ("results.jsonl", "run.json", ".lock"):
        # A lock is an empty file; what bytes it holds is all the same.
        make = in_places if file == ".lock" else file_damages
        damages = make(f"runs/real/{file}")
        yield from cases(f"run again: {file}", again, parts, damages)


def training() -> Iterator[Case]:
    argv = ("recipe.yaml", "--out", "trained", "--data-root", "data", "--quiet", "--threads", "1")
    parts = ("recipe.yaml", "data/wds_x", "trained")
    for file in ("models/tiny/resume.pt", "training/tiny.jsonl"):
        damages = file_damages(f"trained/{file}")
        yield from cases(f"training: {Path(file).name}", argv, parts, damages, program="rwkvclip_train")


def all_cases() -> Iterator[Case]:
    for make in (stores, reports, training):
        yield from make()
