"""How to encode; none of it changes the features beyond rounding."""

from __future__ import annotations

from dataclasses import dataclass

from rwkvclip_eval.errors import UserError

MOST_WORKERS = 8
"""Decoding processes by default, at most; more rarely pay and each takes memory."""


def default_num_workers(device: str, cores: int) -> int:
    """Return how many processes should decode for one that encodes on `device`, of `cores` it may use.

    A GPU leaves all cores to decoding. A CPU that encodes needs its cores itself: a photo takes some ms of
    one core to decode and tens to hundreds to encode, so a quarter of them keeps up, and below four cores
    decoding in between costs less than sharing them.
    """
    return min(MOST_WORKERS, cores // 4 if device.startswith("cpu") else cores)


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """How to encode.

    Attributes:
        batch_size: images per forward pass; halved, and said so, when GPU memory runs out.
        num_workers: decoding processes; 0 decodes in this one.
    """

    batch_size: int = 64
    num_workers: int = 0

    def __post_init__(self) -> None:
        """Refuse impossible sizes.

        Raises:
            UserError: the batch size is below 1, or the number of workers below 0.
        """
        if self.batch_size < 1 or self.num_workers < 0:
            raise UserError(
                f"The batch size must be at least 1 and the number of workers at least 0, not "
                f"{self.batch_size} and {self.num_workers}."
            )
