"""What makes a run the run it is: what run.json says of it, and how two runs differ."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING

from rwkvclip_eval.errors import name_some, shown
from rwkvclip_eval.records.schema import RunInfo
from rwkvclip_eval.run.outcome import utc_now
from rwkvclip_models.config import CONFIG_LIMIT_BYTES
from rwkvclip_models.files import expanded, read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import Any

    from rwkvclip_eval.encoders.spec import EncoderSpec
    from rwkvclip_eval.plan.suite import LoadedSuite
    from rwkvclip_eval.records.schema import Average
    from rwkvclip_eval.run.options import RunOptions


def shard_folder(out: Path, shard: tuple[int, int] | None) -> Path:
    """Return the run directory of a member of a job array, `out` itself where there is none."""
    if shard and shard[1] > 1:
        return out / f"shard-{shard[0]:04d}-of-{shard[1]:04d}"
    return out


def run_info(
    loaded: LoadedSuite,
    models: Sequence[str],
    specs: Sequence[EncoderSpec],
    averages: Sequence[Average],
    *,
    options: RunOptions,
    shard: tuple[int, int] | None,
    command: str,
) -> RunInfo:
    """Return what a run says of itself before it begins.

    Args:
        loaded: the suite.
        models: specs as given.
        specs: the same, expanded.
        averages: that the suite names, resolved.
        options: how it runs.
        shard: member of a job array.
        command: the command line.
    """
    from rwkvclip_eval.encoders.spec import parse_spec
    from rwkvclip_eval.environment import environment

    public_models = [parse_spec(model).public_text for model in models]
    return RunInfo(
        command=command,
        suite_name=loaded.suite.name,
        suite_text=loaded.text,
        suite_sha256=loaded.sha256,
        models=public_models,
        identity={
            "suite": loaded.sha256,
            "models": public_models,
            "precision": options.precision,
            "limit": options.limit,
            "allow_missing": options.allow_missing,
            "shard": f"{shard[0]}/{shard[1]}" if shard else "",
            "model_configs": _config_hashes(specs),
        },
        environment=environment(),
        started_utc=utc_now(),
        averages=[dataclasses.asdict(average) for average in averages],
        shard=f"{shard[0]}/{shard[1]}" if shard else "",
    )


def _config_hashes(specs: Sequence[EncoderSpec]) -> dict[str, str]:
    """Return name of the configuration file → SHA-256, for models given as a JSON file of the user's."""
    files = {expanded(spec.model.partition(":")[2] or spec.model) for spec in specs}
    return {
        file.name: hashlib.sha256(
            read_bytes(file, limit=CONFIG_LIMIT_BYTES, what="model configuration")
        ).hexdigest()
        for file in sorted(files)
        if file.suffix == ".json" and file.is_file()
    }


def differences(there: RunInfo, now: RunInfo) -> list[str]:
    """Return a phrase for everything of their identities in which two runs differ; none where they agree."""
    one, other = there.identity, now.identity
    said = []
    for key in dict.fromkeys((*other, *one)):
        before, after = one.get(key), other.get(key)
        if before == after:
            continue
        if key == "suite":
            said.append(
                f"another text of the suite {now.suite_name}"
                if there.suite_name == now.suite_name
                else f"suite {there.suite_name} there, {now.suite_name} now"
            )
        elif key == "models":
            said += _set_differences("models", before or (), after or ())
        elif key == "model_configs":
            hashes, now_hashes = before or {}, after or {}
            changed = [name for name in sorted({*hashes} & {*now_hashes}) if hashes[name] != now_hashes[name]]
            said.append(f"another content of {', '.join(changed) or 'the configuration files'}")
        else:
            said.append(f"{key.replace('_', ' ')}: {_plain(before)} there, {_plain(after)} now")
    return said


def _set_differences(what: str, before: Iterable[Any], after: Iterable[Any]) -> list[str]:
    said = []
    for where, names in (
        ("only there", [name for name in before if name not in after]),
        ("only now", [name for name in after if name not in before]),
    ):
        said += [f"{what} {where}: {name_some(map(str, names))}"] if names else []
    return said or [f"{what} in another order"]


def _plain(value: object) -> str:
    return "none" if value in (None, "") else shown(value)
