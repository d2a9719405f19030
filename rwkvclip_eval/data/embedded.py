"""Real images that ship with scikit-learn: its handwritten digits, alone and composed into captioned scenes.

scikit-learn's digits are the test part of the UCI "Optical Recognition of Handwritten Digits" set: 1,797
pictures of 8×8 px with ink values 0 to 16. `digits` is a classification set of them in two fixed halves,
stratified by class. `digits_scenes` is a retrieval set: two or three tinted digits on a black canvas with
captions that say which digit, in which colour, stands where. Scenes of a split use digits of that half only,
and no two scenes of a split show the same digits in the same colours and places, so no caption fits two.
Everything is a pure function of the split.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rwkvclip_eval.data.samples import Split, fingerprint_samples, targets
from rwkvclip_eval.errors import DataNotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

Half = Literal["train", "test"]
Layout = Literal["row", "column", "quadrants"]

IMAGE_SIZE_PX = 64
GLYPH_SIZE_PX = 32
NUM_SCENES: dict[Half, int] = {"train": 4000, "test": 500}
LIGHT_PER_INK = 15
"""Light levels (of 255) per ink level (of 16); a whole number keeps products exact until the one rounding."""
THREE_DIGIT_SHARE = 0.3
DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS: dict[str, tuple[float, float, float]] = {
    "white": (1.0, 1.0, 1.0),
    "red": (1.0, 0.125, 0.125),
    "green": (0.125, 0.875, 0.25),
    "blue": (0.25, 0.375, 1.0),
    "yellow": (1.0, 0.875, 0.0),
    "purple": (0.75, 0.125, 1.0),
}
"""Name → share of red, green and blue light of full ink. Sums of few powers of two keep pixels exact."""

DIGITS_TEMPLATES = (
    "a photo of the digit {c}.",
    "a handwritten {c}.",
    "the number {c} written by hand.",
    "a {c} in white on black.",
)
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True, kw_only=True)
class DigitSample:
    """One picture of the `digits` set.

    Attributes:
        key: of the sample.
        row: row in scikit-learn's arrays.
        digit: what it shows, 0 to 9.
    """

    key: str
    row: int
    digit: int

    @property
    def word(self) -> str:
        """The digit as a word."""
        return DIGIT_WORDS[self.digit]


@dataclass(frozen=True, kw_only=True)
class PlacedDigit:
    """One digit of a scene.

    Attributes:
        digit: 0 to 9.
        colour: a name of `COLOURS`.
        position: `left`, `right`, `top`, `bottom` or one of `QUADRANTS`.
        x_px: left edge of its glyph.
        y_px: top edge.
        row: row in scikit-learn's arrays.
    """

    digit: int
    colour: str
    position: str
    x_px: int
    y_px: int
    row: int

    @property
    def phrase(self) -> str:
        """Colour and digit word, as captions say it."""
        return f"{self.colour} {DIGIT_WORDS[self.digit]}"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What one picture of `digits_scenes` shows.

    Attributes:
        key: of the sample.
        layout: how its digits lie.
        digits: in reading order.
        captions: each true of it and of no other scene of its split.
    """

    key: str
    layout: Layout
    digits: tuple[PlacedDigit, ...]
    captions: tuple[str, ...]


@dataclass(frozen=True)
class EmbeddedReader:
    """Renders the images of `digits` or `digits_scenes`.

    Attributes:
        name: `digits` or `digits_scenes`.
        half: split of the set.
    """

    name: str
    half: Half

    def read(self, index: int) -> Image:
        """Return the picture, RGB."""
        from PIL import Image

        return Image.fromarray(self.pixels(index))

    def pixels(self, index: int) -> np.ndarray[Any, Any]:
        """Return the picture as [64, 64, 3] uint8."""
        if self.name == "digits":
            return _tinted(digits_samples(self.half)[index].row, IMAGE_SIZE_PX, "white")
        canvas = np.zeros((IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), dtype=np.uint8)
        for digit in scene_metadata(self.half)[index].digits:
            glyph = _tinted(digit.row, GLYPH_SIZE_PX, digit.colour)
            canvas[digit.y_px : digit.y_px + GLYPH_SIZE_PX, digit.x_px : digit.x_px + GLYPH_SIZE_PX] = glyph
        return canvas

    def where(self, index: int) -> str:
        """Return what a message should name."""
        return f"scikit-learn's digits, {self.name} {self.half} {index}"


@functools.lru_cache(maxsize=8)
def open_embedded(name: str, split: str) -> Split:
    """Open `digits` or `digits_scenes`.

    Raises:
        DataNotFound: the name or the split is another.
    """
    half = _half(split)
    reader = EmbeddedReader(name, half)
    source = f"scikit-learn digits, {half} half"
    if name == "digits":
        samples = digits_samples(half)
        keys = [s.key for s in samples]
        labels = np.array([s.digit for s in samples], dtype=np.int64)
        return Split(
            kind="classification",
            keys=keys,
            images=reader,
            source=source,
            fingerprint=_fingerprint(reader, keys, targets(labels, None)),
            labels=labels,
            class_names=DIGIT_WORDS,
            templates=DIGITS_TEMPLATES,
        )
    if name == "digits_scenes":
        scenes = scene_metadata(half)
        keys = [s.key for s in scenes]
        captions = [s.captions for s in scenes]
        return Split(
            kind="retrieval",
            keys=keys,
            images=reader,
            source=source,
            fingerprint=_fingerprint(reader, keys, targets(None, captions)),
            captions=captions,
        )
    raise DataNotFound(f"No embedded dataset is called {name!r}; there are digits and digits_scenes.")


@functools.lru_cache(maxsize=2)
def digits_samples(split: str) -> tuple[DigitSample, ...]:
    """Return the pictures of one half of scikit-learn's digits, in its order; halves share none.

    Raises:
        DataNotFound: `split` is neither `train` nor `test`.
    """
    half = _half(split)
    _, labels = _digits()
    draw = np.random.default_rng(0).random(len(labels))
    rows: list[int] = []
    for digit in range(10):
        own = np.flatnonzero(labels == digit)
        shuffled = own[np.argsort(draw[own], kind="stable")]
        middle = len(own) // 2
        rows += (shuffled[:middle] if half == "train" else shuffled[middle:]).tolist()
    return tuple(DigitSample(key=f"digit{row:04d}", row=row, digit=int(labels[row])) for row in sorted(rows))


@functools.lru_cache(maxsize=2)
def scene_metadata(split: str) -> tuple[Scene, ...]:
    """Return what every scene of a split shows, with its captions.

    Raises:
        DataNotFound: `split` is neither `train` nor `test`.
    """
    half = _half(split)
    samples = digits_samples(half)
    draw = _Draw(1 if half == "train" else 2)
    seen: set[tuple[object, ...]] = set()
    scenes: list[Scene] = []
    while len(scenes) < NUM_SCENES[half]:
        layout: Layout = "quadrants"
        if not draw.chance(THREE_DIGIT_SHARE):
            layout = "row" if draw.chance(0.5) else "column"
        placed = _place(layout, samples, draw)
        content = (layout, *((d.digit, d.colour, d.position) for d in placed))
        if content in seen:
            continue
        seen.add(content)
        phrasings = _phrasings(layout, placed)
        num_captions = 2 + draw.below(len(phrasings) - 1)
        captions = tuple(phrasings[i] for i in draw.distinct(num_captions, len(phrasings)))
        key = f"scene{len(scenes):04d}"
        scenes.append(Scene(key=key, layout=layout, digits=placed, captions=captions))
    return tuple(scenes)


class _Draw:
    """Draws from `default_rng(seed).random()` alone, numpy's most stable stream."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def chance(self, share: float) -> bool:
        return self._random.random() < share

    def below(self, stop: int) -> int:
        return int(self._random.random() * stop)

    def distinct(self, count: int, stop: int) -> list[int]:
        """Return `count` different numbers below `stop`, in drawn order."""
        left = list(range(stop))
        return [left.pop(self.below(len(left))) for _ in range(count)]


def _place(layout: Layout, samples: Sequence[DigitSample], draw: _Draw) -> tuple[PlacedDigit, ...]:
    """Return digits in reading order; the pair of a row or column is shifted as a whole."""
    far = IMAGE_SIZE_PX - GLYPH_SIZE_PX
    corners = {name: (far * (i % 2), far * (i // 2)) for i, name in enumerate(QUADRANTS)}
    if layout == "quadrants":
        places = [(QUADRANTS[i], *corners[QUADRANTS[i]]) for i in sorted(draw.distinct(3, len(QUADRANTS)))]
    elif layout == "row":
        y = draw.below(far + 1)
        places = [("left", 0, y), ("right", far, y)]
    else:
        x = draw.below(far + 1)
        places = [("top", x, 0), ("bottom", x, far)]
    names = list(COLOURS)
    colours = draw.distinct(len(places), len(names))
    chosen = [samples[draw.below(len(samples))] for _ in places]
    return tuple(
        PlacedDigit(digit=s.digit, colour=names[c], position=position, x_px=x, y_px=y, row=s.row)
        for s, c, (position, x, y) in zip(chosen, colours, places, strict=True)
    )


def _phrasings(layout: Layout, placed: Sequence[PlacedDigit]) -> list[str]:
    """Return all captions of a scene; each names every digit with its colour and place."""
    first, second = placed[0].phrase, placed[1].phrase
    if layout == "row":
        return [
            f"a {first} to the left of a {second}",
            f"a {second} to the right of a {first}",
            f"two handwritten digits side by side, a {first} and then a {second}",
            f"on the left a {first}, on the right a {second}",
            f"{first} left, {second} right",
        ]
    if layout == "column":
        return [
            f"a {first} above a {second}",
            f"a {second} below a {first}",
            f"two handwritten digits, a {first} on top of a {second}",
            f"at the top a {first}, at the bottom a {second}",
            f"{first} top, {second} bottom",
        ]
    third = placed[2].phrase
    a, b, c = (p.position for p in placed)
    return [
        f"a {first} at the {a}, a {second} at the {b} and a {third} at the {c}",
        f"three handwritten digits, {first} {a}, {second} {b}, {third} {c}",
        f"{third} in the {c} corner, {second} in the {b} corner, {first} in the {a} corner",
        f"{first} {a}, {second} {b}, {third} {c}",
        f"in the {a} a {first}, in the {b} a {second}, in the {c} a {third}",
    ]


@functools.lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return scikit-learn's pictures [1797, 8, 8] (ink 0 to 16) and digits [1797]."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.asarray(bunch.images, dtype=np.float64), np.asarray(bunch.target, dtype=np.int64)


@functools.lru_cache(maxsize=4)
def _upsampling(size_px: int) -> np.ndarray[Any, Any]:
    """Return the [size_px, 8] matrix of linear interpolation between pixel centres.

    For sizes that are 8 times a power of two every weight is a multiple of 1/16, so products are exact in
    float64 and pictures are the same on every machine.
    """
    centres = np.clip((np.arange(size_px) + 0.5) * 8 / size_px - 0.5, 0, 7)
    weights: np.ndarray[Any, Any] = np.clip(1 - np.abs(centres[:, None] - np.arange(8)), 0, 1)
    return weights


def _tinted(row: int, size_px: int, colour: str) -> np.ndarray[Any, Any]:
    """Return one digit as [size_px, size_px, 3] uint8, ink in `colour` on black."""
    matrix = _upsampling(size_px)
    ink = matrix @ _digits()[0][row] @ matrix.T
    light = ink[..., None] * np.asarray(COLOURS[colour]) * LIGHT_PER_INK
    pixels: np.ndarray[Any, Any] = np.floor(light + 0.5).astype(np.uint8)
    return pixels


def _fingerprint(reader: EmbeddedReader, keys: Sequence[str], wanted: Sequence[object]) -> str:
    digests = (hashlib.sha256(reader.pixels(i).tobytes()).digest() for i in range(len(keys)))
    return fingerprint_samples(zip(keys, digests, wanted, strict=True))


def _half(split: str) -> Half:
    if split == "train":
        return "train"
    if split == "test":
        return "test"
    raise DataNotFound(f"The embedded digits have the splits train and test, not {split!r}.")
