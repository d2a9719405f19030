"""What `resume.pt` must hold for training to go on from it: checked whole before anything is taken over.

Settings of the optimizer's groups and of the loss scaler are the recipe's: what a file says of them is not
looked at.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from rwkvclip_eval.errors import OutputError, joined, shown
from rwkvclip_eval.schema import Strict, came, misfits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

    from pydantic import ValidationInfo

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter, in its shape and type; beside them `step`, how often it has moved it."""


def _step_of_the_run(value: Any, info: ValidationInfo) -> Any:
    num_steps = (info.context or {})["num_steps"]
    if type(value) is not int or not 0 < value <= num_steps:
        raise ValueError(f"expected 1 to {num_steps}")
    return value


class ProgressEntry(Strict):
    """Of `progress`: the fields of `checkpoints.Progress`."""

    step: Annotated[int, BeforeValidator(_step_of_the_run)]
    skipped: int = Field(ge=0)
    overflowed: int = Field(ge=0)
    loss_sum: float
    loss_count: int = Field(ge=0)
    # Infinite where no step before that checkpoint was taken.
    scores: dict[int, Annotated[float, Field(allow_inf_nan=True)]]

    @model_validator(mode="after")
    def _check_counts(self) -> Self:
        for name, count in (("skipped + overflowed", self.num_lost), ("loss_count", self.loss_count)):
            if count > self.step:
                raise ValueError(f"{name}: expected at most the {self.step} steps that are done, got {count}")
        for step, score in self.scores.items():
            if not 0 < step <= self.step:
                raise ValueError(f"scores: expected steps from 1 to {self.step}, got {shown(step)}")
            if math.isnan(score) or score == -math.inf:
                raise ValueError(f"scores.{step}: expected a mean loss, got {score}")
        return self

    @property
    def num_lost(self) -> int:
        """Steps that were not taken."""
        return self.skipped + self.overflowed


class OptimizerEntry(Strict):
    """Of `optimizer`: as torch's `state_dict` has it.

    Attributes:
        state: number of a parameter → `MOMENTS` and `step`; of one that never had a gradient, nothing.
        param_groups: of each group, `params` is the numbers of its parameters.
    """

    state: dict[int, dict[str, Any]]
    param_groups: tuple[dict[str, Any], ...]


class State(Strict):
    """All that `resume.pt` holds.

    Attributes:
        identity: see `checkpoints.run_identity`.
        weights: name of the file of the weights.
        weights_sha256: its digest (hex).
        progress: where the run stands.
        optimizer: what AdamW keeps.
        scaler: what torch's `GradScaler` keeps; empty where it is disabled.
    """

    identity: str
    weights: str
    weights_sha256: str
    progress: ProgressEntry
    optimizer: OptimizerEntry
    scaler: dict[str, Any]


def read_state(
    content: Any,
    path: Path,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    num_steps: int,
) -> State:
    """Return what a file says, with the optimizer's and the scaler's own settings in the place of the file's.

    Args:
        content: of the file.
        path: its name, for messages.
        optimizer: AdamW over the parameters that the state is to be of.
        scaler: of the run.
        num_steps: of the run.

    Raises:
        OutputError: it does not fit; each field that does not is named with what was expected and what came.
    """
    try:
        state = State.model_validate(content, context={"num_steps": num_steps})
    except ValidationError as error:
        raise _unfit(path, misfits(error)) from error
    own = optimizer.state_dict()["param_groups"]
    problems = [*_optimizer_misfits(state, optimizer, own), *_scaler_misfits(state.scaler, scaler)]
    if problems:
        raise _unfit(path, problems)
    fitted = state.optimizer.model_copy(update={"param_groups": own})
    scale = scaler.state_dict() | {key: state.scaler[key] for key in _SCALER if scaler.is_enabled()}
    return state.model_copy(update={"optimizer": fitted, "scaler": scale})


def _unfit(path: Path, problems: list[str]) -> OutputError:
    return OutputError(
        f"{path} is no state that training can continue from ({joined(problems, '; ')}); delete "
        f"{path.parent} to start over."
    )


def _optimizer_misfits(
    state: State, optimizer: torch.optim.Optimizer, own: list[dict[str, Any]]
) -> Iterator[str]:
    """Yield what of an optimizer's state does not fit its parameters."""
    expected = [group["params"] for group in own]
    given = [group.get("params") for group in state.optimizer.param_groups]
    if given != expected:
        sizes = ", ".join(str(len(each)) for each in expected)
        yield f"optimizer.param_groups: expected groups of {sizes} parameters, numbered from 0, got others"
        return
    numbers = [number for group in expected for number in group]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    of = dict(zip(numbers, parameters, strict=True))
    most = state.progress.step - state.progress.num_lost
    seen: set[int] = set()
    for number, entry in state.optimizer.state.items():
        where = f"optimizer.state.{shown(number)}"
        if number not in of:
            yield f"{where}: expected parameters from 0 to {len(of) - 1}"
        elif entry.keys() != {"step", *MOMENTS}:
            yield f"{where}: expected step, {', '.join(MOMENTS)}, got {shown(sorted(entry))}"
        else:
            yield from _step_misfit(f"{where}.step", entry["step"], most, seen)
            for name in MOMENTS:
                yield from _moment_misfit(f"{where}.{name}", entry[name], of[number], name, seen)


def _step_misfit(where: str, value: Any, most: int, seen: set[int]) -> Iterator[str]:
    if (wrong := _tensor_misfit(value, torch.Size(()), torch.float32, (), seen)) is not None:
        yield f"{where}: {wrong}"
    elif not (0 <= (count := value.item()) <= most and count.is_integer()):
        yield f"{where}: expected a whole number from 0 to the {most} steps that were taken, got {count:g}"


def _moment_misfit(
    where: str, value: Any, parameter: torch.Tensor, name: str, seen: set[int]
) -> Iterator[str]:
    strides = torch.empty_like(parameter, device="meta").stride()
    wrong = _tensor_misfit(value, parameter.shape, parameter.dtype, strides, seen)
    if wrong is not None:
        yield f"{where}: {wrong}"
    elif value.numel():
        least, most = (number.item() for number in value.aminmax())
        if not (math.isfinite(least) and math.isfinite(most)):
            yield f"{where}: expected finite numbers, got NaN or infinity"
        elif name == "exp_avg_sq" and least < 0:
            yield f"{where}: expected squares, which are 0 or more, got {least:g}"


def _tensor_misfit(
    value: Any, shape: torch.Size, dtype: torch.dtype, strides: tuple[int, ...], seen: set[int]
) -> str | None:
    """Return why a value is no tensor of that form with memory of its own; None where it is one.

    `seen` holds where the memory of those before begins.
    """
    form = _form(shape, dtype)
    if type(value) is not torch.Tensor:
        return f"expected {form}{came(value)}"
    if (value.shape, value.dtype, value.layout) != (shape, dtype, torch.strided):
        layout = "" if value.layout is torch.strided else f", {value.layout}"
        return f"expected {form}, got {_form(value.shape, value.dtype)}{layout}"
    storage = value.untyped_storage()
    whole = storage.nbytes() == value.numel() * value.element_size() and value.storage_offset() == 0
    plain = value.stride() == strides and not value.is_neg() and not value.requires_grad
    if not whole or not plain or storage.data_ptr() in seen:
        return f"expected {form} with memory of its own, got a view of other numbers"
    if value.numel():
        seen.add(storage.data_ptr())
    return None


def _form(shape: torch.Size, dtype: torch.dtype) -> str:
    size = " × ".join(map(str, shape[:8])) if shape else "one number"
    return f"{size}, {str(dtype).removeprefix('torch.')}"


_SCALER = ("scale", "_growth_tracker")
"""What a `GradScaler` changes while it works."""


def _scaler_misfits(given: dict[str, Any], scaler: torch.amp.GradScaler) -> Iterator[str]:
    """Yield what of a loss scaler's state does not fit."""
    expected = scaler.state_dict()
    if given.keys() != expected.keys():
        names = ", ".join(expected) or "nothing, as the recipe's precision has none"
        yield f"scaler: expected {names}, got {shown(sorted(given))}"
    elif expected:
        scale, tracked, interval = given["scale"], given["_growth_tracker"], expected["growth_interval"]
        if type(scale) is not float or not 0 < scale <= torch.finfo(torch.float32).max:
            yield f"scaler.scale: expected a finite number above 0{came(scale)}"
        if type(tracked) is not int or not 0 <= tracked <= interval:
            yield f"scaler._growth_tracker: expected a whole number from 0 to {interval}{came(tracked)}"
