"""Which device solvers and scoring get, on a machine that may have one alone.

`cpu:1` is a name that PyTorch takes for the CPU, so it shows without a GPU whether the index is kept.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from toy import ColourDataset, ColourEncoder

import rwkvclip_eval as rc
from rwkvclip_eval import logistic as probe
from rwkvclip_eval.encoders import load_encoder
from rwkvclip_eval.features.decoding import decoded_batches
from rwkvclip_eval.plan.suite import LoadedSuite, parse_suite
from rwkvclip_eval.tasks import knn_probe

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = "python:toy_factory:pixels"


@pytest.fixture(autouse=True)
def _a_second_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users are refused an index of the CPU; here it stands for a second device."""
    monkeypatch.setattr("rwkvclip_models.device._check_cpu", lambda device: None)


def digits_suite(task: str, protocol: str, **options: Any) -> LoadedSuite:
    entry = {"task": task, "protocol": protocol, "datasets": ["digits"], "options": options}
    return parse_suite(json.dumps({"name": "mine", "tasks": [entry]}))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Names of the solving and scoring functions called, each with the device it got."""
    found: list[tuple[str, str]] = []

    def recorder(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def recorded(*given: Any, **named: Any) -> Any:
            bound = inspect.signature(original).bind(*given, **named)
            bound.apply_defaults()
            compute = bound.arguments.get("compute")
            found.append((name, str(compute.device if compute else bound.arguments["device"])))
            return original(*given, **named)

        return recorded

    for name in ("search_l2", "fit_logistic", "fit_lbfgs", "scores"):
        original = getattr(probe, name)
        wrapped = recorder(name, original)
        for module in [m for key, m in sys.modules.items() if key.startswith("rwkvclip_eval.")]:
            if vars(module).get(name) is original:
                monkeypatch.setattr(module, name, wrapped)
    monkeypatch.setattr(knn_probe, "log_votes", recorder("log_votes", knn_probe.log_votes))
    return found


@pytest.mark.parametrize(
    ("task", "protocol", "options", "called"),
    [
        ("linear_probe", "clip-certified", {}, {"search_l2", "fit_logistic", "scores"}),
        ("linear_probe", "clip-lbfgs", {"C": 1.0}, {"fit_lbfgs", "scores"}),
        (
            "few_shot_linear_probe",
            "clip-certified",
            {"shots": [1], "num_seeds": 2},
            {"search_l2", "fit_logistic", "scores"},
        ),
        ("knn_probe", "knn", {}, {"log_votes"}),
    ],
)
def test_probes_solve_and_score_on_the_device_that_evaluate_was_given(
    calls: list[tuple[str, str]],
    task: str,
    protocol: str,
    options: dict[str, Any],
    called: set[str],
) -> None:
    suite = digits_suite(task, protocol, **options)
    results = rc.evaluate(MODEL, suite, device="cpu:1", limit=100)
    assert {record.status for record in results.records} == {"ok"}
    assert {name for name, _ in calls} == called
    assert {where for _, where in calls} == {"cpu:1"}
    assert {record.model_info["device"] for record in results.records} == {"cpu:1"}


def test_an_encoder_says_which_of_several_devices_it_is_on() -> None:
    assert load_encoder(MODEL, device="cpu:1").info.device == "cpu:1"


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("cuda:1", True), ("cpu", False)])
def test_images_for_any_gpu_wait_in_pinned_memory(
    monkeypatch: pytest.MonkeyPatch, device: str, pinned: bool
) -> None:
    given: dict[str, Any] = {}

    class Loader(list[Any]):
        def __init__(self, *_: Any, **options: Any) -> None:
            given.update(options)

    monkeypatch.setattr("torch.utils.data.DataLoader", Loader)
    encoder = ColourEncoder()
    encoder.info = dataclasses.replace(encoder.info, device=device)
    assert list(decoded_batches(encoder, ColourDataset(), [], 0)) == []
    assert given["pin_memory"] is pinned
