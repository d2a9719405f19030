"""The training loop, to be read from top to bottom.

A run writes into its folder
    models/NAME/NAME.json                 the model's config, in its family's format
    models/NAME/step_000300.safetensors   checkpoints of that family, see `checkpoints.py`
    models/NAME/resume.pt                 what the same command continues from
    training/NAME.jsonl, .keys            what it saw, see `log.py`
    training/NAME.run.json, .png          recipe and machine; its first pairs: see `run_facts.py`
    evaluation/NAME/step_000300/          results of a checkpoint, see `evaluation.py`
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rwkvclip_eval.errors import UserError
from rwkvclip_models.disk import write_text
from rwkvclip_train.checkpoints import Checkpoints, run_identity
from rwkvclip_train.data.open import open_sources, open_validation
from rwkvclip_train.data.pairs import Pairs, load
from rwkvclip_train.gradients import StepGradients, logit_scale_parameter
from rwkvclip_train.log import Meter, RunLog, progress_bar, require_room
from rwkvclip_train.measures import Measures
from rwkvclip_train.models import build_trainee, text_decay_to_bfloat16
from rwkvclip_train.optim.adamw import make_optimizer, set_schedule
from rwkvclip_train.order import batch_keys, check_shares, key_stream, order_of
from rwkvclip_train.parallel import StopSignal, join_ranks, shared_facts
from rwkvclip_train.run_facts import keep_facts, keep_sheet
from rwkvclip_train.update import Update, not_finite

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_train.models import Trainee
    from rwkvclip_train.parallel import Ranks
    from rwkvclip_train.recipe import Recipe


class TrainingError(UserError):
    """Training that cannot go on."""


class Stopped(UserError):
    """Training was asked to stop, and has kept what it had done."""

    exit_code = 143


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
        best: the best checkpoint that stayed; None where none has a score, and on ranks that do not lead.
        leads: whether this process is the one that speaks for the run.
    """

    name: str
    spec: str
    checkpoints: tuple[Path, ...]
    log: Path
    num_parameters: int
    num_steps: int
    seconds: float
    best: Path | None = None
    leads: bool = True


def train(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "cpu",
    data_root: Path | None = None,
    num_workers: int = 0,
    skip_bad: int = 0,
    progress: bool = True,
) -> TrainedModel:
    """Train the model of `recipe` into the folder `out`, from where an earlier call stopped.

    Under `torchrun`, all processes call this and share every batch.

    Args:
        recipe: what to compute.
        out: see the top of this file; several recipes may share it.
        device: `cpu`, `cuda` (of several processes: one each), `cuda:1`, `mps`.
        data_root: folder of the `wds_*` folders; embedded datasets need none.
        num_workers: processes that decode images, for each training process; changes nothing but speed.
        skip_bad: steps whose loss or gradient is not finite that may be left out.
        progress: show a bar on standard error.

    Raises:
        UserError: there is no such device, or another process of the run is gone.
        RecipeError: the recipe and its data do not fit.
        DataNotFound, DamagedData: of a dataset.
        ConfigError: of the model.
        OutputError: `out` cannot be written, is in use, or holds another recipe's run under the same name, or
            the run's log would be too long.
        TrainingError: the loss is not finite; the weights are those of the last good step.
        Stopped: the process got SIGTERM; the steps that it had done are saved.
    """
    with join_ranks(device) as ranks, StopSignal() as stop:
        generators = [ranks.device] if ranks.device.type == "cuda" else []
        with torch.random.fork_rng(devices=generators):
            return _train(
                recipe, out, ranks, stop, data_root, num_workers, skip_bad, progress and ranks.rank == 0
            )


def _train(
    recipe: Recipe,
    out: Path,
    ranks: Ranks,
    stop: StopSignal,
    data_root: Path | None,
    num_workers: int,
    skip_bad: int,
    shown: bool,
) -> TrainedModel:
    started = time.perf_counter()
    sources = open_sources(recipe, data_root)
    held_out = open_validation(recipe, sources, data_root)
    trainee = build_trainee(recipe.model, seed=recipe.seed, device=ranks.device)
    prepare(trainee, recipe)
    pairs = Pairs(
        sources,
        image_size_px=trainee.image_size_px,
        tokenize=trainee.tokenize,
        augmentation=recipe.augmentation,
        seed=recipe.seed,
    )
    kinds = sorted({kind for part in pairs.parts for kind in part.source.kinds})
    order, num_parts = order_of(recipe, len(pairs))
    num_steps = recipe.num_steps(len(pairs))
    require_room(recipe, num_steps)
    check_shares(recipe.name, order.batch_size, ranks.size, num_parts)
    optimizer = make_optimizer(trainee.module, recipe)
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=recipe.precision == "fp16")
    checkpoints = Checkpoints(
        out / "models" / recipe.name,
        run_identity(recipe, [part.fingerprint for part in (*sources, *held_out)]),
        num_steps=num_steps,
        every=recipe.checkpoint_every,
        keep_last=recipe.keep_last,
        keep_best=recipe.keep_best,
    )
    measures = Measures(
        recipe, trainee, ranks, checkpoints, held_out, out, data_root=data_root, num_workers=num_workers
    )
    config, log_path = checkpoints.folder / f"{recipe.name}.json", out / "training" / f"{recipe.name}.jsonl"
    name = f"{trainee.spec_prefix}{recipe.name}"

    with (
        checkpoints.held(ranks),
        RunLog(log_path, writes=ranks.rank == 0) as log,
        progress_bar(recipe.name, num_steps, shown=shown) as show,
    ):
        state = checkpoints.load(trainee.module, optimizer, scaler)
        ranks.agree([checkpoints.identity, state.step], "run")
        if ranks.rank == 0:
            write_text(config, json.dumps(trainee.config, indent=2) + "\n")
            keep_facts(log_path, recipe)
            if state.step == 0:
                keep_sheet(log_path, pairs, batch_keys(order, 0))
        log.cut(state.step)
        step_gradients = StepGradients(trainee, ranks, recipe, scaler)
        update = Update(trainee.module, optimizer, scaler, recipe.clip_norm)
        keys = key_stream(
            order,
            first_step=state.step,
            num_steps=num_steps,
            rank=ranks.rank,
            num_ranks=ranks.size,
            num_parts=num_parts,
        )
        loader = load(pairs, keys, num_workers=num_workers)
        measures(state, log)
        meter = Meter(ranks.device, order.batch_size)
        show(state.step, "")
        for step in range(state.step, num_steps):
            with meter.waiting():
                batches = [next(loader) for _ in range(num_parts)]
            lr, betas = set_schedule(optimizer, recipe, step, num_steps)
            optimizer.zero_grad(set_to_none=True)
            loss, finite = step_gradients(step, batches)
            outcome, grad_norm = update(loss)
            if outcome == "bad" and state.skipped >= skip_bad:
                raise TrainingError(
                    not_finite(recipe, pairs, ranks, step, num_steps, batches, loss, grad_norm, finite)
                )
            state.count(outcome, loss)
            facts = shared_facts(ranks, batches, order.batch_size, kinds, stop)

            last = state.step == num_steps
            meter.count()
            log.keys(state.step, facts.epoch, facts.digest)
            show(state.step, f"loss {loss:.3f}")
            if last or facts.stopping or state.step % recipe.log_every == 0:
                line = {"step": state.step, "loss": loss, "lr": lr, "model": name, "seed": recipe.seed}
                line |= {"grad_norm": grad_norm, "betas": betas, "texts": facts.texts}
                line |= {"logit_scale": logit_scale_parameter(trainee.module).exp().item()}
                line |= {"skipped": state.skipped, "overflowed": state.overflowed}
                log.line(line | {"loss_scale": scaler.get_scale()} | meter.read())
            if checkpoints.is_due(state.step) or facts.stopping:
                if ranks.rank == 0:
                    # A state on the disk must not be ahead of the log that goes on from it.
                    log.sync()
                    checkpoints.save(state, trainee.module, optimizer, scaler)
                ranks.wait()
            if facts.stopping and not last:
                raise Stopped(
                    f"{recipe.name}: stopped after step {state.step} of {num_steps}, which is saved; run the "
                    "same command again to continue."
                )
            with meter.paused():
                measures(state, log)

    return TrainedModel(
        name=recipe.name,
        spec=f"{trainee.spec_prefix}{config}={checkpoints.path(num_steps)}",
        checkpoints=tuple(checkpoints.paths()),
        log=log_path,
        num_parameters=trainee.num_parameters,
        num_steps=num_steps,
        seconds=time.perf_counter() - started,
        best=next((checkpoints.path(step) for step in checkpoints.ranked(state)), None),
        leads=ranks.rank == 0,
    )


def prepare(trainee: Trainee, recipe: Recipe) -> None:
    """Put the model into the mode that the recipe trains it in."""
    trainee.module.train()
    if recipe.init is not None:
        trainee.load(recipe.init)
    trainee.lock(recipe.lock)
    if recipe.precision == "fp64":
        trainee.module.double()
    if recipe.quirks.text_decay_bfloat16:
        text_decay_to_bfloat16(trainee.module)
    if recipe.activation_checkpointing:
        trainee.checkpoint_activations()
    if recipe.compile:
        trainee.module.compile()
