"""Cases of the command line and the environment: every number, path and name that a command takes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cases_inputs import MODEL, RUN, run
from harness import Case
from mutations import CONTROL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

NUMBERS = ("-1", "0", "1e30", "nan", "inf", "x", "", "99999999999999999999", "1.5", "\x1b[31m")
LONG = "x" * 100_000
PATHS = {
    "long": LONG,
    "empty": "",
    "of control characters": "\x1b[31m\x07",
    "a device": "/dev/null",
    "a pipe": "pipe",
    "absent": "gone/gone",
    "a file": "suite.yaml",
    "not UTF-8": "\udcff",
}


def _given(value: str) -> tuple[str, ...]:
    """Return the path that a command names, and the folder it is in where that is to be made."""
    return (value, value.partition("/")[0])


def _pipe(work: Path) -> None:
    os.mkfifo(work / "pipe")


def options() -> Iterator[Case]:
    parts = ("suite.yaml", "rwkv.json", "data/colours", "recipe.yaml", "data/wds_x", "runs/made")
    base = run("suite.yaml")
    for option in (
        "--batch-size",
        "--num-workers",
        "--limit",
        "--allow-missing",
        "--memory-budget",
        "--shots",
        "--shard",
    ):
        for value in NUMBERS:
            if (option, value) in FINE_NUMBERS:
                continue
            argv = tuple(a for a in base if a not in (option, "0")) if option == "--num-workers" else base
            yield Case(
                kind=f"option {option}", name=repr(value), argv=(*argv, f"{option}={value}"), parts=parts
            )
    for option in ("--device", "--precision", "--implementation"):
        for value in ("x", "", "cuda:99", "\x1b[31m", LONG, "meta"):
            yield Case(
                kind=f"option {option}", name=repr(value[:20]), argv=(*base, f"{option}={value}"), parts=parts
            )
    for option in ("--data-root", "--out", "--cache", "--shared-cache", "--plugin"):
        for name, value in PATHS.items():
            yield Case(
                kind=f"option {option}",
                name=name,
                argv=(*base, f"{option}={value}"),
                parts=parts,
                change=_pipe,
                given=_given(value),
            )
    for model in (
        "",
        "=",
        "=x",
        "x:",
        "zzz",
        "rwkv.json=",
        "rwkv.json=random:-1",
        "rwkv.json=random:x",
        f"rwkv.json=random:{'9' * 30}",
        f"rwkv.json=random:{'9' * 5000}",
        "rwkv.json=gone.pt",
        "rwkv.json=*.pt",
        "rwkv.json=/dev/zero",
        "rwkv.json=data",
        "rwkv.json=pipe",
        "pipe=random:0",
        "pipe.json=random:0",
        "hf:",
        "hf:gone",
        "hf:data",
        "hf:/dev/zero",
        "open_clip:",
        "open_clip:zzz",
        "open_clip:pipe",
        "open_clip:pipe.json",
        "open_clip:ViT-B-32=zzz",
        "python:",
        "python:zzz",
        "python:zzz:make",
        "python:os:zzz",
        "\x1b[31m",
        LONG,
        "rwkv.json=" + LONG,
        "hf://x/y/z",
        "rwkv.json=hf://",
        "rwkv.json=http://127.0.0.1:9/x.pt",
        "clip-vit-b32=random:0@ema",
        "\udcff",
        "rwkv.json=\udcff",
    ):
        argv = ("run", "suite.yaml", "-m", model, *RUN, "--offline")
        yield Case(
            kind="model name", name=repr(model[:40]) + str(len(model)), argv=argv, parts=parts, change=_pipes
        )
    for name in (
        "",
        ".",
        "..",
        "../x",
        "/etc",
        "a/b",
        "x@../../y",
        "x:../../y",
        "cifar10:../../y",
        "cifar10@",
        "cifar10@../../x",
        "cifar10@zzz",
        "zzz",
        "\x1b[31m",
        LONG,
        "\udcff",
        "python:os:system",
        "@",
        ":",
        "birds/../../../outside",
    ):
        shown = repr(name[:30]) + str(len(name))
        prepare = ("data", "prepare", "--data-root", "out/made", "--from", "data/colours", "--", name)
        yield Case(kind="data prepare NAME", name=shown, argv=prepare, parts=parts)
        verify = ("data", "verify", "--data-root", "data", "--", name)
        yield Case(kind="data verify NAME", name=shown, argv=verify, parts=parts, codes=frozenset({1, 2, 3}))
    for split in ("../../../x", "/etc", "", "..", "a/b", "zzz", "\x1b[31m", LONG, "\udcff", "train\n"):
        prepare = (
            "data",
            "prepare",
            "birds",
            "--from",
            "data/colours",
            "--data-root",
            "out/made",
            f"--split={split}",
        )
        yield Case(kind="data prepare --split", name=repr(split[:30]), argv=prepare, parts=parts)
    for option in ("--from", "--data-root"):
        for name, value in PATHS.items():
            given = {"--from": "data/colours", "--data-root": "out/made"} | {option: value}
            argv = ("data", "prepare", "birds", "--split=test", *(f"{k}={v}" for k, v in given.items()))
            yield Case(
                kind=f"data prepare {option}",
                name=name,
                argv=argv,
                parts=parts,
                change=_pipe,
                given=_given(value) if option == "--data-root" else (),
            )
    for value in NUMBERS:
        argv = (
            "data",
            "prepare",
            "birds",
            "--split=test",
            "--from=data/colours",
            "--data-root=out/made",
            f"--samples-per-shard={value}",
        )
        yield Case(kind="data prepare --samples-per-shard", name=repr(value), argv=argv, parts=parts)
    for name, value in PATHS.items():
        for command in (
            ("report", value, "--out", "out"),
            ("validate", value),
            ("cache", "show", "--cache", value),
            ("cache", "clear", "--cache", value),
            ("data", "list", "--data-root", value),
            ("data", "verify", "x", "--data-root", value),
        ):
            shown = " ".join(part for part in command if part != value)
            yield Case(
                kind=f"path of {shown}",
                name=name,
                argv=command,
                parts=parts,
                change=_pipe,
                given=_given(value),
                codes=frozenset({1, 2, 3}) if "verify" in command else frozenset({2, 3}),
            )
        yield Case(
            kind="report --out",
            name=name,
            argv=("report", "runs/made", "--out", value),
            parts=parts,
            change=_pipe,
            given=_given(value),
        )
        yield Case(
            kind="path of a recipe",
            name=name,
            argv=(value, "--check"),
            parts=parts,
            change=_pipe,
            given=_given(value),
            program="rwkvclip_train",
        )
    train = ("recipe.yaml", "--out", "out", "--data-root", "data", "--quiet")
    for option in ("--threads", "--num-workers"):
        for value in ("-1", "nan", "x", "", "99999999999999999999", "1.5"):
            yield Case(
                kind=f"training {option}",
                name=repr(value),
                argv=(*train, f"{option}={value}"),
                parts=parts,
                program="rwkvclip_train",
            )
    for value in ("x", "cuda:99", "", "meta"):
        yield Case(
            kind="training --device",
            name=repr(value),
            argv=(*train, f"--device={value}"),
            parts=parts,
            program="rwkvclip_train",
        )


def _pipes(work: Path) -> None:
    _pipe(work)
    os.mkfifo(work / "pipe.json")


FINE_NUMBERS = {("--num-workers", "0"), ("--allow-missing", "0")}

ENVIRONMENT: dict[str, Mapping[str, str]] = {
    "WORLD_SIZE of a text": {"WORLD_SIZE": "abc"},
    "WORLD_SIZE below one": {"WORLD_SIZE": "-1"},
    "WORLD_SIZE of 10^30": {"WORLD_SIZE": "1" + "0" * 30},
    "no RANK": {"WORLD_SIZE": "2"},
    "RANK of a text": {"WORLD_SIZE": "2", "RANK": "x", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
    "RANK beyond the size": {
        "WORLD_SIZE": "2",
        "RANK": "7",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_PORT": "1",
    },
    "MASTER_PORT of a text": {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_PORT": "x",
        "MASTER_ADDR": "localhost",
    },
    "no MASTER_ADDR": {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_PORT": "0",
    },
}
CACHES = {
    "a cache that is a device": "/dev/null",
    "a cache that is a file": "suite.yaml",
    "a cache of control characters": "\x1b[31m\x07",
    "a cache that cannot be made": "/proc/x",
    "a cache of 100,000 letters": LONG,
    "an empty cache": "",
}


def environments() -> Iterator[Case]:
    parts = ("suite.yaml", "rwkv.json", "data/colours")
    for name, variables in ENVIRONMENT.items():
        env = {"TORCHELASTIC_RUN_ID": "x", **variables}
        yield Case(kind="environment", name=name, argv=run("suite.yaml"), parts=parts, env=env)
        if name.startswith("WORLD_SIZE"):
            yield Case(
                kind="environment",
                name=f"{name}, without torchrun",
                argv=run("suite.yaml"),
                parts=parts,
                env=variables,
            )
    for name, value in CACHES.items():
        for argv in (run("suite.yaml"), ("cache", "show"), ("cache", "clear")):
            shown = " ".join(argv[:2]) if argv[0] == "cache" else "run"
            yield Case(
                kind="environment",
                name=f"{name}: {shown}",
                argv=argv,
                parts=parts,
                env={"RWKVCLIP_EVAL_CACHE": value, "XDG_CACHE_HOME": ""},
                given=(value or "../home/.cache",),
            )
    for name, env in (
        ("COLUMNS of a text", {"COLUMNS": "x"}),
        ("COLUMNS of 0", {"COLUMNS": "0"}),
        ("COLUMNS of 10^9", {"COLUMNS": "1000000000"}),
        ("TERM of control characters", {"TERM": CONTROL.replace("\0", "")}),
        ("LANG of C", {"LANG": "C", "PYTHONIOENCODING": "ascii"}),
    ):
        yield Case(kind="environment", name=name, argv=("run", "gone.yaml", *MODEL, "--out", "out"), env=env)


def all_cases() -> Iterator[Case]:
    for make in (options, environments):
        yield from make()
