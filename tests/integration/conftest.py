"""A small real run: image folders on disk, the command line, in this process or in one of its own."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
from command import run_cli
from PIL import Image
from toy import COLOURS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SUITE = """\
name: colours
tasks:
  - task: zero_shot_classification
    protocol: [standard, clip-benchmark]
    datasets:
      - {name: colours, folder: colours, class_names: [red, green, blue], templates: ["a {c} picture"]}
  - task: zero_shot_retrieval
    datasets:
      - {name: pictures, folder: pictures}
"""


@pytest.fixture(scope="session")
def colour_suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite file beside its data: a folder per class, and a captioned folder."""
    base = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    lines = ["image,caption"]
    for name, colour in COLOURS.items():
        (base / "colours" / name).mkdir(parents=True)
        (base / "pictures").mkdir(exist_ok=True)
        for i in range(20):
            pixels = np.clip(np.array(colour) + rng.normal(0, 60, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(base / "colours" / name / f"{i:02d}.png")
            if i < 4:
                Image.fromarray(pixels).save(base / "pictures" / f"{name}{i}.png")
                lines += [f"{name}{i}.png,a {name} picture", f"{name}{i}.png,number {i} is {name}"]
    (base / "pictures" / "captions.csv").write_text("\n".join(lines) + "\n")
    (base / "suite.yaml").write_text(SUITE)
    return base / "suite.yaml"


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line as a process of its own, in the test's folder, with a feature store of its own."""

    def run(*arguments: str | Path, **extra: str) -> subprocess.CompletedProcess[str]:
        return run_cli(tmp_path, tmp_path / "cache", *arguments, **extra)

    return run


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., tuple[int, str, str]]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """As `process`, in this process: another one would import for longer than most commands take."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("RWKVCLIP_EVAL_CACHE", str(cache or tmp_path / "cache"))
        code, out, err = run(*arguments)
        return subprocess.CompletedProcess(arguments, code, out, err)

    return call
