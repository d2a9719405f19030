"""Draws docs/flavours.svg: learning rate and first beta of both flavours over the paper's run on YFCC15M.

python docs/flavour_curves.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from rwkvclip_train.optim.adamw import schedule
from rwkvclip_train.recipe import load_recipe

YFCC15M_PAIRS = 15_061_515
POINTS = 150


def main() -> None:
    """Write the drawing beside this file."""
    mpl.rcParams.update({"svg.hashsalt": "flavours", "svg.fonttype": "none", "font.size": 8})
    figure, (rates, betas) = plt.subplots(1, 2, figsize=(7, 2.4), layout="constrained")
    for flavour, style in (("corrected", {"lw": 3, "alpha": 0.5}), ("official", {"ls": "--", "color": "k"})):
        recipe = load_recipe("yfcc15m-b32", [f"flavour={flavour}"])
        num_steps = recipe.num_steps(YFCC15M_PAIRS)
        steps = np.unique(np.linspace(0, num_steps - 1, POINTS).astype(int))
        values = [schedule(recipe, int(step), num_steps) for step in steps]
        rates.plot(steps, [lr for lr, _ in values], label=flavour, **style)
        betas.plot(steps, [beta1 for _, (beta1, _) in values], label=flavour, **style)
    rates.set(title="learning rate", xlabel="step", ylim=0)
    betas.set(title="AdamW's first beta", xlabel="step")
    rates.legend()
    figure.savefig(Path(__file__).with_name("flavours.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
