"""Whether an implementation computes what it should: its errors against float64, on problems of any size.

What the trial of an implementation, the doctor and its long examination measure by.

Axes: B batch, T tokens (rows·columns of a grid), H heads, N head width, C = H·N channels, K lerps, R rank of
a lerp.
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import torch

from rwkvclip_models.ops import fused
from rwkvclip_models.ops.eager import Shift
from rwkvclip_models.ops.operator import bi_wkv6

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

TOLERANCES = {"float64": 1e-10, "float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3}
"""Largest max |difference| / max |reference| of output and gradients, by dtype name.

float32 is what separates rounding from error beside the official code. Half precisions keep 8 and 11 bits;
operands, output and gradients are each rounded once.
"""
DECAY_GRADIENT_TOLERANCE = 5e-5
"""The same for "grad w" in float32: its terms, one per pair of tokens around a decay, cancel."""

NAMES = ("y", "grad r", "grad k", "grad v", "grad w", "grad u")
"""What is compared of the recurrence."""
DECAYS = {"trained": (-6.0, 1.0), "extreme": (-20.0, 6.0)}
"""Range of raw w; exp(−exp(6)) underflows float32 and exp(−exp(−20)) rounds to 1."""
BASE_WIDTH = 64
"""Head width of the problems of every length."""
EXACT_TOKENS = {True: 256, False: 77}
"""Longest sequence held against the definition, slow beyond: at base width with trained decays, or not."""

LERPS, RANK = 5, 32
OPERATORS: dict[str, tuple[str, ...]] = {
    "shift_lerp": ("x", "mix"),
    "shift_lerp per token": ("x", "mixes"),
    "dynamic_lerp": ("x", "low_rank", "base", "up"),
    "norm_gate": ("x", "gate", "weight", "bias"),
    "gated_add": ("residual", "gate", "x"),
    "relu_square": ("x",),
}
"""Elementwise operator → its operands, by the names of `Elementwise.operands`."""


def tolerance(dtype: str, value: str = "") -> float:
    """Return the largest relative error in a dtype of an output or gradient, named as `errors` does."""
    return DECAY_GRADIENT_TOLERANCE if (dtype, value) == ("float32", "grad w") else TOLERANCES[dtype]


@dataclass(frozen=True, kw_only=True)
class Recurrence:
    """A problem of `bi_wkv6`.

    Attributes:
        num_tokens: T.
        head_width: N.
        decays: a key of `DECAYS`.
        batch: B.
        heads: H.
        strided: whether operands are transposed in memory and the gradient is broadcast.
    """

    num_tokens: int
    head_width: int
    decays: str = "trained"
    batch: int = 2
    heads: int = 2
    strided: bool = False
    operator: ClassVar[str] = "bi_wkv6"

    @property
    def defined(self) -> bool:
        """Whether the definition computes it; else float64 `torch` stands in, itself held against that."""
        base = self.head_width == BASE_WIDTH and self.decays == "trained"
        return self.num_tokens <= EXACT_TOKENS[base]

    def errors(self, implementation: str, device: torch.device | str, dtype: torch.dtype) -> dict[str, float]:
        """Return the errors of output and gradients (see `relative_errors`), by the names of `NAMES`.

        Raises:
            RuntimeError: the implementation does not run, or gives another shape; torch and Triton raise
                other classes, too.
        """
        operands, weight = self.operands
        low = torch.promote_types(dtype, torch.float32)
        here = [x.to(device, dtype if index < 3 else low) for index, x in enumerate(operands)]
        run = partial(_recurrence, implementation, here, weight.to(device, dtype))
        return relative_errors(run, self.exact)

    @cached_property
    def operands(self) -> tuple[list[Tensor], Tensor]:
        """r, k, v, w, u and the output's gradient, float32; all but w, u exact in bfloat16."""
        generator = torch.Generator().manual_seed(1000 * self.head_width + self.num_tokens)
        shape = (self.batch, self.num_tokens, self.heads, self.head_width)
        # Eight significant bits are exact in bfloat16, and in float16 but for values below 1e-5: one
        # reference serves every dtype.
        r, k, v, weight = (torch.randn(shape, generator=generator).bfloat16().float() for _ in range(4))
        w = torch.empty(shape).uniform_(*DECAYS[self.decays], generator=generator)
        u = torch.empty(shape[2:]).uniform_(-0.3, 1, generator=generator)
        if self.strided:
            r, k, v, w = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (r, k, v, w))
            u, weight = u.t().contiguous().t(), weight[:, :1].expand(shape)
        return [r, k, v, w, u], weight

    @cached_property
    def exact(self) -> dict[str, Tensor]:
        """Output and gradients in float64."""
        operands, weight = self.operands
        base = "reference" if self.defined else "torch"
        return _recurrence(base, [x.double() for x in operands], weight.double())


@dataclass(frozen=True, kw_only=True)
class Elementwise:
    """A problem of all elementwise operators, held against the eager forms.

    Attributes:
        grid: rows, columns and directions of the token shift.
        head_width: N.
        batch: B.
        heads: H.
    """

    grid: tuple[int, int, int]
    head_width: int
    batch: int = 2
    heads: int = 2
    operator: ClassVar[str] = "elementwise"
    decays: ClassVar[str] = ""
    strided: ClassVar[bool] = True

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.grid[0] * self.grid[1]

    def errors(self, implementation: str, device: torch.device | str, dtype: torch.dtype) -> dict[str, float]:
        """Return the errors of each operator's output and gradients; raises as `Recurrence.errors`."""
        here = {name: x.to(device, dtype) for name, x in self.operands.items()}
        return relative_errors(partial(self._run, implementation, here), self.exact)

    @cached_property
    def operands(self) -> dict[str, Tensor]:
        """Float32 operands that are exact in bfloat16; those with tokens are not contiguous."""
        tokens, channels = self.num_tokens, self.heads * self.head_width
        generator = torch.Generator().manual_seed(1000 * self.head_width + tokens)

        def random(*shape: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(shape, generator=generator)).bfloat16().float()

        found = {
            name: random(tokens, self.batch, channels).transpose(0, 1) for name in ("x", "gate", "residual")
        }
        return found | {
            "mix": random(LERPS, channels),
            "mixes": random(LERPS, self.batch, tokens, channels),
            "low_rank": random(self.batch, tokens, LERPS * RANK, scale=0.125),
            "base": random(LERPS, channels),
            "up": random(LERPS, RANK, channels, scale=0.125),
            "weight": random(channels),
            "bias": random(channels),
        }

    @cached_property
    def exact(self) -> dict[str, Tensor]:
        """Outputs and gradients in float64."""
        return self._run("torch", {name: x.double() for name, x in self.operands.items()})

    def _run(self, implementation: str, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return each operator's output and the gradients of its operands for an output gradient of ±1."""
        rows, columns, directions = self.grid
        shift = Shift(rows, columns, self.heads, directions)
        calls: dict[str, Callable[..., Tensor]] = {
            "shift_lerp": partial(fused.shift_lerp, shift=shift),
            "shift_lerp per token": partial(fused.shift_lerp, shift=shift),
            "dynamic_lerp": partial(fused.dynamic_lerp, shift=shift),
            "norm_gate": partial(fused.norm_gate, heads=self.heads, eps=1e-5),
            "gated_add": fused.gated_add,
            "relu_square": fused.relu_square,
        }
        found = {}
        for operator, names in OPERATORS.items():
            leaves = [given[name].detach().requires_grad_() for name in names]
            y = calls[operator](*leaves, implementation=implementation)
            found[f"{operator} y"] = y.detach()
            # Not contiguous, and exact in every dtype. Signs differ by token: with ones the sum of s(x) − x
            # over tokens cancels to what crosses the border, and its rounding would be judged against that.
            signs = 1 - 2 * (torch.arange(y.shape[-2], device=y.device) % 3 == 1).to(y.dtype)
            gradients = torch.autograd.grad(y, leaves, signs[:, None].expand_as(y))
            found |= {f"{operator} grad {name}": g for name, g in zip(names, gradients, strict=True)}
        # In the place of its operand, as a tower without gradients has it.
        x = given["x"].clone(memory_format=torch.contiguous_format)
        y = fused.relu_square(x, implementation=implementation, overwrite=True)
        return found | {"relu_square in place y": y}


def check(implementation: str, device: torch.device | str, dtype: torch.dtype) -> float:
    """Return the largest relative error of an implementation on one problem (B 2, T 49, H 2, N 80).

    Output and all five gradients count. NaN if one is.

    Raises:
        UserError: unknown implementation, or one that cannot run here.
    """
    return largest(Recurrence(num_tokens=49, head_width=80).errors(implementation, device, dtype))


def check_fused(implementation: str, device: torch.device | str, dtype: torch.dtype) -> float:
    """Return the largest relative error of an implementation's elementwise operators (a grid of 7 × 7).

    Outputs and all gradients count. NaN if one is.

    Raises:
        UserError: unknown implementation, or one that cannot run here.
    """
    return largest(Elementwise(grid=(7, 7, 4), head_width=80).errors(implementation, device, dtype))


def largest(errors: Mapping[str, float]) -> float:
    """Return the largest of `errors`; NaN if one is."""
    return float(torch.tensor(list(errors.values()), dtype=torch.float64).max())


def relative_errors(run: Callable[[], Mapping[str, Tensor]], exact: Mapping[str, Tensor]) -> dict[str, float]:
    """Return max |difference| / max |exact| of each thing `run` returns; absolute where exact is all 0.

    New memory is filled with NaN meanwhile, so that what a kernel leaves unwritten is seen.

    Raises:
        RuntimeError: something is of another shape.
    """
    with _new_memory_is_nan():
        ran = {name: x.cpu().double() for name, x in run().items()}
    errors = {}
    for name, want in exact.items():
        got = ran[name]
        if got.shape != want.shape:
            raise RuntimeError(f"{name} is of shape {list(got.shape)}, not {list(want.shape)}")
        scale = float(want.abs().max()) if want.numel() else 0.0
        errors[name] = float((got - want).abs().max()) / (scale or 1.0) if want.numel() else 0.0
    return errors


def _recurrence(implementation: str, operands: Sequence[Tensor], weight: Tensor) -> dict[str, Tensor]:
    # No copies: these would lose the strides under test.
    leaves = [x.detach().requires_grad_() for x in operands]
    y = bi_wkv6(*leaves, implementation=implementation)
    found = (y.detach(), *torch.autograd.grad(y, leaves, weight))
    return dict(zip(NAMES, found, strict=True))


@contextlib.contextmanager
def _new_memory_is_nan() -> Iterator[None]:
    """Fill new tensors with NaN: torch does so where it is asked to be deterministic."""
    before = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        # Determinism itself is not the question, and some of torch's own operators have none.
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn)
