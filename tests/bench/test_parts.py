"""Parts of a forward pass: they sum to the whole, and FLOPs go where they are done."""

import dataclasses
import itertools
import json
from functools import partial

import pytest
import torch
from test_flops import RWKV, VIT
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rwkvclip_eval.bench.parts import REST, Ledger, attention_kernels, bytes_of, seconds_of, shares_of
from rwkvclip_eval.bench.subject import Subject
from rwkvclip_eval.bench.worker import Worker
from rwkvclip_eval.encoders import load_encoder
from rwkvclip_eval.records.efficiency import Cell


def write(folder, name):
    path = folder / f"{name}.json"
    path.write_text(json.dumps(RWKV if name == "rwkv" else VIT))
    return f"{path}=random:0" if name == "rwkv" else f"open_clip:{path}=random:0"


@pytest.fixture(scope="module", params=["rwkv", "vit"])
def spec(request, tmp_path_factory):
    return write(tmp_path_factory.mktemp("parts"), request.param)


OURS = {"patch embedding", "shift and lerp", "projections", "Bi-WKV", "norms", "channel mix", REST}
THEIRS = {"patch embedding", "attention", "MLP", "norms", REST}


def test_what_happens_within_an_inner_part_is_not_the_outer_ones():
    ticks = itertools.count()
    ledger = Ledger(lambda: next(ticks))  # each look at the count is one later
    with ledger.part("outer"), ledger.part("inner"):
        pass
    assert dict(ledger.shares) == {REST: 1, "outer": 2, "inner": 1}


@pytest.mark.parametrize(
    ("usual", "calls", "norms", "made"),
    [(4.5, 3, 4.0, 3), (4.5, 1, 4.0, 3), (6.5, 1, 6.0, 1), (2.5, 3, 2.0, 3), (100.0, 1, 6.0, 5)],
)
def test_seconds_are_those_of_the_call_of_usual_length_and_sum_to_it(usual, calls, norms, made):
    now, speeds = [0.0], iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])

    class LayerNorm(nn.Module):
        def forward(self, seconds):
            now[0] += seconds

    model = nn.ModuleDict({"norm": LayerNorm(), "mlp": LayerNorm()})

    def call():
        speed = next(speeds)
        now[0] += 0.5
        for _ in range(2):
            model["norm"](speed)

    assert seconds_of(call, model, lambda: now[0], calls, usual) == {REST: 0.5, "norms": norms}
    assert len(list(speeds)) == 6 - made
    assert "forward" not in vars(model["norm"])


def test_flops_of_parts_sum_to_those_of_the_tower(spec):
    subject = Subject(load_encoder(spec))
    subject.drop_weights()
    for cell, token in (
        (Cell(tower="image", batch=2, height=64, width=32), set()),
        (Cell(tower="text", batch=2, tokens=9), {"token embedding"}),
    ):
        found = subject.flops_by_part(cell)
        assert sum(found.values()) == subject.count_flops(cell)
        ours = subject.info.family == "rwkv-clip"
        expected = (OURS if ours else THEIRS) - ({"patch embedding"} if token else set()) | token
        assert set(found) == expected
        busy = {"Bi-WKV", "projections", "channel mix", "shift and lerp"} if ours else {"attention", "MLP"}
        assert all(found[name] > 0 for name in busy)
        assert found["norms"] == 0


def test_bytes_of_a_linear_layer_are_its_operands_and_result():
    model = nn.ModuleDict({"mlp": nn.Linear(8, 4, bias=False)})
    x = torch.ones(3, 8)
    with torch.inference_mode():
        assert bytes_of(lambda: model["mlp"](x), model)["MLP"] == 4 * (3 * 8 + 8 * 4 + 3 * 4)


def test_what_is_expanded_is_read_once():
    class MLP(nn.Module):
        def forward(self, x):
            return torch.bmm(x, torch.ones(8, 4).expand(16, 8, 4))

    module = nn.ModuleDict({"mlp": MLP()})
    with torch.inference_mode():
        weights = 4 * 8 * 4
        found = bytes_of(lambda: module["mlp"](torch.ones(16, 3, 8)), module)["MLP"]
        assert found == weights + 4 * (16 * 3 * 8 + 16 * 3 * 4) + weights  # made, read, read and written


def test_of_a_table_the_rows_that_are_looked_up_are_read():
    module = nn.ModuleDict({"tokens": nn.Embedding(1000, 8)})
    ids = torch.zeros(5, dtype=torch.int64)
    rows = 5 * 8 + 2 * (5 * 8 * 4)
    with torch.inference_mode():
        assert bytes_of(lambda: module["tokens"](ids), module)["token embedding"] == rows
        table = torch.ones(1000, 8)
        for look_up in (lambda: table[ids], lambda: table.index_select(0, ids)):
            assert bytes_of(look_up, module)[REST] == rows


@pytest.mark.parametrize("training", [False, True])
def test_the_kernels_of_attention_are_told_and_the_form_without_one_is_math(training):
    q, k, v = (torch.randn(1, 2, 8, 16, requires_grad=training) for _ in range(3))
    call = partial(torch.nn.functional.scaled_dot_product_attention, q, k, v)
    assert attention_kernels(call) == ["flash_attention_for_cpu"]
    with sdpa_kernel(SDPBackend.MATH):
        assert attention_kernels(call) == ["math"]
    assert attention_kernels(lambda: q @ k.mT) == []


def test_views_move_nothing():
    model = nn.ModuleDict({"mlp": nn.Flatten()})
    with torch.inference_mode():
        assert bytes_of(lambda: model["mlp"](torch.ones(3, 2, 4)).t()[:2], model)["MLP"] == 0


def test_a_process_takes_its_prepared_call_apart(spec):
    arguments = {"device": "cpu", "precision": "fp32", "implementation": "auto", "threads": 1}
    cell = dataclasses.asdict(Cell(tower="image", batch=2, height=64, width=64))
    with Worker(spec=spec, **arguments) as worker:
        worker.ask("prepare", cell=cell)
        parts = {part["name"]: part for part in worker.ask("parts", cell=cell, calls=3, usual=0.01)["parts"]}
    ours = "Bi-WKV" in parts
    assert set(parts) == (OURS if ours else THEIRS)
    assert all(part["seconds"] >= 0 for part in parts.values())
    main = ("Bi-WKV", "projections") if ours else ("attention", "MLP")
    assert all(parts[name]["bytes"] > 0 and parts[name]["flops"] > 0 for name in main)


def test_the_model_is_as_before_afterwards(spec):
    subject = Subject(load_encoder(spec))
    module = subject.towers.module
    before = {path: set(vars(part)) for path, part in module.named_modules()}
    shares_of(subject.call(Cell(tower="image", batch=1, height=32, width=32)), module, lambda: 0)
    assert {path: set(vars(part)) for path, part in module.named_modules()} == before
