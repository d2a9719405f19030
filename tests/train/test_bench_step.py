"""The step that `bench` counts is the one that training takes."""

import pytest
from step_pair import bench_step, own_step
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@pytest.mark.parametrize("recipe", ["nano-digits-rwkv-clip", "nano-digits-clip"])
def test_a_step_of_training_has_the_flops_of_bench(recipe, tmp_path):
    subject, cell = bench_step(recipe, tmp_path)
    step = own_step(recipe, clipped=True)
    # As bench counts: attention in the form whose products are written out.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    assert counter.get_total_flops() == subject.count_flops(cell)
