"""Where the time of one forward pass goes: a model's parts, by the names of its modules and methods."""

from __future__ import annotations

import contextlib
import functools
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

REST = "rest"
"""What no part takes: additions between them, pooling, and the loop over blocks."""

MOST_APART, NEAR = 5, 0.2
"""Calls that are taken apart until one is within this of the usual length: one alone may be disturbed."""

METHODS = {
    "SpatialMix": {
        "lerps": "shift and lerp",
        "operands": "projections",
        "gate_of": "projections",
        "recurrence": "Bi-WKV",
        "normed": "norms",
        "output_of": "projections",
    },
    "ImageChannelMix": {"forward": "channel mix", "lerps": "shift and lerp"},
    "TextChannelMix": {"forward": "channel mix", "lerps": "shift and lerp"},
    "PatchEmbedding": {"forward": "patch embedding"},
    "Conv2d": {"forward": "patch embedding"},
    "Embedding": {"forward": "token embedding"},
}
"""Class → method → part, of RWKV-CLIP and of what any model is made of; a part within another is its own."""


_LOOK_UPS = ("aten::embedding", "aten::index_select", "aten::gather", "aten::index.")


def _methods(name: str, module: nn.Module) -> dict[str, str]:
    kind = type(module).__name__
    if kind in METHODS:
        return METHODS[kind]
    if "Norm" in kind:
        return {"forward": "norms"}
    if "Attention" in kind and "Block" not in kind:
        return {"forward": "attention"}
    if kind.endswith("MLP") or name.rpartition(".")[2] == "mlp":
        return {"forward": "MLP"}
    return {}


class Ledger:
    """Shares what a rising count went up by among parts: each has what came while it was the innermost.

    Args:
        count: returns it so far.
    """

    def __init__(self, count: Callable[[], float]) -> None:
        self._count, self._open = count, [REST]
        self.shares: dict[str, float] = defaultdict(float)
        self._since = count()

    def settle(self) -> None:
        """Book what came since the last time to the innermost part."""
        now = self._count()
        self.shares[self._open[-1]] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Have `name` be the innermost part for a block."""
        self.settle()
        self._open.append(name)
        try:
            yield
        finally:
            self.settle()
            self._open.pop()


@contextlib.contextmanager
def _watched(module: nn.Module, ledger: Ledger) -> Iterator[None]:
    """Have the parts of `module` tell `ledger` when they begin and end, for a block."""
    watched = [
        (part, method, name)
        for path, part in module.named_modules()
        for method, name in _methods(path, part).items()
    ]
    for part, method, name in watched:
        setattr(part, method, _told(getattr(part, method), ledger, name))
    try:
        yield
    finally:
        for part, method, _ in watched:
            delattr(part, method)


def _told(function: Callable[..., Any], ledger: Ledger, name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def told(*args: Any, **kwargs: Any) -> Any:
        with ledger.part(name):
            return function(*args, **kwargs)

    return told


def shares_of(call: Callable[[], object], module: nn.Module, count: Callable[[], float]) -> dict[str, float]:
    """Return part → what `count` rose by in it during one call; they sum to the whole, `REST` among them."""
    ledger = Ledger(count)
    with _watched(module, ledger):
        call()
        ledger.settle()
    return dict(ledger.shares)


def seconds_of(
    call: Callable[[], object], module: nn.Module, clock: Callable[[], float], calls: int, usual: float
) -> dict[str, float]:
    """Return part → seconds, of that call whose length is nearest to the usual one.

    Args:
        call: runs `module`.
        module: holds the parts.
        clock: seconds, once everything that was begun is done.
        calls: least number; more are made, `MOST_APART` at most, until one is within `NEAR` of the usual
            length.
        usual: length of a call, seconds.
    """
    found: list[dict[str, float]] = []

    def away(shares: dict[str, float]) -> float:
        return abs(sum(shares.values()) - usual)

    while len(found) < calls or (len(found) < MOST_APART and min(map(away, found)) > NEAR * usual):
        found.append(shares_of(call, module, clock))
    return min(found, key=away)


def bytes_of(call: Callable[[], object], module: nn.Module) -> dict[str, float]:
    """Return part → bytes that its operators read and write, each operand once; views are nothing."""
    with _Traffic() as traffic:
        return shares_of(call, module, lambda: traffic.total)


def attention_kernels(call: Callable[[], object]) -> list[str]:
    """Return what torch chose for attention in one call, as it names its choices; nothing where none ran."""
    with _Asked() as asked, _Attention() as seen:
        call()
    # The form that writes its scores is no kernel, but products.
    return sorted(seen.kernels) or ["math"] * asked.attention


class _Asked(TorchFunctionMode):
    """Keeps whether somebody asked for attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.attention = self.attention or func is torch.nn.functional.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


class _Attention(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch declares no types for it
    """Keeps the names of attention's kernels."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.kernels: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        _, _, name = func.name().partition("scaled_dot_product_")
        if name and "backward" not in name:
            with self:
                # The choice is made within the operator of attention itself, which is no kernel.
                made = NotImplemented if "_math" in name else func.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
            self.kernels.add(name)
        elif any(whole in func.name() for whole in ("native_multi_head_attention", "encoder_layer_fwd")):
            self.kernels.add(func.name().partition("::")[2])
        return func(*args, **kwargs)


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch declares no types for it
    """Counts the bytes of tensors that operators take and give."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # Attention is one operator, whatever it is made of.
        if "scaled_dot_product" not in func.name():
            with self:
                made = func.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        out = func(*args, **kwargs)
        taken, given = (
            [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor) and not x.is_mkldnn]
            for tree in ((args, kwargs), out)
        )
        own = {x.untyped_storage()._cdata for x in taken}
        if func._schema.is_mutable or any(x.untyped_storage()._cdata not in own for x in given):
            read = sum(_held(x) for x in taken)
            if any(word in func.name() for word in _LOOK_UPS):
                # Of the table what is looked up.
                read += sum(_held(x) for x in given) - _held(taken[0])
            self.total += read + sum(_held(x) for x in given)
        return out


def _held(x: torch.Tensor) -> int:
    """Return the bytes of a tensor; what is expanded is there once."""
    sizes = (n for n, stride in zip(x.shape, x.stride(), strict=True) if stride)
    return math.prod(sizes) * x.element_size()
