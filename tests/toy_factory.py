"""Factories for `--model python:toy_factory:…`.

TOY_DELAY_S slows encoding, so that kills land in it; the torchrun rank TOY_KILLED_RANK kills itself at its
third batch of four. A model of `afraid_of_black` gives NaN for black images unless TOY_BRAVE is set.
`pixels` makes a module that the suite runs like its own.
"""

import os
import signal
import time
from typing import Any

import numpy as np
import torch
from PIL import Image
from toy import ColourEncoder


class SlowColourEncoder(ColourEncoder):
    def encode_image(self, pixels: torch.Tensor) -> Any:
        time.sleep(float(os.environ.get("TOY_DELAY_S", "0")))
        if self.images == 8 and os.environ.get("TOY_KILLED_RANK") == os.environ.get("RANK", "none"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_image(pixels)


def make(checkpoint: str | None, device: str) -> ColourEncoder:
    return SlowColourEncoder(name=checkpoint or "colour")


def afraid_of_black(checkpoint: str | None, device: str) -> ColourEncoder:
    class Afraid(ColourEncoder):
        def encode_image(self, pixels: torch.Tensor) -> Any:
            features = super().encode_image(pixels + 0.01)
            if "TOY_BRAVE" not in os.environ:
                features.embedding[pixels.mean((1, 2, 3)) == 0] = float("nan")
            return features

    return Afraid(name="afraid")


def of_another_norm(checkpoint: str | None, device: str) -> ColourEncoder:
    class Twice(ColourEncoder):
        def encode_image(self, pixels: torch.Tensor) -> Any:
            features = super().encode_image(pixels)
            return features._replace(embedding=2 * features.embedding)

    return Twice(name="twice")


def broken(checkpoint: str | None, device: str) -> ColourEncoder:
    class Broken(ColourEncoder):
        def encode_image(self, pixels: torch.Tensor) -> Any:
            features = super().encode_image(pixels)
            features.embedding[1] = float("nan")
            return features

    return Broken(name="broken")


class Pixels(torch.nn.Module):
    """Features are the image in 8 × 8 grey pixels; it has no text tower."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(64))

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.adaptive_avg_pool2d(pixels.mean(1), 8)
        return self.gain * small.flatten(1)


def grey(image: Image.Image) -> torch.Tensor:
    array = np.asarray(image.convert("RGB").resize((8, 8)), dtype=np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)


def pixels(checkpoint: str | None, device: str) -> tuple[torch.nn.Module, Any, None]:
    return Pixels(), grey, None


def colour_blind(checkpoint: str | None, device: str) -> ColourEncoder:
    """The colour encoder, damaged: it takes red for green in images."""

    class ColourBlind(ColourEncoder):
        def encode_image(self, pixels: torch.Tensor) -> Any:
            return super().encode_image(pixels[:, [1, 1, 2]])

    return ColourBlind(name="colour-blind")
