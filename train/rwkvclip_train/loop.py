"""The training loop, to be read from top to bottom.

A run writes into its folder
    models/NAME/NAME.json         the model's config, in its family's format
    models/NAME/step_000300.pt    checkpoints of that family
    models/NAME/resume.pt         what the same command continues from
    training/NAME.jsonl           {"step", "loss", "lr", "model", "seed"} per line; "model" as reports name it
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rwkvclip_eval.errors import OutputError, UserError, shortened
from rwkvclip_eval.progress import Progress
from rwkvclip_models.device import resolve_device
from rwkvclip_models.disk import atomic_path, write_text
from rwkvclip_models.files import parse_json, read_text
from rwkvclip_models.torch_file import read_torch_file
from rwkvclip_train.data.pairs import Pairs, open_sources, pair_loader
from rwkvclip_train.models import build_trainee
from rwkvclip_train.objectives.contrastive import contrastive_loss
from rwkvclip_train.optim.schedule import learning_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import nn

    from rwkvclip_train.recipe import Recipe

# CLIP keeps the multiplier of the cosine similarity at 100 or less.
MAX_LOGIT_SCALE = math.log(100)
MAX_LOG_BYTES = 256 << 20


class TrainingError(UserError):
    """Training that cannot go on."""


@dataclass(frozen=True)
class TrainedModel:
    """What a finished run left.

    Attributes:
        name: of the recipe.
        spec: for `--model` of rwkvclip-eval: the config and the last checkpoint.
        checkpoints: in step order.
        log: the JSONL file.
        num_parameters: of both towers.
        num_steps: optimizer steps in all.
        seconds: wall time of this call.
    """

    name: str
    spec: str
    checkpoints: tuple[Path, ...]
    log: Path
    num_parameters: int
    num_steps: int
    seconds: float


def train(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "cpu",
    data_root: Path | None = None,
    num_workers: int = 0,
    progress: bool = True,
) -> TrainedModel:
    """Train the model of `recipe` into the folder `out`, from where an earlier call stopped.

    Args:
        recipe: what to compute.
        out: see the top of this file; several recipes may share it.
        device: `cpu`, `cuda`, `cuda:1`, `mps`.
        data_root: folder of the `wds_*` folders; embedded datasets need none.
        num_workers: processes that decode images; changes nothing but speed.
        progress: show a bar on standard error.

    Raises:
        UserError: there is no such device.
        RecipeError: the recipe and its data do not fit.
        DataNotFound, DamagedData: of a dataset.
        ConfigError: of the model.
        OutputError: `out` cannot be written, or holds another recipe's run under the same name.
        TrainingError: the loss is not finite; the weights are those of the last good step.
    """
    started = time.perf_counter()
    target = resolve_device(device)
    sources = open_sources(recipe, data_root)
    trainee = build_trainee(recipe.model, seed=recipe.seed, device=target)
    pairs = Pairs(
        sources,
        image_size_px=trainee.image_size_px,
        tokenize=trainee.tokenize,
        augmentation=recipe.augmentation,
        seed=recipe.seed,
    )
    num_steps = recipe.num_steps(len(pairs))
    warmup_steps = recipe.warmup_steps(num_steps)
    model = trainee.module.train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameter_groups(model, recipe.weight_decay), lr=recipe.lr, betas=recipe.betas, fused=True
    )

    folder = out / "models" / recipe.name
    log = out / "training" / f"{recipe.name}.jsonl"
    identity = run_identity(recipe, [s.dataset.info.fingerprint for s in sources])
    first_step = resume(folder / "resume.pt", identity, model, optimizer, num_steps)
    config = folder / f"{recipe.name}.json"
    write_text(config, json.dumps(trainee.config, indent=2) + "\n")
    write_text(log, "".join(line for line in read_log(log, last_step=first_step)))

    loader = pair_loader(
        pairs,
        batch_size=recipe.batch_size,
        first_step=first_step,
        num_steps=num_steps,
        num_workers=num_workers,
    )
    generators = [target] if target.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=generators),
        log.open("a", encoding="utf-8") as log_file,
        progress_bar(recipe.name, first_step, num_steps, shown=progress) as show,
    ):
        for step, (pixels, tokens) in enumerate(loader, start=first_step):
            lr = learning_rate(step, peak=recipe.lr, num_steps=num_steps, warmup_steps=warmup_steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            # Drop path draws from the global generator: seeded every step, a run can continue anywhere.
            torch.manual_seed(recipe.seed * num_steps + step)
            with torch.autocast(target.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                image, text, logit_scale = model(
                    pixels.to(target, non_blocking=True), tokens.to(target, non_blocking=True)
                )
            loss = contrastive_loss(image, text, logit_scale)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            grad_norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
            loss_value = loss.item()
            if not (math.isfinite(loss_value) and math.isfinite(grad_norm.item())):
                raise TrainingError(
                    f"{recipe.name}: the loss is {loss_value:g} and the norm of its gradient "
                    f"{grad_norm.item():g} at step {step + 1} of {num_steps}; the step was not taken. "
                    f"Lower lr ({recipe.lr:g}), raise warmup_fraction "
                    f"({recipe.warmup_fraction:g}) or use precision fp32, in a new --out folder."
                )
            optimizer.step()
            with torch.no_grad():
                logit_scale_parameter(model).clamp_(0, MAX_LOGIT_SCALE)

            done = step + 1
            show(done, loss_value)
            if done == num_steps or done % recipe.log_every == 0:
                model_name = f"{trainee.spec_prefix}{recipe.name}"
                line = {"step": done, "loss": loss_value, "lr": lr, "model": model_name, "seed": recipe.seed}
                log_file.write(json.dumps(line) + "\n")
                log_file.flush()
            if done == num_steps or done % recipe.checkpoint_every == 0:
                # A state on the disk must not be ahead of the log that goes on from it.
                os.fsync(log_file.fileno())
                save(folder / f"step_{done:06d}.pt", trainee.checkpoint(done))
                save(
                    folder / "resume.pt",
                    {
                        "identity": identity,
                        "step": done,
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                    },
                )

    if not (last := folder / f"step_{num_steps:06d}.pt").exists():
        # Somebody deleted it after the run had ended; the state has the same weights.
        save(last, trainee.checkpoint(num_steps))
    checkpoints = tuple(sorted(folder.glob("step_*.pt")))
    return TrainedModel(
        name=recipe.name,
        spec=f"{trainee.spec_prefix}{config}={checkpoints[-1]}",
        checkpoints=checkpoints,
        log=log,
        num_parameters=trainee.num_parameters,
        num_steps=num_steps,
        seconds=time.perf_counter() - started,
    )


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's groups: matrices decay; biases, gains, mixes and the logit scale do not.

    The official script lets weight decay hit every parameter.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        is_matrix = sum(size > 1 for size in parameter.shape) >= 2
        (matrices if is_matrix else others).append(parameter)
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def logit_scale_parameter(model: nn.Module) -> torch.Tensor:
    """Return the model's logarithm of the logit scale, a scalar parameter."""
    parameter = model.logit_scale
    assert isinstance(parameter, torch.Tensor)
    return parameter


def run_identity(recipe: Recipe, fingerprints: list[str]) -> str:
    """Return the SHA-256 (hex) of what must not change between a run and its continuation."""
    text = json.dumps([recipe.model_dump(mode="json"), fingerprints], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def resume(
    path: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int
) -> int:
    """Load the state an earlier call left at `path` and return how many of `num_steps` it had done.

    0 where there is none.

    Raises:
        CheckpointError: the file cannot be read.
        OutputError: the state belongs to another recipe or other data, or is none.
    """
    if not path.exists():
        return 0
    state = read_torch_file(path)
    if not isinstance(state, dict) or state.get("identity") != identity:
        raise OutputError(
            f"{path.parent} holds a run of another recipe or of other data under the same name: choose "
            "another --out folder, or delete that one to start over."
        )
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        if type(step) is not int or not 0 < step <= num_steps:
            raise ValueError(f"step {step!r:.40}; expected 1 to {num_steps}")
        if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
            raise ValueError("weights that are not finite")
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise OutputError(
            f"{path} is no state that training can continue from ({type(error).__name__}: "
            f"{shortened(str(error), 300)}); delete "
            f"{path.parent} to start over."
        ) from error
    return step


def save(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path` in torch's format, atomically."""
    # Given a path, torch would keep the temporary name inside, and equal weights would have other bytes.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def read_log(path: Path, *, last_step: int) -> list[str]:
    """Return the lines of a training log up to `last_step`; later ones are of work that was lost.

    Raises:
        OutputError: it is no training log.
    """
    if not path.exists():
        return []
    text = read_text(path, what="training log", limit=MAX_LOG_BYTES, error=OutputError)
    kept = []
    # What stands behind the last line end is a line that a killed run has left unfinished.
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        row = parse_json(line, f"training log {path}, line {number},", error=OutputError)
        step = row.get("step") if isinstance(row, dict) else None
        if not isinstance(step, int):
            raise OutputError(f"{path}:{number}: not a training log line; delete the file to start over.")
        if step <= last_step:
            kept.append(line + "\n")
    return kept


@contextlib.contextmanager
def progress_bar(
    name: str, first_step: int, num_steps: int, *, shown: bool
) -> Iterator[Callable[[int, float], None]]:
    """Yield a function that shows (steps done, loss), with steps per second and the time left.

    In a log file, a line about every tenth of the way instead of a bar.
    """
    started = time.perf_counter()
    said = first_step * 10 // num_steps
    with Progress(bars=shown, keep=True) as progress:
        logged = shown and not progress.shown

        def show(done: int, loss: float) -> None:
            nonlocal said
            rate = (done - first_step) / (time.perf_counter() - started)
            text, tenth = f"loss {loss:.3f}, {rate:.1f} steps/s", done * 10 // num_steps
            progress.update(done, num_steps, name, text)
            if logged and tenth > said:
                said = tenth
                progress.say(f"{name}: step {done} of {num_steps}, {text}")

        progress.update(first_step, num_steps, name)
        yield show
