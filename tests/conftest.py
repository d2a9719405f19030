"""Shared fixtures; skips of the `gpu` and `data` markers say their reason."""

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real image sets as webdataset tars; absent on most machines."""
    path = Path(os.environ.get("RWKVCLIP_SHARED", SHARED)) / "data"
    if not path.is_dir():
        pytest.skip("the real image sets (../shared/data) are not beside this checkout")
    return path


@pytest.fixture(scope="session")
def parity() -> Path:
    """Folder of official golden numbers; absent on most machines."""
    path = Path(os.environ.get("RWKVCLIP_SHARED", SHARED)) / "parity"
    if not path.is_dir():
        pytest.skip("the official golden numbers (../shared/parity) are not beside this checkout")
    return path


@pytest.fixture(scope="session")
def official(parity):
    """`inputs` and `recipe` modules, configurations, manifests and weights of the official code."""
    import torch

    def module(name):
        spec = importlib.util.spec_from_file_location(f"parity_{name}", parity / f"{name}.py")
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded

    recipe = module("recipe")

    def manifest(name):
        return json.loads((parity / f"manifest_{name}.json").read_text())

    return SimpleNamespace(
        inputs=module("inputs"),
        configs=json.loads((parity / "configs.json").read_text()),
        manifest=manifest,
        state=lambda name: {k: torch.tensor(recipe.fill(k, s)) for k, s in manifest(name).items()},
        golden=np.load(parity / "model_tiny.npz"),
    )


@pytest.fixture(scope="session")
def data_limit() -> int | None:
    """Samples per real image set: 200, or all (None) under `make test-data`."""
    return None if os.environ.get("RWKVCLIP_TEST_DATA") == "full" else 200


@pytest.fixture
def no_pdf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots' PDF files stay empty: choosing the fonts' glyphs is most of a report's time."""
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    monkeypatch.setattr(FigureCanvasPdf, "print_pdf", lambda *_, **__: None)


@pytest.fixture
def run(monkeypatch, capfd, tmp_path, no_pdf) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process; returns exit code, output and messages."""
    from rwkvclip_eval.cli import main as cli

    monkeypatch.setenv("RWKVCLIP_EVAL_CACHE", str(tmp_path / "cache"))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["rwkvclip-eval", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capfd.readouterr()
        return ended.value.code, said.out, said.err

    return call


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; none here"))
