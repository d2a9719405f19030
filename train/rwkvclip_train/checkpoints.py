"""What a run leaves on the disk to go on from and to evaluate, whole at every moment.

    models/NAME/step_000300.safetensors   weights, with the family's own names
    models/NAME/resume.pt                 step and optimizer, from which the same command continues, and
                                          which weights belong to them

The weights come first and the state that names them after, each with one rename, so that a kill or a full
disk leaves the pair before. Rank 0 alone writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from rwkvclip_eval.errors import CheckpointError, OutputError, shortened, shown
from rwkvclip_models.checkpoint import checkpoint_sha256, fit_state_dict, read_checkpoint, save_state_dict
from rwkvclip_models.disk import atomic_path, file_digest, make_folder
from rwkvclip_models.torch_file import read_torch_file
from rwkvclip_train.resume import read_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from torch import nn

    from rwkvclip_train.parallel import Ranks
    from rwkvclip_train.recipe import Recipe
    from rwkvclip_train.update import Outcome

CHANGEABLE = (
    *("accumulation", "activation_checkpointing", "compile", "keep_last", "keep_best"),
    *("keep_best_by", "evaluation"),
)
"""Recipe keys that a run may change when it continues: they change good steps by rounding at most."""


@dataclass
class Progress:
    """Where a run stands, beside its weights and its optimizer.

    Attributes:
        step: steps that are done.
        skipped: of them, those not taken since their loss was not finite.
        overflowed: of them, those not taken since float16 gradients overflowed at the loss scale of then.
        loss_sum: of the losses since the last regular checkpoint.
        loss_count: how many those are.
        scores: of regular checkpoints, by step, their mean loss since the one before.
    """

    step: int = 0
    skipped: int = 0
    overflowed: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    scores: dict[int, float] = field(default_factory=dict)

    def count(self, outcome: Outcome, loss: float) -> None:
        """Count a step."""
        self.step += 1
        self.skipped += outcome == "bad"
        self.overflowed += outcome == "overflowed"
        if outcome != "bad":
            self.loss_sum, self.loss_count = self.loss_sum + loss, self.loss_count + 1

    def score(self) -> None:
        """Score the regular checkpoint that is due: the mean loss since the one before."""
        self.scores[self.step] = self.loss_sum / self.loss_count if self.loss_count else math.inf
        self.loss_sum, self.loss_count = 0.0, 0


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: of the run's model.
        identity: see `run_identity`.
        num_steps: of the run.
        every: steps from one regular checkpoint to the next.
        keep_last: regular checkpoints that stay; None for all.
        keep_best: further ones that stay, those with the best scores.

    Attributes:
        scores: of regular checkpoints, by step, the lower, the better, where something else than the loss
            decides which are best.
    """

    def __init__(
        self,
        folder: Path,
        identity: str,
        *,
        num_steps: int,
        every: int,
        keep_last: int | None = None,
        keep_best: int = 0,
    ) -> None:
        self.folder, self.identity, self.num_steps, self.every = folder, identity, num_steps, every
        self.keep_last, self.keep_best = keep_last, keep_best
        self.scores: dict[int, float] | None = None

    def is_due(self, step: int) -> bool:
        """Whether a regular checkpoint follows `step` steps."""
        return step == self.num_steps or step % self.every == 0

    def save(
        self,
        progress: Progress,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> None:
        """Write weights and state, then delete the checkpoints that need not stay.

        Raises:
            OutputError: they cannot be written; what was there before stays.
        """
        weights = self.path(progress.step)
        if self.is_due(progress.step):
            progress.score()
        save_weights(model, weights)
        save_state(
            self.folder / "resume.pt",
            {
                "identity": self.identity,
                "weights": weights.name,
                "weights_sha256": file_digest(weights),
                "progress": vars(progress),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
            },
        )
        self.prune(progress)

    def prune(self, progress: Progress) -> None:
        """Delete the checkpoints that need not stay; that of `progress` does."""
        stays = self._staying(progress) | {progress.step}
        for path in self.paths():
            if step_of(path) not in stays:
                path.unlink(missing_ok=True)

    def ranked(self, progress: Progress) -> list[int]:
        """Return the steps of the regular checkpoints that there are and have a score, the best first."""
        scores = progress.scores if self.scores is None else self.scores
        there = [step for path in self.paths() if (step := step_of(path)) in scores and self.is_due(step)]
        return sorted(there, key=lambda step: (scores[step], step))

    def path(self, step: int) -> Path:
        """Return where the weights after `step` steps lie."""
        return self.folder / f"step_{step:06d}.safetensors"

    def paths(self) -> list[Path]:
        """Return the checkpoints there are, in step order."""
        found = [path for path in self.folder.glob("step_*.safetensors") if step_of(path) is not None]
        return sorted(found, key=lambda path: step_of(path) or 0)

    def _staying(self, progress: Progress) -> set[int]:
        steps = [step for path in self.paths() if (step := step_of(path)) is not None and self.is_due(step)]
        if self.keep_last is None:
            return set(steps)
        return {*steps[-self.keep_last :], *self.ranked(progress)[: self.keep_best]}

    def load(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
    ) -> Progress:
        """Load what an earlier call left and return where it stood; a fresh `Progress` where there is none.

        Raises:
            CheckpointError: a file cannot be read, or the weights do not fit the model.
            OutputError: the state belongs to another recipe or other data, or does not fit, see `read_state`.
        """
        path = self.folder / "resume.pt"
        if not path.exists():
            # A run that was killed while it wrote its first state leaves the weights of that step alone.
            steps = [step_of(left) or 0 for left in self.paths()]
            if len(steps) > 1 or max(steps, default=0) > self.every:
                raise OutputError(
                    f"{self.folder} has checkpoints up to step {max(steps)} and no {path.name} to continue "
                    "from: put it back, choose another --out folder, or delete that one to start over."
                )
            return Progress()
        state = read_torch_file(path)
        if not isinstance(state, dict) or state.get("identity") != self.identity:
            raise OutputError(
                f"{self.folder} holds a run of another recipe or of other data under the same name: choose "
                "another --out folder, or delete that one to start over."
            )
        fitted = read_state(state, path, optimizer, scaler, num_steps=self.num_steps)
        del state
        progress = Progress(**fitted.progress.model_dump())
        weights = self.path(progress.step)
        try:
            if fitted.weights != weights.name:
                raise ValueError(f"weights {shown(fitted.weights)}; expected {weights.name}")
            if not weights.exists():
                raise ValueError(f"its weights {weights.name} are gone")
            if file_digest(weights) != fitted.weights_sha256:
                raise ValueError(f"its weights {weights.name} have changed since")
        except (ValueError, OSError) as error:
            raise OutputError(
                f"{path} is no state that training can continue from ({shortened(str(error), 300)}); delete "
                f"{self.folder} to start over."
            ) from error
        model.load_state_dict(fit_state_dict(read_checkpoint(weights), model.state_dict(), str(weights)))
        optimizer.load_state_dict(dict(fitted.optimizer))
        scaler.load_state_dict(fitted.scaler)
        return progress

    @contextlib.contextmanager
    def held(self, ranks: Ranks) -> Iterator[None]:
        """Hold the folder while the block runs, rank 0 for all.

        Raises:
            OutputError: another process holds it, or the folder cannot be written.
        """
        from filelock import FileLock, Timeout

        if ranks.rank:
            ranks.wait()
            yield
            return

        try:
            make_folder(self.folder)
            lock = FileLock(self.folder / ".lock")
            lock.acquire(timeout=0)
        except Timeout as error:
            raise OutputError(
                f"Another process is training into {self.folder}; wait for it or choose another --out."
            ) from error
        except OSError as error:
            raise OutputError(
                f"Cannot write {self.folder}: {error.strerror or error}. Choose another --out."
            ) from error
        try:
            # None reads what another run is writing.
            ranks.wait()
            yield
        finally:
            lock.release()


def step_of(path: Path) -> int | None:
    """Return the number of steps in a checkpoint's name; None where it is no such name."""
    match = re.fullmatch(r"step_([0-9]{6,10})\.safetensors", path.name)
    return int(match.group(1)) if match else None


def run_identity(recipe: Recipe, fingerprints: Iterable[str]) -> str:
    """Return the SHA-256 (hex) of what must not change between a run and its continuation.

    Args:
        recipe: of the run.
        fingerprints: of its data.

    Raises:
        CheckpointError: the checkpoint that the run begins with cannot be read.
    """
    free = set(CHANGEABLE) - ({"accumulation"} if recipe.quirks.accumulation_drops_batches else set())
    content = recipe.model_dump(mode="json", exclude=free)
    first = None if recipe.init is None else checkpoint_sha256(recipe.init)
    # A text is drawn by the place of its kind, so that the order of kinds counts; that of keys does not.
    for source in content["data"]:
        if isinstance(source.get("texts"), dict):
            source["texts"] = list(source["texts"].items())
    text = json.dumps([content, list(fingerprints), first], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the weights of `model`, atomically; tensors that share memory are written apart.

    Raises:
        OutputError: the file cannot be written.
    """
    state, seen = {}, set()
    for name, tensor in model.state_dict().items():
        shared = tensor.untyped_storage().data_ptr() in seen
        seen.add(tensor.untyped_storage().data_ptr())
        state[name] = tensor.clone() if shared else tensor
    try:
        save_state_dict(state, path)
    except CheckpointError as error:
        raise OutputError(f"{error} What was saved before is whole.") from error


def save_state(path: Path, content: dict[str, Any]) -> None:
    """Write `content` in torch's format, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            # Given a path, torch would keep the temporary name inside: equal states, other bytes.
            with temporary.open("wb") as file:
                torch.save(_plain(content), file)
        except RuntimeError as error:
            # Torch's archive writer hides what the system said.
            reason = error.__context__ if isinstance(error.__context__, OSError) else error
            raise OutputError(
                f"Cannot write {path}: {shortened(str(reason), 300)}. What was saved before is whole; free "
                "space, then run the same command again."
            ) from error


def _plain(value: Any) -> Any:
    """Return a state of new containers and interned strings.

    A pickle refers back to objects that it has met: equal states whose parts were made elsewhere, in a file
    or in the run, would have other bytes.
    """
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return sys.intern(value) if isinstance(value, str) else value
