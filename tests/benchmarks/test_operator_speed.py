"""Bi-WKV alone on a CPU: compiled against a plain scan, one pass per direction, built by the same compiler.

Axes: B batch, T tokens, H heads, N head width.
"""

import sys

import pytest
import torch
from side_by_side import in_words, ratio

from rwkvclip_eval.bench.clock import in_turns
from rwkvclip_eval.bench.limits import LINEAR_COST, SCAN_SPEEDUPS
from rwkvclip_models import ops
from rwkvclip_models.ops import build, native

SHAPES = {"image B/32": (32, 49, 8, 80), "image B/16": (8, 196, 8, 80), "text": (64, 77, 10, 64)}
LIMIT = 1 / SCAN_SPEEDUPS["cpu", "float32", "forward"]


def operands(shape):
    generator = torch.Generator().manual_seed(0)
    r, k, v = (torch.randn(shape, generator=generator) for _ in range(3))
    w = torch.empty(shape).uniform_(-6, 1, generator=generator)
    return r, k, v, w, torch.rand(shape[2:], generator=generator)


@pytest.mark.slow
@pytest.mark.parametrize("tower", SHAPES)
def test_the_kernel_needs_at_most_60_percent_of_a_plain_scan(tower, benchmark, capsys):
    shape = SHAPES[tower]
    r, k, v, w, u = operands(shape)
    low = [x.bfloat16() for x in (r, k, v)]
    y, scan = torch.empty(shape), build.library("scan_baseline")

    def plain():
        native.call(scan, "scan_baseline", r, k, v, w, u, y, *shape, torch.get_num_threads())

    calls = {"plain scan": plain} | {
        f"{name} {label}": lambda name=name, x=x: ops.bi_wkv6(*x, w, u, implementation=name)
        for name in ("cpu", "torch")
        for label, x in (("float32", (r, k, v)), ("bfloat16", low))
    }
    with torch.inference_mode():
        plain()
        torch.testing.assert_close(calls["cpu float32"](), y, rtol=1e-4, atol=1e-4)
        seconds = benchmark.pedantic(in_turns, args=(calls, 12), rounds=1)
    benchmark.extra_info.update({name: ratio(seconds, name, "plain scan")[1] for name in calls})
    with capsys.disabled():
        title = f"Bi-WKV forward, {tower}: {' × '.join(map(str, shape))}, {torch.get_num_threads()} threads"
        sys.stdout.write(in_words(title, seconds, "plain scan"))
    assert ratio(seconds, "cpu float32", "plain scan")[1] <= LIMIT


@pytest.mark.slow
def test_as_many_tokens_take_as_long_in_longer_sequences(benchmark, capsys):
    given = {" × ".join(map(str, shape)): operands(shape) for shape in ((16, 1024, 8, 80), (1, 16384, 8, 80))}
    calls = {name: lambda x=x: ops.bi_wkv6(*x, implementation="cpu") for name, x in given.items()}
    base, name = calls
    with torch.inference_mode():
        seconds = benchmark.pedantic(in_turns, args=(calls, 12), rounds=1)
    benchmark.extra_info[name] = ratio(seconds, name, base)[1]
    with capsys.disabled():
        sys.stdout.write(in_words(f"Bi-WKV forward, {torch.get_num_threads()} threads", seconds, base))
    assert ratio(seconds, name, base)[1] <= LINEAR_COST
