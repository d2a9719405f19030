"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[
    list[str],
    typer.Option("--model", "-m", help="`NAME[=CHECKPOINT]`, repeatable; see `rwkvclip-eval models`."),
]
DataRootOption = Annotated[
    Path | None,
    typer.Option("--data-root", help="Folder that holds the datasets (`wds_cifar10/`, …)."),
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="Python file that registers encoders, datasets or tasks; repeatable."),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache", help="Feature store; `$RWKVCLIP_EVAL_CACHE` or the user's cache folder by default."
    ),
]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Open no socket; fail where something is not local.")
]


def prepare(plugin: list[Path] | None, *, offline: bool = False) -> None:
    """Forbid the network if asked to, then load the plugins."""
    if offline:
        from rwkvclip_eval.offline import forbid_network

        forbid_network()
    from rwkvclip_eval.plugins import load_plugin

    for path in plugin or ():
        load_plugin(path)
