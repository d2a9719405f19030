"""What a run measures of itself beside training, when, and which checkpoints are the best by it.

Each measure has its line of the log, written behind the checkpoint of its step: a run that is stopped while
it measures loses nothing, and measures first when it goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rwkvclip_train.evaluation import Evaluation
from rwkvclip_train.validation import Validation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rwkvclip_train.checkpoints import Checkpoints, Progress
    from rwkvclip_train.data.pairs import Part
    from rwkvclip_train.log import RunLog
    from rwkvclip_train.models import Trainee
    from rwkvclip_train.parallel import Ranks
    from rwkvclip_train.recipe import Recipe


class Measures:
    """Measures one run.

    Args:
        recipe: of the run.
        trainee: the model.
        ranks: of the run.
        checkpoints: of the run.
        held_out: pairs of the validation loss; none where it is not asked for.
        out: folder of the run.
        data_root: folder of the datasets.
        num_workers: processes that decode images.

    Raises:
        UserError: what the recipe asks for cannot be measured.
    """

    def __init__(
        self,
        recipe: Recipe,
        trainee: Trainee,
        ranks: Ranks,
        checkpoints: Checkpoints,
        held_out: Sequence[Part],
        out: Path,
        *,
        data_root: Path | None,
        num_workers: int,
    ) -> None:
        self.recipe, self.ranks, self.checkpoints = recipe, ranks, checkpoints
        self._line = {"model": f"{trainee.spec_prefix}{recipe.name}", "seed": recipe.seed}
        self.validation: Validation | None = None
        if recipe.validation:
            self.validation = Validation(recipe, trainee, ranks, held_out, num_workers=num_workers)
        self.evaluation: Evaluation | None = None

        def open_evaluation() -> None:
            self.evaluation = Evaluation(
                recipe,
                trainee,
                checkpoints.folder,
                out / "evaluation" / recipe.name,
                data_root=data_root,
                num_workers=num_workers,
                device=ranks.device,
            )

        if recipe.evaluation:
            ranks.led(open_evaluation)

    def __call__(self, state: Progress, log: RunLog) -> None:
        """Measure what is due after `state.step` steps and not in the log yet; all ranks call it."""
        step, asked = state.step, self.recipe.validation
        if asked and self.validation and self._is_due("val_loss", asked.every, step, log):
            log.line({"step": step, **self._line, "val_loss": self.validation()})
        if self.recipe.evaluation and self._is_due("evaluation", self.recipe.evaluation.every, step, log):
            self.ranks.led(lambda: self._evaluate(step, log))
        if self.recipe.keep_best_by != "loss" and self.ranks.rank == 0:
            self.checkpoints.scores = self._scores(log)
            self.checkpoints.prune(state)

    def _is_due(self, field: str, every: int | None, step: int, log: RunLog) -> bool:
        """Whether all ranks are to measure now."""
        if not step or (step < self.checkpoints.num_steps and step % (every or self.checkpoints.every)):
            return False
        return not self.ranks.sum([float(log.has(field, step))])[0]

    def _evaluate(self, step: int, log: RunLog) -> None:
        if self.evaluation is not None:
            log.line({"step": step, **self._line, **self.evaluation(step, self.checkpoints.path(step))})

    def _scores(self, log: RunLog) -> dict[int, float]:
        """Return the scores of the checkpoints that the log has measures of; the lower, the better."""
        by, better = self.recipe.keep_best_by, self.evaluation.better if self.evaluation else {}
        lower = by == "val_loss" or better.get(by) == "lower"
        scores = {}
        for row in log.measured:
            value: Any = row.get(by, row.get("evaluation", {}).get(by))
            if isinstance(value, int | float):
                scores[row["step"]] = value if lower else -value
        return scores
