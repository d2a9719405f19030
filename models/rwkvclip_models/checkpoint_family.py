"""Tells by its keys what kind of model a state dict is of, so that a wrong name is said and not 817 keys."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_models.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class KeyFamily:
    """A way to write a model's weights.

    Attributes:
        name: what holds them, with its article.
        marks: patterns of which each must match one key.
        given: how it is given on the command line; FILE stands for the checkpoint.
    """

    name: str
    marks: tuple[str, ...]
    given: str


_OPEN_CLIP = "clip-vit-b32=FILE, alip-vit-b32=FILE (ALIP) or open_clip:NAME=FILE"
_OWN = "python:MODULE:FACTORY=FILE, with code that builds it"
_FOLDER = "hf:FOLDER, the folder that holds it beside its config.json"

FAMILIES = (
    KeyFamily(
        "an RWKV-CLIP",
        (r"^image_model\.", r"^text_model\.blocks\.\d+\.att\.time_"),
        "rwkv-clip-b32=FILE, rwkv-clip-b16=FILE or CONFIG.json=FILE",
    ),
    KeyFamily("a CoCa of open_clip's", (r"^visual\.", r"^text_decoder\."), "open_clip:NAME=FILE"),
    KeyFamily(
        "an open_clip model with a text tower of its own",
        (r"^visual\.", r"^text\."),
        "open_clip:NAME=FILE or open_clip:CONFIG.json=FILE",
    ),
    KeyFamily(
        "a CLIP as OpenAI, open_clip and ALIP write it",
        (r"^visual\.", r"^transformer\.resblocks\."),
        _OPEN_CLIP,
    ),
    KeyFamily("a Hugging Face SigLIP", (r"^vision_model\.head\.", r"^text_model\.head\."), _FOLDER),
    KeyFamily("a Hugging Face CLIP", (r"^vision_model\.", r"^text_model\.(encoder|embeddings)\."), _FOLDER),
    KeyFamily(
        "a vision tower of Hugging Face's",
        (r"(^|\.)embeddings\.(cls_token|class_embedding|patch_embedding(s\.projection)?\.)",),
        _FOLDER,
    ),
    KeyFamily("a text model of Hugging Face's", (r"(^|\.)embeddings\.word_embeddings\.",), _OWN),
    KeyFamily("an RWKV language model", (r"^blocks\.\d+\.att\.time_", r"^emb\.weight$"), _OWN),
    KeyFamily("a ViT as timm and DINO write it", (r"(^|\.)blocks\.\d+\.attn\.qkv\.",), _OWN),
    KeyFamily("a ResNet as torchvision writes it", (r"^layer1\.0\.conv1\.", r"^conv1\."), _OWN),
)
"""The first that fits counts."""


def key_family(keys: Iterable[str]) -> KeyFamily | None:
    """Return the family whose marks the keys of a state dict have, or None."""
    names = list(keys)
    for family in FAMILIES:
        if all(any(re.search(mark, name) for name in names) for mark in family.marks):
            return family
    return None


def refuse_other_family(state: Iterable[str], expected: Iterable[str], source: str) -> None:
    """Refuse weights of another kind of model than the one that was named.

    Args:
        state: keys of the checkpoint.
        expected: keys of the model.
        source: what messages call the checkpoint.

    Raises:
        CheckpointError: they are of another kind; the text says of which, and how it is given.
    """
    keys = list(state)
    found, wanted = key_family(keys), key_family(expected)
    if found is None or found is wanted:
        return
    example = next(key for key in keys if re.search(found.marks[-1], key))
    rather = f", not {wanted.name}" if wanted is not None else ""
    raise CheckpointError(
        f"{source} holds {found.name} (keys such as {example}){rather}: give it as "
        f"{found.given.replace('FILE', source)}."
    )
