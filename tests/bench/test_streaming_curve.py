"""Peak memory of the streaming form as the system counts it, one process a point."""

from __future__ import annotations

from pathlib import Path

import pytest

from rwkvclip_eval.bench.streaming import memory_curve
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.records.streaming import FORMS

MIB = 1 << 20
CONFIG = {
    "input_size": 16,
    "image_depth": 1,
    "image_embed_dims": 64,
    "image_patch_size": 4,
    "image_hidden_rate": 2,
    "image_num_heads": 4,
    "ctx_len": 12,
    "vocab_size": 64,
    "head_size": 16,
    "n_layer": 1,
    "n_embd": 64,
    "dim_ffn": 64,
}
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc to count a process's peak"
)


def test_a_point_without_memory_says_so_and_the_next_is_measured() -> None:
    too_large, small = memory_curve(CONFIG, [10**13, 100], forms=["parallel"])
    assert "alloc" in too_large.problem
    assert too_large.seconds is too_large.peak_bytes is None
    assert not small.problem
    assert small.seconds is not None
    assert (small.tokens, small.height_px, small.width_px) == (100, 40, 40)
    assert small.token_bytes == 2 * 100 * 64 * 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"precision": "fp8"}, "fp32, bf16, got 'fp8'"),
        ({"device": "tpu"}, "got 'tpu'"),
        ({"tokens": [4, 0]}, "at least 1, got 0"),
        ({"forms": ["streaming", "both"]}, "streaming, parallel, got 'both'"),
        ({"config": "rwkv-clip-b33"}, "Did you mean"),
    ],
)
def test_what_cannot_be_measured_is_refused(changed: dict[str, object], message: str) -> None:
    given = {"config": CONFIG, "tokens": [16]} | changed
    with pytest.raises(UserError, match=message):
        list(memory_curve(**given))  # type: ignore[arg-type]  # wrong on purpose


@needs_proc
@pytest.mark.slow
def test_the_process_holds_two_token_arrays_and_no_more_for_a_larger_image() -> None:
    sizes = [1024, 4096, 16384, 65536]
    beyond = {}
    for point in memory_curve(CONFIG, sizes, forms=["streaming"]):
        assert point.peak_bytes is not None
        beyond[point.tokens] = (point.peak_bytes - point.token_bytes) / MIB
    # A third array of 65,536 tokens would take 16 MiB.
    assert max(beyond.values()) < beyond[1024] + 4, beyond


@needs_proc
@pytest.mark.slow
def test_the_parallel_form_takes_memory_in_proportion() -> None:
    small, large = memory_curve(CONFIG, [4096, 16384], forms=FORMS[1:])
    assert small.peak_bytes is not None
    assert large.peak_bytes is not None
    assert large.peak_bytes > 3 * small.peak_bytes
