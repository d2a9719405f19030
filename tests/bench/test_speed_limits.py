import dataclasses

import pytest

from rwkvclip_eval.bench.limits import LONG_TOWERS, verdicts
from rwkvclip_eval.bench.operators import LINEAR_ATTENTION, TIMED_SHAPES, Timing

CHUNKS, RECURRENT = LINEAR_ATTENTION
GRAPH, EVENTS = "CUDA graph of 10 calls", "CUDA events around 10 calls; RuntimeError: capture failed"


def timing(implementation, median_ms, shape="text: 512 × 77 × 10 × 64", **changes):
    base = Timing(
        implementation=implementation,
        device="cuda",
        dtype="bfloat16",
        shape=shape,
        direction="forward",
        median_ms=median_ms,
        low_ms=median_ms,
        high_ms=median_ms,
        repeats=9,
        clock=GRAPH,
    )
    return dataclasses.replace(base, **changes)


def judged(*times):
    return {v.what.rpartition(": ")[2]: (pytest.approx(v.measured), v.met) for v in verdicts(times, [])}


def test_the_faster_form_of_linear_attention_is_the_one_to_beat():
    ours = timing("cuda", 2.0, of_scan=0.1, eager_ms=2.5)
    assert judged(ours, timing(CHUNKS, 8.0), timing(RECURRENT, 3.0)) == {
        "times as fast as the plain scan": (10, True),
        f"times as fast as {RECURRENT}": (1.5, True),
    }
    assert judged(ours, timing(CHUNKS, 2.9), timing(RECURRENT, 0.0, problem="no kernel")) == {
        "times as fast as the plain scan": (10, True),
        f"times as fast as {CHUNKS}": (1.45, False),
    }


def test_what_was_timed_with_its_dispatch_is_held_against_ours_with_its_dispatch():
    ours, theirs = timing("cuda", 1.0, eager_ms=2.0), timing(CHUNKS, 4.0, clock=EVENTS)
    assert judged(ours, theirs) == {f"times as fast as {CHUNKS}": (2, True)}
    assert judged(dataclasses.replace(ours, clock=EVENTS), theirs) == {
        f"times as fast as {CHUNKS}": (2, True)
    }


def test_times_of_another_shape_direction_or_implementation_are_not_held_against_each_other():
    theirs = timing(CHUNKS, 1.0)
    assert judged(timing("cuda", 2.0, shape="image B/32: 512 × 49 × 8 × 80"), theirs) == {}
    assert judged(timing("cuda", 2.0, direction="forward + backward"), theirs) == {}
    assert judged(timing("triton", 2.0), theirs) == {}


def test_linear_cost_takes_as_long_for_as_many_tokens_in_longer_sequences():
    shapes = {tower: TIMED_SHAPES["cuda"][tower] for tower in LONG_TOWERS}
    (b, t, *heads), (longer_b, longer_t, *longer_heads) = shapes.values()
    assert (b * t, heads) == (longer_b * longer_t, longer_heads)
    assert longer_t == 4 * t
    for milliseconds, met in ((12.0, True), (40.0, False)):
        rows = [
            timing("cuda", ms, f"{tower}: …") for tower, ms in zip(shapes, (10.0, milliseconds), strict=True)
        ]
        assert judged(*rows) == {"times as fast per token as image B/16, 896 px": (10 / milliseconds, met)}
