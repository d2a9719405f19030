"""Axes: B batch, T tokens, H heads, N head width."""

import pytest
import torch

from rwkvclip_models.ops import bi_wkv6
from rwkvclip_models.ops.carried import carried

HEADS, HEAD_WIDTH = 2, 16
LENGTHS = (1, 7, 40, 300, 2)


def operands(num_tokens, raw_decay, dtype=torch.float64, batch=2):
    generator = torch.Generator().manual_seed(0)
    shape = batch, num_tokens, HEADS, HEAD_WIDTH

    def draw(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    w = draw(*shape) * 0.5 + raw_decay
    exact = torch.promote_types(dtype, torch.float32)
    return [*(draw(*shape).to(dtype) for _ in range(3)), w.to(exact), draw(HEADS, HEAD_WIDTH).to(exact)]


def in_pieces(r, k, v, w, u, lengths):
    """Return y of a sequence that is given piece by piece: one pass in each direction."""
    pieces = list(zip(*(x.split(lengths, dim=1) for x in (r, k, v, w)), strict=True))
    state = w.new_zeros(r.shape[0], HEADS, HEAD_WIDTH, HEAD_WIDTH)
    y, past, future = [], state, state
    for piece in pieces:
        added, past = carried(*piece, past, reverse=False)
        y.append(added + bi_wkv6(*piece, u))
    for i in reversed(range(len(pieces))):
        added, future = carried(*pieces[i], future, reverse=True)
        y[i] = y[i] + added
    return torch.cat(y, dim=1)


@pytest.mark.parametrize("raw_decay", [-9.0, -4.0, 0.0, 2.0])
def test_pieces_with_carried_states_are_the_whole_sequence(raw_decay):
    given = operands(sum(LENGTHS), raw_decay)
    whole = bi_wkv6(*given, implementation="reference")
    torch.testing.assert_close(in_pieces(*given, list(LENGTHS)), whole, rtol=1e-10, atol=1e-10)


def test_float32_keeps_its_digits_over_thousands_of_tokens():
    exact = operands(4096, -7.0, batch=1)
    whole = bi_wkv6(*exact, implementation="torch")
    y = in_pieces(*(x.float() for x in exact), [1024] * 4)
    assert (y - whole).abs().max() / whole.abs().max() < 5e-6


@pytest.mark.parametrize("raw_decay", [-200.0, 79.0, 1e4])
def test_decays_of_one_and_of_zero_stay_numbers(raw_decay):
    given = operands(12, 0.0, torch.float32)
    given[3][:, 3:9] = raw_decay
    whole = bi_wkv6(*given, implementation="reference")
    torch.testing.assert_close(in_pieces(*given, [5, 5, 2]), whole, rtol=1e-4, atol=1e-4)


def test_autocast_leaves_the_state_exact():
    given = operands(64, -6.0, torch.bfloat16)[:4]
    state = torch.randn(2, HEADS, HEAD_WIDTH, HEAD_WIDTH)
    expected = carried(*given, state, reverse=False)
    with torch.autocast("cpu", torch.bfloat16):
        found = carried(*given, state, reverse=False)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)
