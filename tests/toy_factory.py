"""Factories for `--model python:toy_factory:…`.

TOY_DELAY_S slows encoding, so that kills land in it; the torchrun rank TOY_KILLED_RANK kills itself at its
third batch of four. A model of `afraid_of_black` gives NaN for black images unless TOY_BRAVE is set.
"""

import os
import signal
import time
from typing import Any

import torch
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
