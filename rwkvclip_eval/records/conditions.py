"""What a measurement of speed was made on and with, out of the facts of its run. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rwkvclip_eval.records.schema import RunInfo

CONDITIONS = (
    *("device", "hardware", "threads", "torch", "cuda", "driver", "open_clip", "transformers"),
    *("python", "version", "commit"),
)
"""What a time depends on beside model and cell."""


def conditions(info: RunInfo) -> dict[str, str]:
    """Return what a measurement was made on and with: a text for each of `CONDITIONS`, empty where unknown.

    Args:
        info: of its run.
    """
    return told_conditions(info.environment, info.identity)


def told_conditions(facts: Mapping[str, object], identity: Mapping[str, object]) -> dict[str, str]:
    """Return the same of an environment's facts, and of an identity that names device and threads."""
    cpu, packages, git = (_mapping(facts.get(name)) for name in ("cpu", "packages", "git"))
    device = str(identity.get("device") or "")
    listed = facts.get("gpus")
    gpus = [str(_mapping(gpu).get("name")) for gpu in listed] if isinstance(listed, list) else []
    processor = f"{cpu['model']}, {cpu.get('num_cores')} cores" if cpu.get("model") else None
    found = {
        "device": device,
        "hardware": ", ".join(gpus) if gpus and not device.startswith("cpu") else processor,
        "threads": identity.get("threads"),
        "torch": packages.get("torch"),
        "cuda": facts.get("cuda"),
        "driver": facts.get("nvidia_driver"),
        "open_clip": packages.get("open_clip_torch"),
        "transformers": packages.get("transformers"),
        "python": facts.get("python"),
        "version": packages.get("rwkvclip-eval"),
        "commit": str(git.get("commit") or "")[:12] + ("" if git.get("clean", True) else " with changes"),
    }
    return {name: "" if found[name] is None else str(found[name]) for name in CONDITIONS}


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
