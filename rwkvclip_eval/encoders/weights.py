"""What adapters share about weights: hashing, seeding, and the message where none are named."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any

import torch

from rwkvclip_eval.errors import UserError
from rwkvclip_models.moved import forward

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

forward(__name__)


def sha256_state_dict(state: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of the names, dtypes, shapes and bytes of all tensors, in name order."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key]
        if isinstance(value, torch.Tensor):
            tensor = value.detach().cpu().contiguous()
            digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Build a model from `seed` on the CPU without touching the global generators; None leaves them be."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def need_checkpoint(text: str, checkpoint: str | None, *, examples: str) -> str:
    """Return `checkpoint`, which must be given.

    Raises:
        UserError: it is None.
    """
    if checkpoint is None:
        raise UserError(f"Model {text!r} needs weights: {examples}; random:SEED gives untrained ones.")
    return checkpoint
