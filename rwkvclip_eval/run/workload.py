"""How much a run has to encode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.features.store import image_key, text_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rwkvclip_eval.encoders.protocol import EncoderInfo
    from rwkvclip_eval.features.store import FeatureStore
    from rwkvclip_eval.plan.units import Unit
    from rwkvclip_eval.run.preflight import Opened


NO_DATA = "no data"
"""The problem of a unit whose data cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one unit has to encode: what neither the store holds nor an earlier unit encodes.

    Attributes:
        model: name of the model.
        unit: what is to be scored.
        images: to encode.
        texts: to encode, where they were counted.
        problem: why it will have no number; empty where nothing is known against it.
    """

    model: str
    unit: Unit
    images: int = 0
    texts: int = 0
    problem: str = ""

    @property
    def state(self) -> str:
        """What is to be done in a word or two."""
        return self.problem or ("to encode" if self.images or self.texts else "stored, to score")


def work_load(
    work: Iterable[tuple[EncoderInfo, Sequence[Unit]]],
    opened: Opened,
    store: FeatureStore,
    *,
    count_texts: bool = False,
) -> list[Load]:
    """Return what each unit of each model has to encode, in the order in which a run takes them.

    A split that a killed run left half encoded counts whole.

    Args:
        work: encoders and their units.
        opened: the units' splits.
        store: is asked what it holds.
        count_texts: say how many texts, too, which takes a while where there are many models.
    """
    seen: set[str] = set()

    def new(key: str) -> bool:
        told = key in seen or store.holds(key)
        seen.add(key)
        return not told

    loads = []
    for info, units in work:
        for unit in units:
            if "text" in unit.task.needs and not info.has_text:
                loads.append(Load(model=info.name, unit=unit, problem="not applicable"))
                continue
            found = opened.units.get(unit.name(""))
            if found is None:
                loads.append(Load(model=info.name, unit=unit, problem=NO_DATA))
                continue
            images = sum(len(split) for split in found.splits if new(image_key(info, split.info.fingerprint)))
            texts: list[str] = []
            if count_texts and "text" in unit.task.needs and found.scorable:
                texts = sorted(set(unit.task.texts(found.samples, unit.protocol)))
            num_texts = len(texts) if texts and new(text_key(info, texts)) else 0
            loads.append(Load(model=info.name, unit=unit, images=images, texts=num_texts))
    return loads
