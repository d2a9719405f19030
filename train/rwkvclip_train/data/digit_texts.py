"""Three kinds of text for the embedded digits, as the training data of RWKV-CLIP has them for photographs.

`raw` imitates alt text from the web: file names, shop phrases, dropped and misspelt words, half of the
content missing. `caption` is short and right. `description` says in whole sentences all there is to say.
Every text is a pure function of the sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rwkvclip_eval.data.embedded import digits_samples, scene_metadata
from rwkvclip_train.recipe import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rwkvclip_eval.data.embedded import DigitSample, Scene

CLUTTER = (
    "free download",
    "stock photo",
    "IMG_{n:04d}.jpg",
    "scan {n}",
    "buy now - best price",
    "#handwriting #numbers",
    "untitled document page {n}",
    "click to enlarge",
)
SINGLE_CAPTIONS = (
    "a handwritten {word}",
    "the digit {word}",
    "a photo of the digit {word}",
    "the number {word} in white",
)


def three_kinds(dataset: str, split: str) -> list[tuple[str, str, str]]:
    """Return (raw, caption, description) for each sample of an embedded dataset, in its order.

    Raises:
        RecipeError: only the embedded digits have the three kinds.
    """
    if dataset == "digits":
        return [_single(i, sample) for i, sample in enumerate(digits_samples(split))]
    if dataset == "digits_scenes":
        return [_scene(i, scene) for i, scene in enumerate(scene_metadata(split))]
    raise RecipeError(
        f"texts: kinds serves the datasets digits and digits_scenes, not {dataset!r}: choose captions, "
        "templates or a list of templates."
    )


def _single(index: int, sample: DigitSample) -> tuple[str, str, str]:
    rng = np.random.default_rng([index, 1])
    said = str(sample.digit) if rng.random() < 0.5 else sample.word
    return (
        _web_text([said], rng),
        SINGLE_CAPTIONS[rng.integers(len(SINGLE_CAPTIONS))].format(word=sample.word),
        f"A single handwritten {sample.word} fills the picture, drawn in white on a black ground.",
    )


def _scene(index: int, scene: Scene) -> tuple[str, str, str]:
    rng = np.random.default_rng([index, 2])
    said = [d.phrase if rng.random() < 0.5 else f"{d.colour} {d.digit}" for d in scene.digits]
    parts = [
        f"a {d.phrase} {'on' if d.position in ('left', 'right') else 'at'} the {d.position}"
        for d in scene.digits
    ]
    count = {2: "Two", 3: "Three"}[len(parts)]
    return (
        _web_text([s for s in said if rng.random() < 0.8] or said[:1], rng),
        scene.captions[rng.integers(len(scene.captions))],
        f"{count} handwritten digits: {', '.join(parts[:-1])} and {parts[-1]}.",
    )


def _web_text(said: Sequence[str], rng: np.random.Generator) -> str:
    clutter = CLUTTER[rng.integers(len(CLUTTER))].format(n=rng.integers(10_000))
    content = " ".join(said)
    if rng.random() < 0.2:
        gap = int(rng.integers(len(content)))
        content = content[:gap] + content[gap + 1 :]
    return f"{content} {clutter}" if rng.random() < 0.5 else f"{clutter} {content}"
