"""Column titles: a model's name, with the shortest difference where several encoders share it."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rwkvclip_eval.records.schema import Record
    from rwkvclip_eval.report.entries import Run

Encoder = tuple[str, str]
"""Fingerprint and precision."""


def column_titles(pairs: Iterable[tuple[Record, Run]]) -> dict[tuple[str, Encoder], str]:
    """Return (name, encoder) → column title.

    A name that stands for several encoders says which, in the fewest of these that tell them apart: the
    checkpoint's file, its step, the precision, the run. Fingerprints are shortened to eight digits, and
    stand there only where nothing else differs.

    Args:
        pairs: records, each with its run.
    """
    by_name: dict[str, dict[Encoder, tuple[Record, Run]]] = {}
    for record, run in pairs:
        if record.model_info.get("fingerprint"):
            by_name.setdefault(record.model, {}).setdefault(_encoder(record), (record, run))
    titles = {}
    for name, encoders in by_name.items():
        marks = _marks(list(encoders.values())) if len(encoders) > 1 else [""]
        for encoder, mark in zip(encoders, marks, strict=True):
            titles[name, encoder] = f"{name} ({mark})" if mark else name
    return titles


def column_of(record: Record, titles: Mapping[tuple[str, Encoder], str]) -> str:
    """Return the column that a record belongs in.

    Args:
        record: with or without a number.
        titles: of `column_titles`.
    """
    if (record.model, _encoder(record)) in titles:
        return titles[record.model, _encoder(record)]
    # An encoder that did not load has no fingerprint; it joins its column where only one can be meant.
    same_name = {title for (name, _), title in titles.items() if name == record.model}
    return same_name.pop() if len(same_name) == 1 else record.model


def _encoder(record: Record) -> Encoder:
    info = record.model_info
    return str(info.get("fingerprint", "")), str(info.get("precision", ""))


def _marks(encoders: Sequence[tuple[Record, Run]]) -> list[str]:
    """Return a mark for each encoder, no two alike."""
    told = [facts for each in _facts(encoders) if len(set(facts := each)) > 1]
    for marks in _joined(told):
        if len(set(marks)) == len(encoders):
            return marks
    digits = [str(record.model_info["fingerprint"])[:8] for record, _ in encoders]
    for marks in _joined([digits, *told]):
        if len(set(marks)) == len(encoders):
            return marks
    return [" ".join(_encoder(record)) for record, _ in encoders]


def _facts(encoders: Sequence[tuple[Record, Run]]) -> Iterator[list[str]]:
    infos = [record.model_info for record, _ in encoders]
    yield [str(info.get("spec", "")).rpartition("=")[2] for info in infos]
    yield [_step(info) for info in infos]
    yield [str(info.get("precision", "")) for info in infos]
    yield [run.name for _, run in encoders]


def _step(info: Mapping[str, object]) -> str:
    return "" if info.get("step") is None else f"{info.get('step_unit') or 'step'} {info['step']}"


def _joined(facts: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """Yield what one fact tells of each encoder, then two, and so on."""
    for size in range(1, len(facts) + 1):
        for chosen in combinations(facts, size):
            yield [", ".join(filter(None, each)) for each in zip(*chosen, strict=True)]
