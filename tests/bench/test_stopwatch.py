import pytest
import torch

from rwkvclip_eval.bench import clock as stopwatch
from rwkvclip_eval.bench.clock import (
    Stopwatch,
    first_that_works,
    graph_of_calls,
    in_turns,
    turns,
)


def wall(call):
    return stopwatch.single_call(call, device="cpu")


def test_a_processor_is_timed_by_the_wall_clock_and_each_call_is_one():
    calls = []
    watch = stopwatch.stopwatch(lambda: calls.append(1), "cpu")
    assert watch.clock == "wall clock of a call"
    assert watch.seconds() > 0
    assert len(calls) == 1


def test_alternatives_take_turns_in_alternating_order_and_two_rounds_warm_up():
    order = []
    seconds = in_turns({name: lambda name=name: order.append(name) for name in "ab"}, 2)
    assert "".join(order) == "baabbaab"
    assert {name: (len(x), x.dtype) for name, x in seconds.items()} == dict.fromkeys("ab", (2, torch.float64))


def test_what_a_clock_reads_is_kept_by_name_without_the_warm_up():
    readings = iter(range(4))
    assert turns({"a": Stopwatch("", lambda: float(next(readings)))}, 2)["a"].tolist() == [2, 3]


def test_the_first_kind_that_works_is_taken_and_says_why_those_before_it_were_not():
    def refuses(call):
        raise MemoryError("no room for a graph\nand more")

    watch = first_that_works(lambda: None, [refuses, wall, refuses])
    assert watch.clock == "wall clock of a call; MemoryError: no room for a graph"
    assert first_that_works(lambda: None, [wall, refuses]).clock == "wall clock of a call"


def test_without_a_gpu_a_graph_is_refused_with_torchs_reason():
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    watch = first_that_works(lambda: None, [graph_of_calls, wall])
    assert watch.clock.startswith("wall clock of a call; ")


def test_a_call_that_raises_raises():
    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_turns({"": broken}, 1)


@pytest.mark.gpu
def test_a_graph_replays_all_its_calls_and_leaves_the_stream_as_it_was():
    counter = torch.zeros((), device="cuda")
    before = torch.cuda.current_stream()
    watch = stopwatch.stopwatch(lambda: counter.add_(1), "cuda")
    assert watch.clock == f"CUDA graph of {stopwatch.CALLS} calls"
    counter.zero_()
    seconds = watch.seconds()
    assert counter.item() == stopwatch.CALLS
    assert 0 < seconds < 1e-3
    assert torch.cuda.current_stream() == before


@pytest.mark.gpu
def test_a_graph_takes_a_backward_pass():
    x = torch.randn(64, 64, device="cuda", requires_grad=True)
    watch = stopwatch.stopwatch(lambda: torch.autograd.grad((x @ x).sum(), x), "cuda")
    assert watch.clock == f"CUDA graph of {stopwatch.CALLS} calls"
    assert watch.seconds() > 0


@pytest.mark.gpu
def test_what_waits_for_the_gpu_is_timed_in_a_loop_with_the_reason_and_the_stream_is_as_it_was():
    x = torch.ones(8, device="cuda")
    before = torch.cuda.current_stream()
    watch = stopwatch.stopwatch(lambda: x.sum().item(), "cuda")
    assert watch.clock.startswith(f"CUDA events around {stopwatch.CALLS} calls; ")
    assert watch.seconds() > 0
    assert torch.cuda.current_stream() == before
    again = stopwatch.stopwatch(lambda: x.add_(1), "cuda")
    assert again.clock == f"CUDA graph of {stopwatch.CALLS} calls", "a failed capture spoils no later one"
