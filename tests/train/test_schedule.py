import itertools

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from rwkvclip_train.optim.adamw import make_optimizer, set_schedule
from rwkvclip_train.optim.schedule import cycled_beta1, learning_rate
from rwkvclip_train.recipe import Recipe

YFCC15M_PAIRS = 15_061_515
SETTINGS = {
    "name": "small",
    "model": {"family": "open_clip", "config": {}},
    "data": [{"dataset": "digits", "texts": "templates"}],
    "batch_size": 8,
    "lr": 0.001,
    "steps": 100,
}


def recipe(**changes):
    return Recipe.model_validate(SETTINGS | changes)


def by_torch(num_steps, peak, warmup_fraction):
    """Yield OneCycleLR's rate and first beta of every step."""
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=peak, betas=(0.9, 0.98))
    # As the official script makes it: whatever the optimizer's betas are, the first is cycled.
    schedule = OneCycleLR(optimizer, peak, total_steps=num_steps, pct_start=warmup_fraction)
    optimizer.step()
    for _ in range(num_steps):
        yield optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0]
        schedule.step()


@pytest.mark.parametrize(
    ("num_steps", "fraction"), [(5000, 0.1), (117, 0.1), (450, 0.25), (7, 0.1), (2, 0.6), (60, 0.0)]
)
def test_rate_and_first_beta_are_those_of_torchs_one_cycle_at_every_step(num_steps, fraction):
    for step, (lr, beta1) in enumerate(by_torch(num_steps, 1e-3, fraction)):
        ours = learning_rate(step, peak=1e-3, num_steps=num_steps, warmup_fraction=fraction)
        assert ours == pytest.approx(lr, abs=1e-15, rel=1e-12)
        ours = cycled_beta1(step, num_steps=num_steps, warmup_fraction=fraction)
        assert ours == pytest.approx(beta1, abs=1e-12)


@pytest.mark.slow
def test_rate_and_first_beta_are_torchs_over_all_steps_of_the_papers_run():
    test_rate_and_first_beta_are_those_of_torchs_one_cycle_at_every_step(117_696, 0.1)


def test_the_rate_starts_at_a_25th_peaks_and_ends_at_a_250_000th():
    rates = [learning_rate(s, peak=1.0, num_steps=100, warmup_fraction=0.1) for s in range(100)]
    assert rates[0] == pytest.approx(1 / 25) and rates[9] == 1.0 and rates[-1] == pytest.approx(4e-6)
    assert all(a < b for a, b in itertools.pairwise(rates[:10]))
    assert all(a > b for a, b in itertools.pairwise(rates[9:]))


@pytest.mark.parametrize("num_steps", [1, 10])
def test_where_torch_would_divide_by_zero_the_first_step_is_at_the_peak(num_steps):
    assert learning_rate(0, peak=0.3, num_steps=num_steps, warmup_fraction=0.1) == 0.3
    assert cycled_beta1(0, num_steps=num_steps, warmup_fraction=0.1) == 0.85


def test_every_group_is_given_rate_and_betas_and_only_the_quirk_cycles_them():
    model = torch.nn.Linear(2, 2)
    for flavour in ("official", "corrected"):
        asked = recipe(flavour=flavour, betas=[0.5, 0.99])
        optimizer = make_optimizer(model, asked)
        expected = [row for _, row in zip(range(100), by_torch(100, 1e-3, 0.1), strict=True)]
        for step in (0, 5, 9, 50, 99):
            lr, betas = set_schedule(optimizer, asked, step, 100)
            assert lr == pytest.approx(expected[step][0], rel=1e-12)
            first = expected[step][1] if flavour == "official" else 0.5
            assert betas == pytest.approx((first, 0.99), abs=1e-12)
            assert all((g["lr"], g["betas"]) == (lr, betas) for g in optimizer.param_groups)


def test_the_papers_run_has_117_696_steps_and_the_corrected_one_whole_batches_only():
    paper = {"steps": None, "epochs": 32, "batch_size": 4096}
    assert recipe(flavour="official", **paper).num_steps(YFCC15M_PAIRS) == 117_696
    assert recipe(**paper).num_steps(YFCC15M_PAIRS) == 32 * (YFCC15M_PAIRS // 4096)
    assert recipe(flavour="official", **paper).num_steps(4096 * 3) == 32 * 3
