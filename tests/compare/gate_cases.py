"""Sets of hits with a given discordance, for the gate."""

import numpy as np

from rwkvclip_eval.compare import paired
from rwkvclip_eval.compare.gate import Gated


def flips(num_images, gained, lost):
    """The difference of two models of which the second gains and loses so many images."""
    before = np.arange(num_images) >= gained
    after = before.copy()
    after[:gained] = True
    after[gained : gained + lost] = False
    return paired.hits(before, after)


def gated(num_images, gained, lost, name="set", dataset=None, repeat=None):
    return Gated(
        name=name,
        dataset=dataset or name,
        difference=flips(num_images, gained, lost),
        repeat=flips(num_images, *repeat) if repeat else None,
    )


def suite(num_sets, num_images, discordance):
    """Sets of which as many images were gained as lost."""
    half = round(num_images * discordance / 2)
    return [gated(num_images, half, half, f"set {k}") for k in range(num_sets)]
