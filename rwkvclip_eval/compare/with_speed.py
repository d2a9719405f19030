"""A comparison of two checkpoints and one of their speed, in one text: JSON, Markdown, JUnit XML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkvclip_eval.compare import formats, speed_formats

if TYPE_CHECKING:
    from rwkvclip_eval.compare.result import Result
    from rwkvclip_eval.compare.speed import SpeedComparison


def exit_code(result: Result, speed: SpeedComparison | None) -> int:
    """Return 1 where either verdict is REGRESSION or SLOWER, else 3 where either decides nothing, else 0."""
    codes = {result.judgement.exit_code, *([speed.exit_code] if speed else [])}
    return next((code for code in (1, 3) if code in codes), 0)


def as_json(result: Result, speed: SpeedComparison | None) -> str:
    """Return the whole comparison; that of speed, where there is one, under `speed`."""
    content = formats.content(result) | {"exit_code": exit_code(result, speed)}
    return formats.dumped(content | ({"speed": speed_formats.content(speed)} if speed else {}))


def as_github(result: Result, speed: SpeedComparison | None) -> str:
    """Return GitHub-flavoured Markdown, for a pull request or a step's summary."""
    return "\n".join([formats.as_github(result), *([speed_formats.as_github(speed)] if speed else [])])


def as_junit(result: Result, speed: SpeedComparison | None) -> str:
    """Return JUnit XML: the cases of both."""
    return formats.junit([*formats.cases(result), *(speed_formats.cases(speed) if speed else [])])
