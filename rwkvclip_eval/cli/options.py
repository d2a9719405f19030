"""Options of commands, grouped as their help shows them, with short names for what they take."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rwkvclip_eval.errors import UserError, shown

_WORK, _DATA, _COMPUTE, _STORE = "What to run", "Data", "Computing", "Stored features"
_CARD, _VERDICT = "Model card", "Pass or fail"


def _option(*names: str, takes: str = "", panel: str | None = None, **more: Any) -> Any:
    """Return an option whose help shows `takes` for its value, nothing for a switch."""
    return typer.Option(*names, metavar=takes, rich_help_panel=panel, **more)


def _model(panel: str | None = None) -> Any:
    said = "Model and its checkpoint, repeatable; `rwkvclip-eval models` lists the names."
    return _option("--model", "-m", takes="NAME[=FILE]", panel=panel, help=said)


def _plugin(panel: str | None = None) -> Any:
    said = "Python file that registers models, datasets or tasks; repeatable."
    return _option("--plugin", takes="FILE", panel=panel, help=said)


def _data_root(panel: str | None = None) -> Any:
    said = "Folder that holds the datasets (`wds_cifar10/`, …)."
    return _option("--data-root", takes="DIR", panel=panel, help=said)


def _cache(panel: str | None = None) -> Any:
    said = "Feature store; `$RWKVCLIP_EVAL_CACHE` or the user's cache folder by default."
    return _option("--cache", takes="DIR", panel=panel, help=said)


ModelOption = Annotated[list[str], _model()]
PluginOption = Annotated[list[Path] | None, _plugin()]
DataRootOption = Annotated[Path | None, _data_root()]
CacheOption = Annotated[Path | None, _cache()]
# The same in the groups of `run`, which has many.
RunModelOption = Annotated[list[str], _model(_WORK)]
RunPluginOption = Annotated[list[Path] | None, _plugin(_WORK)]
RunDataRootOption = Annotated[Path | None, _data_root(_DATA)]
RunCacheOption = Annotated[Path | None, _cache(_STORE)]
SuiteArgument = Annotated[
    str, typer.Argument(metavar="SUITE", help="A shipped suite's name, or the path of a YAML file.")
]
OutOption = Annotated[
    Path,
    _option("--out", "-o", takes="DIR", panel=_WORK, help="Run directory; the same command continues it."),
]
DryRunOption = Annotated[
    bool,
    _option(
        "--dry-run",
        panel=_WORK,
        help="Encode nothing: say what is to be done, what is missing and about how long it takes.",
    ),
]
ShardOption = Annotated[
    str | None,
    _option(
        "--shard", takes="I/N", panel=_WORK, help="Member I (from 1) of a job array of N; `report` merges."
    ),
]
ReportOption = Annotated[
    bool, _option("--report/--no-report", panel=_WORK, help="Write OUT/report at the end.")
]
RequiredRootOption = Annotated[
    Path,
    typer.Option(
        "--data-root", metavar="DIR", help="Folder that holds the datasets; made where there is none."
    ),
]
SuiteOption = Annotated[
    str | None,
    typer.Option("--suite", metavar="SUITE", help="The datasets of a suite, by its name or its YAML file."),
]
LimitOption = Annotated[
    int | None,
    _option(
        "--limit",
        takes="N",
        panel=_DATA,
        min=1,
        max=10**9,
        help="Stratified subset of N samples, the same every time, marked in reports; a probe learns from "
        "at least two a class.",
    ),
]
ShotsOption = Annotated[
    str | None,
    _option(
        "--shots",
        takes="N,N,…",
        panel=_DATA,
        help="Training images a class in few-shot probes, such as 1,2,4,8,16; short for --set.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    _option(
        "--set",
        takes="NAME=VALUE",
        panel=_DATA,
        help="TASK.OPTION=VALUE in the place of the suite's own, repeatable; VALUE is YAML.",
    ),
]
AllowMissingOption = Annotated[
    int,
    _option(
        "--allow-missing", takes="N", panel=_DATA, min=0, max=10**9, help="Damaged images left out at most."
    ),
]
FailBelowOption = Annotated[
    Path | None,
    _option(
        "--fail-below",
        takes="FILE",
        panel=_VERDICT,
        help="YAML of floors: exit code 1 where a number is below its own. A finished run is not run again.",
    ),
]
OfflineOption = Annotated[
    bool,
    _option("--offline", panel=_DATA, help="Open no socket; fail where something is not local."),
]
DeviceOption = Annotated[
    str,
    _option(
        "--device",
        takes="NAME",
        panel=_COMPUTE,
        help="cpu, cuda, cuda:1 or mps (whose probes are solved on the CPU).",
    ),
]
PrecisionOption = Annotated[
    str, _option("--precision", takes="NAME", panel=_COMPUTE, help="fp32, bf16 or fp16.")
]
ImplementationOption = Annotated[
    str,
    _option("--implementation", takes="NAME", panel=_COMPUTE, help="Of Bi-WKV; auto says what it chose."),
]
BatchSizeOption = Annotated[
    int,
    _option(
        "--batch-size", takes="N", panel=_COMPUTE, min=1, max=65_536, help="Images or texts per forward pass."
    ),
]
WorkersOption = Annotated[
    int | None,
    _option(
        "--num-workers",
        takes="N",
        panel=_COMPUTE,
        min=0,
        max=1024,
        help="Decoding processes; by default up to 8, on a CPU a quarter of the cores.",
    ),
]
MemoryOption = Annotated[
    float,
    _option(
        "--memory-budget",
        takes="GB",
        panel=_COMPUTE,
        min=0.01,
        max=1e6,
        help="1e9 bytes that a probe's scores and gradients may take.",
    ),
]
PublishedOption = Annotated[
    list[Path] | None,
    _option(
        "--published",
        takes="DIR",
        help="Folder of CSV files with published numbers, beside those that are shipped; repeatable.",
    ),
]
SharedCacheOption = Annotated[
    Path | None,
    _option(
        "--shared-cache", takes="DIR", panel=_STORE, help="Read-only feature store for what your own lacks."
    ),
]
ModelCardOption = Annotated[
    bool,
    _option(
        "--model-card",
        panel=_CARD,
        help="Also a Hugging Face model card of each model, with .eval_results, in OUT/model_card/MODEL.",
    ),
]
CardOfOption = Annotated[
    list[str] | None,
    _option("--model", "-m", takes="NAME", panel=_CARD, help="A card of this model alone; repeatable."),
]
PushOption = Annotated[
    str | None,
    _option(
        "--push-to-hub",
        takes="OWNER/REPO",
        panel=_CARD,
        help="Upload the card of one model to a repository that exists; the rest of its README stays.",
    ),
]
NoCacheOption = Annotated[
    bool, _option("--no-cache", panel=_STORE, help="Keep features only while this command runs.")
]


def prepare(plugin: list[Path] | None, *, offline: bool = False) -> None:
    """Forbid the network if asked to, then load the plugins."""
    if offline:
        from rwkvclip_eval.offline import forbid_network

        forbid_network()
    from rwkvclip_eval.run.plugins import load_plugin

    for path in plugin or ():
        load_plugin(path)


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """Return I and N of `I/N`; None for none.

    Raises:
        UserError: it is no member of a job array.
    """
    if text is None:
        return None
    from rwkvclip_eval.schema import whole_number

    first, _, last = text.partition("/")
    index, count = whole_number(first), whole_number(last)
    if index is None or count is None or not 1 <= index <= count:
        raise UserError(f"--shard {shown(text)}: expected I/N with 1 ≤ I ≤ N, such as 2/8.")
    return index, count


def parse_pair(text: str) -> tuple[str, str]:
    """Return both names of `ONE..OTHER`.

    Raises:
        UserError: there are not two.
    """
    one, dots, other = text.partition("..")
    if not (one and dots and other):
        raise UserError(
            f"--difference {shown(text)}: expected ONE..OTHER, such as rwkv-clip-b32..alip-vit-b32."
        )
    return one, other


def command_line() -> str:
    """Return the command as it was typed, for the record."""
    program = Path(sys.argv[0]).name
    called = ["python", "-m", "rwkvclip_eval"] if program == "__main__.py" else [program]
    return shlex.join([*called, *sys.argv[1:]])
