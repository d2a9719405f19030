"""How a run goes: what the command line or a caller of `run_suite` may choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rwkvclip_eval.data.samples import default_cache_dir
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.features.context import Context
from rwkvclip_eval.features.options import EncodeOptions
from rwkvclip_eval.features.store import FeatureStore
from rwkvclip_eval.memory import MEMORY_BUDGET

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rwkvclip_eval.encoders.protocol import Encoder
    from rwkvclip_eval.encoders.spec import EncoderSpec
    from rwkvclip_eval.run.standing import Standing


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How to run; `limit`, `precision`, `allow_missing` change numbers and are part of the identity.

    Attributes:
        data_root: folder that holds the datasets.
        device: as torch names it.
        precision: `fp32`, `bf16` or `fp16`.
        implementation: of Bi-WKV: `auto` or a name.
        limit: samples of each split at most; None for all.
        allow_missing: damaged images left out of a split at most.
        offline: whether no socket may be opened.
        cache_dir: private feature store; `default_cache_dir()` by default.
        shared_cache: read-only store for what the private one lacks.
        use_cache: whether features are kept when the command ends.
        memory_budget: bytes that a probe's scores and gradients may take at once.
        encode: how batches are made.
    """

    data_root: Path | None = None
    device: str = "cpu"
    precision: str = "fp32"
    implementation: str = "auto"
    limit: int | None = None
    allow_missing: int = 0
    offline: bool = False
    cache_dir: Path | None = None
    shared_cache: Path | None = None
    use_cache: bool = True
    memory_budget: int = MEMORY_BUDGET
    encode: EncodeOptions = field(default_factory=EncodeOptions)


@dataclass(kw_only=True)
class RunContext(Context):
    """Of one run: also who is told of its units.

    Attributes:
        on_unit: told each unit's name and outcome.
        on_standing: told how far the run is.
    """

    on_unit: Callable[[str, str], None] = lambda unit, outcome: None
    on_standing: Callable[[Standing], None] = lambda standing: None


def make_store(options: RunOptions) -> FeatureStore:
    """Return the feature store the options ask for.

    Raises:
        UserError: the shared one is not there.
    """
    if options.shared_cache is not None and not options.shared_cache.is_dir():
        raise UserError(f"The shared feature store {options.shared_cache} is not a folder.")
    if not options.use_cache:
        return FeatureStore(None, options.shared_cache)
    return FeatureStore(options.cache_dir or default_cache_dir(), options.shared_cache)


def load_model(spec: EncoderSpec, options: RunOptions) -> Encoder:
    """Return the encoder of `spec` as the options ask for it."""
    from rwkvclip_eval.encoders import load_encoder

    return load_encoder(
        spec,
        device=options.device,
        precision=options.precision,
        implementation=options.implementation,
        offline=options.offline,
    )
