"""Checks what a task gives, of which users write their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING

from rwkvclip_eval.data.reading import plain_name
from rwkvclip_eval.errors import UserError, shown
from rwkvclip_eval.printable import unreadable
from rwkvclip_eval.records.metrics import is_finite
from rwkvclip_eval.tasks.base import MetricValue, TaskResult

if TYPE_CHECKING:
    from rwkvclip_eval.tasks.base import Task


_MOST_COUNTED = 1 << 53
"""Whole numbers up to it are exact as floats."""


def check_texts(task: Task, texts: object) -> None:
    """Refuse texts that cannot be encoded.

    Raises:
        UserError: they are no sequence of texts, or there is none.
    """
    listed = texts if isinstance(texts, Sequence) and not isinstance(texts, str) else ()
    if not listed or not all(isinstance(text, str) for text in listed):
        raise UserError(
            f"The task {task.name} must give a sequence of texts, one or more, got {shown(str(texts))}."
        )


def check_result(task: Task, result: object) -> None:
    """Refuse a result that could not be recorded, or not under the names it has.

    Raises:
        UserError: it is no result, a number is none, a metric comes twice, or a table is none.
    """
    if not isinstance(result, TaskResult) or not result.metrics:
        raise UserError(
            f"The task {task.name} must return a TaskResult with a metric or more, got {result!r:.200}."
        )
    seen: set[str] = set()
    for one in result.metrics:
        if not isinstance(one, MetricValue):
            raise UserError(f"The task {task.name} gave {one!r:.200} among its metrics, no MetricValue.")
        where = f"The task {task.name}, metric {shown(one.name)}"
        numbers: dict[str, object] = {"value": one.value, "n": one.n}
        for name, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, Real):
                raise UserError(f"{where}: expected a number as {name}, got {number!r:.200}.")
        if not 1 <= one.n <= _MOST_COUNTED:
            raise UserError(f"{where}: expected one sample or more, got n {shown(one.n)}.")
        if not is_finite(one.value):
            raise UserError(f"{where}: expected a finite number, got {shown(one.value)}.")
        if why := unreadable(one.metric.title):
            raise UserError(f"{where}: its title {why}.")
        if one.name in seen:
            raise UserError(f"{where}: it is there twice.")
        seen.add(one.name)
    if not isinstance(result.predictions, Mapping):
        raise UserError(f"The task {task.name}: expected a mapping of tables as predictions.")
    import pyarrow as pa

    for table_name, table in result.predictions.items():
        plain_name(str(table_name), f"table of predictions of the task {task.name}")
        if not isinstance(table, pa.Table):
            raise UserError(
                f"The task {task.name}: expected a pyarrow Table as {table_name}, got {type(table).__name__}."
            )
