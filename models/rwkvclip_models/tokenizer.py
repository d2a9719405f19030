"""CLIP's byte-pair tokenizer, as open_clip ships it; the official code uses the same one.

Axes: B texts, L context (tokens).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from rwkvclip_models.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

VOCABULARY = 49_408
"""Tokens, their ids from 0; the last two mark start and end."""


def tokenize(texts: str | Sequence[str], context_length: int = 77) -> Tensor:
    """Return token ids [B, L] int64: start, text (cut to fit), end, then padding with 0."""
    ids: Tensor = _clip_tokenizer()([texts] if isinstance(texts, str) else list(texts), context_length)
    return ids


def check_vocabulary(size: int, where: str) -> None:
    """Refuse a text tower whose token embedding lacks ids that the tokenizer gives.

    Args:
        size: rows of the token embedding.
        where: what says so, for messages.

    Raises:
        ConfigError: it has fewer than `VOCABULARY`.
    """
    if size < VOCABULARY:
        raise ConfigError(f"{where} is {size}; CLIP's tokenizer has {VOCABULARY} tokens, so give that.")


@cache
def _clip_tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def detokenize(ids: Sequence[int]) -> str:
    """Return the words of token ids, in lower case, up to the end mark; start, end and padding left out."""
    kept = []
    for token in ids:
        if token == VOCABULARY - 1:
            break
        if 0 < token < VOCABULARY - 2:
            kept.append(int(token))
    return str(_clip_tokenizer().decode(kept)).strip()
