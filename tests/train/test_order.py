"""The order of samples and every random draw are functions of seed, step and sample."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from train_runs import write_recipe

from rwkvclip_train.order import (
    GlobalOrder,
    OfficialOrder,
    batch_keys,
    check_shares,
    drop_path_draws,
    key_stream,
    keys_digest,
    order_of,
    sample_rng,
)
from rwkvclip_train.recipe import RecipeError, load_recipe


def test_an_epoch_sees_every_image_once_and_a_continued_run_the_same_order():
    order = GlobalOrder(num_samples=10, batch_size=3, seed=4)
    whole = list(key_stream(order, first_step=0, num_steps=7))
    assert len({sample for batch in whole[:3] for _, sample in batch}) == 9
    assert [batch[0][0] for batch in whole] == [0, 0, 0, 1, 1, 1, 2]
    assert list(key_stream(order, first_step=4, num_steps=7)) == whole[4:]


@pytest.mark.parametrize(
    "order",
    [GlobalOrder(100, 24, 1), OfficialOrder(100, 24, 1, world_size=4, buffer=5)],
    ids=["corrected", "official"],
)
@pytest.mark.parametrize(("num_ranks", "num_parts"), [(1, 4), (2, 1), (2, 2), (4, 1), (4, 3)])
def test_a_step_has_the_same_batch_however_it_is_shared(order, num_ranks, num_parts):
    for step in (0, 3, 7):
        shares = [
            batch_keys(order, step, rank=rank, num_ranks=num_ranks, part=part, num_parts=num_parts)
            for rank in range(num_ranks)
            for part in range(num_parts)
        ]
        assert len({len(share) for share in shares}) == 1
        assert [key for share in shares for key in share] == batch_keys(order, step)


def simulated_shard(num_samples: int, buffer: int, seed: int, epoch: int, shard: int) -> list[int]:
    """Take the samples of a shard one by one through a buffer."""
    rng = np.random.default_rng([seed, epoch, shard])
    coming = iter(range(num_samples))
    held = [next(coming) for _ in range(min(buffer, num_samples))]
    # Bounded integers of NumPy are drawn one after the other, so that one call equals many.
    first = iter(rng.integers(len(held), size=num_samples - len(held)).tolist())
    left = []
    for sample in coming:
        place = next(first)
        left.append(held[place])
        held[place] = sample
    last = iter(rng.integers(np.arange(len(held), 0, -1)).tolist())
    while held:
        place = next(last)
        left.append(held[place])
        held[place] = held[-1]
        held.pop()
    return left


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "world_size", "buffer"),
    [(1000, 40, 8, 16), (1003, 48, 8, 16), (37, 8, 2, 100), (8, 8, 8, 4), (50_000, 512, 2, 16_384)],
)
def test_the_official_order_equals_a_simulation_of_its_shuffle_buffer(
    num_samples, batch_size, world_size, buffer
):
    order = OfficialOrder(num_samples, batch_size, 7, world_size=world_size, buffer=buffer)
    ends = [num_samples * shard // world_size for shard in range(world_size + 1)]
    share = batch_size // world_size
    steps = -(-max(b - a for a, b in pairwise(ends)) // share)
    for epoch in (0, 3):
        shards = [
            [a + i for i in simulated_shard(b - a, buffer, 7, epoch, shard)]
            for shard, (a, b) in enumerate(pairwise(ends))
        ]
        for place in {0, steps // 2, steps - 1}:
            expected = [
                shard[row % len(shard)]
                for shard in shards
                for row in range(place * share, (place + 1) * share)
            ]
            found = order.batch(epoch * steps + place)
            assert found[0] == epoch
            assert found[1].tolist() == expected


def test_an_official_epoch_takes_every_sample_once_and_reaches_no_further_than_its_buffer():
    order = OfficialOrder(800, 8, 0, world_size=1, buffer=32)
    seen = [int(sample) for step in range(100) for sample in order.batch(step)[1]]
    assert sorted(seen) == list(range(800))
    assert max(sample - place for place, sample in enumerate(seen)) < 32
    assert seen != [int(sample) for step in range(100, 200) for sample in order.batch(step)[1]]


def test_official_accumulation_takes_one_batch_of_as_many_as_it_should_add_up():
    whole = OfficialOrder(800, 8, 0, world_size=2, buffer=32)
    dropping = OfficialOrder(800, 8, 0, world_size=2, stride=2, buffer=32)
    for step in range(60):
        assert dropping.batch(step)[0] == whole.batch(2 * step)[0]
        assert np.array_equal(dropping.batch(step)[1], whole.batch(2 * step)[1])


def test_a_batch_that_cannot_be_shared_equally_is_refused():
    check_shares("mine", 96, 4, 2)
    with pytest.raises(
        RecipeError, match=r"batch_size 96 .* 5 processes .* accumulation 2: .* multiple of 10"
    ):
        check_shares("mine", 96, 5, 2)


def test_drop_path_draws_are_uniform_and_each_a_function_of_seed_step_sample_and_layer():
    samples = np.arange(20_000)
    draws = drop_path_draws(3, 11, samples, 3)
    assert draws.shape == (3, 2, 20_000)
    assert draws.min() >= 0
    assert draws.max() < 1
    # Six rows of 20,000: the largest of 60 such counts lies within 5 standard deviations.
    for row in draws.reshape(6, -1):
        counts = np.histogram(row, bins=10, range=(0, 1))[0]
        assert np.abs(counts - 2000).max() < 5 * np.sqrt(2000 * 0.9)
    correlation = np.corrcoef(draws.reshape(6, -1))
    assert np.abs(correlation - np.eye(6)).max() < 5 / np.sqrt(20_000)
    some = np.array([17, 4, 19_999])
    assert np.array_equal(drop_path_draws(3, 11, some, 3), draws[:, :, some])
    assert np.array_equal(drop_path_draws(3, 11, some, 1), draws[:1, :, some])
    for other in (drop_path_draws(4, 11, some, 3), drop_path_draws(3, 12, some, 3)):
        assert not np.any(other == draws[:, :, some])


def test_digests_of_the_parts_of_a_batch_add_up_and_see_order_and_epoch():
    epochs, samples = np.full(12, 2), np.random.default_rng(0).permutation(12)
    whole = keys_digest(epochs, samples)
    parts = [keys_digest(epochs[i : i + 3], samples[i : i + 3], i) for i in range(0, 12, 3)]
    assert sum(parts) % 2**64 == whole
    assert keys_digest(epochs, samples[::-1]) != whole
    assert keys_digest(epochs + 1, samples) != whole


def test_the_generator_of_a_sample_is_a_function_of_seed_epoch_and_sample():
    keys = [(seed, epoch, sample) for seed in (0, 1) for epoch in (0, 1) for sample in (0, 1)]
    drawn = Counter(sample_rng(*key).integers(2**62) for key in keys)
    assert max(drawn.values()) == 1
    assert sample_rng(1, 2, 3).integers(2**62) == sample_rng(1, 2, 3).integers(2**62)


@pytest.mark.parametrize("world_size", [2, 8])
def test_the_official_flavour_cuts_the_data_into_as_many_shards_as_the_recipe_says(tmp_path, world_size):
    recipe = load_recipe(write_recipe(tmp_path, batch_size=16, flavour="official", world_size=world_size))
    order, _ = order_of(recipe, 1003)
    expected = OfficialOrder(1003, 16, recipe.seed, world_size)
    for step in (0, 40, 70):
        assert batch_keys(order, step) == batch_keys(expected, step)
    assert load_recipe("yfcc15m-b32", ["flavour=official"]).world_size == 8
