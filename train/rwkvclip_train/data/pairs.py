"""Training pairs of several sources: an image, cropped, and one of its texts, as tokens.

Every random choice (order, kind of text, text, crop, flip) is a pure function of seed, epoch and sample, so a
run that continues needs no generator state and the number of workers changes nothing.

Axes: B pairs, L context (tokens), H W image height and width (px).
"""

from __future__ import annotations

import dataclasses
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from rwkvclip_eval.errors import UserError
from rwkvclip_train.data.crops import central_crop, cropped, draw_crop
from rwkvclip_train.data.source import fit_ids, image_damage, unreadable_image_errors
from rwkvclip_train.order import sample_rng

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from rwkvclip_train.data.source import PairSource, Text
    from rwkvclip_train.recipe import AugmentationRecipe

Key = tuple[int, int]
"""(epoch, sample)."""


@dataclass(frozen=True)
class Part:
    """A source and how much of it training sees.

    Attributes:
        source: of pairs.
        weights: kind of text → how often it is drawn beside the others; of kinds that a pair lacks, the share
            goes to those that it has. None: all kinds equally often.
        repeat: how often an epoch sees each pair; of a fraction, the next part of the pairs in each epoch.
    """

    source: PairSource
    weights: Mapping[str, float] | None = None
    repeat: float = 1

    @property
    def fingerprint(self) -> str:
        """The source's."""
        return self.source.fingerprint

    def __len__(self) -> int:
        return max(round(self.repeat * len(self.source)), 1)

    def index(self, epoch: int, position: int) -> int:
        """Return the source's index of one of an epoch's `len(self)` samples."""
        count = len(self.source)
        rest = len(self) % count
        whole = len(self) - rest
        return position % count if position < whole else (epoch * rest + position - whole) % count


class Sample(NamedTuple):
    """A pair as a step sees it.

    Attributes:
        pixels: [3, H, W] uint8.
        text: a string or token ids [77].
        kind: of the text.
    """

    pixels: Tensor
    text: Text
    kind: str


@dataclass(frozen=True)
class Batch:
    """Pairs of one step. Unpacks to pixels and tokens.

    Attributes:
        pixels: [B, 3, H, W] float32, normalised as CLIP's.
        tokens: [B, L] int64.
        kinds: of the B texts.
        keys: (epoch, sample) of each, [B, 2] int64, where `load` made the batch.
    """

    pixels: Tensor
    tokens: Tensor
    kinds: tuple[str, ...]
    keys: Tensor = dataclasses.field(default_factory=lambda: torch.empty((0, 2), dtype=torch.int64))

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.pixels, self.tokens))

    def pin_memory(self) -> Batch:
        """Return the same in memory that a GPU copies from at once."""
        return dataclasses.replace(self, pixels=self.pixels.pin_memory(), tokens=self.tokens.pin_memory())


class Pairs(TorchDataset[Sample]):
    """Pairs of an augmented image and one of its texts.

    Indexed by (epoch, sample): an image meets another of its texts and another crop in each epoch.

    Args:
        sources: concatenated in order; one that is no `Part` is seen once, all kinds of text equally often.
        image_size_px: (height, width) of the crops.
        tokenize: list of texts → [n, L] int64.
        augmentation: of images; None: their middle, and the texts that the first epoch draws.
        seed: of the recipe.
    """

    def __init__(
        self,
        sources: Sequence[Part | PairSource],
        *,
        image_size_px: tuple[int, int],
        tokenize: Callable[[list[str]], Tensor],
        augmentation: AugmentationRecipe | None,
        seed: int,
    ) -> None:
        self.parts = tuple(s if isinstance(s, Part) else Part(s) for s in sources)
        self.ends = np.cumsum([len(part) for part in self.parts])
        self.image_size_px = image_size_px
        self.tokenize = tokenize
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        """Return the number of samples of an epoch."""
        return int(self.ends[-1])

    def place(self, key: Key) -> tuple[Part, int]:
        """Return the part that a sample is of, and its index in the part's source."""
        epoch, sample = key
        which = int(np.searchsorted(self.ends, sample, side="right"))
        part = self.parts[which]
        return part, part.index(epoch, sample - int(self.ends[which]) + len(part))

    def name(self, key: Key) -> str:
        """Return `SHARD:KEY` of a sample, for messages and records."""
        part, index = self.place(key)
        return part.source.key(index)

    def __getitem__(self, key: Key) -> Sample:
        """Return sample `key` = (epoch, sample).

        Raises:
            DamagedData: image or text cannot be read; the text names the pair.
            DataNotFound: a file or its disk cannot be read now.
        """
        part, index = self.place(key)
        source = part.source
        rng = sample_rng(self.seed, *key)
        texts = source.texts(index)
        kind = draw_kind(rng, tuple(texts), part.weights)
        of_kind = texts[kind]
        text = of_kind[int(rng.integers(len(of_kind)))]
        image = source.image(index)
        crop = (
            draw_crop(rng, image.size, self.augmentation)
            if self.augmentation
            else central_crop(image.size, self.image_size_px)
        )
        try:
            pixels = cropped(image, crop, self.image_size_px)
        except unreadable_image_errors() as error:
            raise image_damage(error, source.key(index)) from error
        return Sample(pixels, text, kind)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Return samples as tensors."""
        from rwkvclip_models.transforms import CLIP_MEAN, CLIP_STD

        pixels = torch.stack([sample.pixels for sample in samples]).float().div_(255)
        shape = (3, 1, 1)
        pixels.sub_(torch.tensor(CLIP_MEAN).view(shape)).div_(torch.tensor(CLIP_STD).view(shape))
        kinds = tuple(sample.kind for sample in samples)
        return Batch(pixels, self._tokens([sample.text for sample in samples]), kinds)

    def _tokens(self, texts: Sequence[Text]) -> Tensor:
        """Return token ids [B, L] of texts, of which some may be ids already."""
        made = self.tokenize([text if isinstance(text, str) else "" for text in texts])
        for row, text in zip(made, texts, strict=True):
            if not isinstance(text, str):
                row.copy_(torch.from_numpy(fit_ids(text, made.shape[1])))
        return made


def draw_kind(rng: np.random.Generator, kinds: Sequence[str], weights: Mapping[str, float] | None) -> str:
    """Return one of the kinds of text that a pair has.

    Args:
        rng: of the sample.
        kinds: what the pair has.
        weights: kind → how often it is drawn beside the others; None: all equally often.
    """
    wanted = [kind for kind in weights if kind in kinds] if weights is not None else list(kinds)
    shares = np.cumsum([1.0 if weights is None else weights[kind] for kind in wanted])
    # Rounding could leave the draw at the last share itself.
    drawn = int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))
    return wanted[min(drawn, len(wanted) - 1)]


class _Fetched(TorchDataset[Batch]):
    """Whole batches by their keys. What a worker cannot read comes as the error itself.

    An error that is raised in a worker would come with the worker's traceback as its text.
    """

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs

    def __getitems__(self, keys: list[Key]) -> Batch | UserError:
        try:
            batch = self._pairs.collate([self._pairs[key] for key in keys])
            return dataclasses.replace(batch, keys=torch.tensor(keys))
        except UserError as error:
            # Its cause may not pickle.
            error.__cause__ = error.__context__ = None
            return error


def load(pairs: Pairs, keys: Iterable[list[Key]], *, num_workers: int = 0) -> Iterator[Batch]:
    """Yield the batch of each list of keys, in their order whatever the number of workers.

    Args:
        pairs: the samples.
        keys: read a little ahead.
        num_workers: processes that read and decode; 0: this one does.

    Raises:
        DamagedData: an image or text cannot be read; the text names the pair.
        DataNotFound: a file or its disk cannot be read now.
    """
    if num_workers:
        # Made here, a tokenizer is there in every worker that is started: they are copies of this process.
        pairs.tokenize([""])
    # The dataset gives a batch or an error at once, which the loader's type cannot say. The keys may be a
    # generator: those of a long run would not fit into memory.
    loader: DataLoader[Any] = DataLoader(
        _Fetched(pairs),
        batch_sampler=keys,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_signals_to_the_parent,
    )
    for found in loader:
        if isinstance(found, UserError):
            raise found
        yield found


def _leave_signals_to_the_parent(_: int) -> None:
    # Schedulers and terminals signal the whole group; the step that is under way still needs its batch.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _as_it_is(found: Any) -> Any:
    return found
