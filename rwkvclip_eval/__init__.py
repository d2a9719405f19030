"""Evaluation of RWKV-CLIP, CLIP and ALIP checkpoints: zero-shot classification, retrieval, reports.

import rwkvclip_eval as rc

encoder = rc.load_encoder("rwkv-clip-b32=model_31.pt", device="cuda")
results = rc.evaluate(encoder, "smoke", data_root="data", limit=200)
results.value("cifar10")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwkvclip_eval.moved import MOVED, NAMES, PACKAGES
from rwkvclip_eval.version import __version__
from rwkvclip_models.moved import install

if TYPE_CHECKING:
    from rwkvclip_eval.encoders import as_encoder, expand_specs, load_encoder, register_encoder
    from rwkvclip_eval.encoders.protocol import Encoder, EncoderInfo, ImageFeatures
    from rwkvclip_eval.records.reading import load_predictions, load_results
    from rwkvclip_eval.report import write_report
    from rwkvclip_eval.run.evaluation import Results, evaluate, expected_numbers
    from rwkvclip_eval.run.options import RunOptions
    from rwkvclip_eval.run.plugins import register_dataset, register_task
    from rwkvclip_eval.run.stored_features import load_features
    from rwkvclip_eval.run.suite_run import run_suite

install(MOVED, PACKAGES, NAMES)

_HOME = {
    "as_encoder": "encoders",
    "expand_specs": "encoders",
    "load_encoder": "encoders",
    "Encoder": "encoders.protocol",
    "EncoderInfo": "encoders.protocol",
    "ImageFeatures": "encoders.protocol",
    "load_features": "run.stored_features",
    "register_dataset": "run.plugins",
    "register_encoder": "encoders",
    "register_task": "run.plugins",
    "write_report": "report",
    "load_predictions": "records.reading",
    "load_results": "records.reading",
    "run_suite": "run.suite_run",
    "Results": "run.evaluation",
    "RunOptions": "run.options",
    "evaluate": "run.evaluation",
    "expected_numbers": "run.evaluation",
}

__all__ = [
    "Encoder",
    "EncoderInfo",
    "ImageFeatures",
    "Results",
    "RunOptions",
    "__version__",
    "as_encoder",
    "evaluate",
    "expand_specs",
    "expected_numbers",
    "load_encoder",
    "load_features",
    "load_predictions",
    "load_results",
    "register_dataset",
    "register_encoder",
    "register_task",
    "run_suite",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # Names are imported when first used, so that reports need no torch.
    import importlib

    if f"{__name__}.{name}" in MOVED:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
