"""CLIP's byte-pair tokenizer, as open_clip ships it; the official code uses the same one.

Axes: B texts, L context (tokens).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def tokenize(texts: str | Sequence[str], context_length: int = 77) -> Tensor:
    """Return token ids [B, L] int64: start, text (cut to fit), end, then padding with 0."""
    ids: Tensor = _clip_tokenizer()([texts] if isinstance(texts, str) else list(texts), context_length)
    return ids


@cache
def _clip_tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
