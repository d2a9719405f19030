"""`bench ops`: times, what could not be timed, and what was published on the same shapes."""

import json

import pytest
import torch

from rwkvclip_eval.bench import operator_table, operators
from rwkvclip_eval.bench.operators import Timing
from rwkvclip_eval.records.published_speed import operator_speeds

SHAPE = "published: 8 × 1024 × 8 × 64"


def timing(**changes):
    facts = {
        "implementation": "cuda", "device": "cuda", "dtype": "bfloat16", "shape": SHAPE,
        "direction": "forward", "median_ms": 0.1, "low_ms": 0.09, "high_ms": 0.11, "repeats": 9,
    }  # fmt: skip
    return Timing(**{**facts, **changes})


def test_published_times_stand_beside_the_same_shape_dtype_and_pass_alone():
    [first, second] = operator_table.published_lines([timing(), timing(implementation="triton")])
    assert first == (
        "flash-linear-attention Triton, bfloat16, 8 × 1024 × 8 × 64, forward: 0.199 ms, one direction, "
        "NVIDIA H100 NVL (flash-linear-attention pull request 1045)"
    )
    assert "TileLang" in second
    assert [row.ms for row in operator_speeds("8 × 1024 × 8 × 64", "bfloat16", "forward + backward")] == [
        0.9,
        0.747,
    ]
    assert operator_table.published_lines([timing(dtype="float32")]) == []
    assert operator_table.published_lines([timing(problem="no kernel")]) == []


def test_operands_are_cold_where_a_cache_would_hold_them(monkeypatch):
    operands = [torch.zeros(100) for _ in range(5)]
    seen = []

    def build(copy):
        return lambda: seen.append(copy[0].data_ptr())

    def calls(cache, times=6):
        monkeypatch.setattr(operators, "cache_bytes", lambda device: cache)
        seen.clear()
        call = operators.cold(build, operands, "cuda")
        for _ in range(times):
            call()
        return seen

    # 2,000 bytes: between two uses of a copy the others, as large as the cache in all, are used.
    assert len(set(calls(3000))) == 3
    assert seen[:3] == seen[3:]
    assert set(calls(500)) == {operands[0].data_ptr()}
    assert set(calls(0)) == {operands[0].data_ptr()}
    assert len(set(calls(501))) == 2


def test_the_shape_of_the_published_figures_is_timed():
    assert (8, 1024, 8, 64) in operators.TIMED_SHAPES["cuda"].values()


@pytest.mark.parametrize(
    ("implementation", "code"), [("cpu", 3), (next(iter(operators.LINEAR_ATTENTION)), 0)]
)
def test_the_command_writes_times_and_tells_what_could_not_be_timed(
    run, tmp_path, monkeypatch, implementation, code
):
    lost = timing(implementation=implementation, problem="OutOfMemoryError: no memory", repeats=0)
    monkeypatch.setattr(operators, "time_all", lambda: iter([timing(), lost]))
    found_code, out, _ = run("bench", "ops", "-o", tmp_path)
    assert found_code == code
    assert "OutOfMemoryError: no memory" in out
    assert "Published: flash-linear-attention Triton" in out
    found = json.loads((tmp_path / "ops.json").read_text())
    assert [time["problem"] for time in found["times"]] == ["", "OutOfMemoryError: no memory"]
    assert "flash-linear-attention" in found["rivals"]
    assert "| cuda " in (tmp_path / "ops.md").read_text()
