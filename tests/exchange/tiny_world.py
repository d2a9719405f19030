"""Tiny sets as CLIP_benchmark has them, and a way to its command line."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COLOURS = {
    "red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220),
    "white": (230, 230, 230), "black": (20, 20, 20), "pink": (240, 120, 160),
}  # fmt: skip


def picture(name: str, rng: np.random.Generator) -> Image.Image:
    """Return a noisy picture of one colour, 48 × 40 px."""
    noisy = np.array(COLOURS[name]) + rng.normal(0, 60, (40, 48, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def write_set(folder: Path, samples: Sequence[tuple[Image.Image, str, str]], **files: str) -> None:
    """Write a webdataset folder of (image, ending, text) samples."""
    (folder / "test").mkdir(parents=True)
    with tarfile.open(folder / "test" / "0.tar", "w") as tar:
        for i, (image, ending, text) in enumerate(samples):
            stream = io.BytesIO()
            image.save(stream, "PNG")
            for suffix, content in (("png", stream.getvalue()), (ending, text.encode())):
                member = tarfile.TarInfo(f"{i:04d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    (folder / "test" / "nshards.txt").write_text("1\n")
    for stem, text in files.items():
        (folder / f"{stem}.txt").write_text(text)


def run_theirs(cwd: Path, *arguments: str) -> None:
    """Run CLIP_benchmark's command line with our model type, in this process."""
    from rwkvclip_eval.exchange import clip_benchmark_entry

    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(cwd)
        patched.setattr("sys.argv", ["clip_benchmark", *arguments])
        clip_benchmark_entry.main()
