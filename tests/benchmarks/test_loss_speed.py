"""The contrastive loss at a large batch against its four matrix products alone, and the memory it takes.

Axes: B pairs, D embedding.
"""

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rwkvclip_train.objectives.contrastive import global_contrastive_loss

NUM_PAIRS, DIM = 32_768, 640
ROUNDS = 3
TIME_LIMIT = 1.3
ARRAYS_LIMIT = 10
"""Arrays of the embeddings' size [B, D] that may be held beside them: logits [B, B] would be 51."""


def embeddings():
    generator = torch.Generator().manual_seed(0)
    image, noise = (torch.randn(NUM_PAIRS, DIM, generator=generator) for _ in range(2))
    return F.normalize(image, dim=-1), F.normalize(image + 3 * noise, dim=-1)


def products(image, text):
    """Logits, logits once more, both gradients, in chunks of the loss's size and nothing between them."""
    room = image.new_empty(DIM, NUM_PAIRS)
    of_image, of_text = torch.empty_like(image), torch.zeros_like(text)
    for again in (False, True):
        for start in range(0, NUM_PAIRS, DIM):
            rows = slice(start, min(start + DIM, NUM_PAIRS))
            logits = torch.mm(image[rows], text.T, out=room[: rows.stop - rows.start])
            if again:
                torch.mm(logits, text, out=of_image[rows])
                of_text.addmm_(logits.T, image[rows])


def loss(image, text):
    inputs = [x.detach().requires_grad_() for x in (image, text, torch.tensor(50.0))]
    global_contrastive_loss(*inputs).backward()


def timed(function, *arguments):
    """Return the processor's seconds: what others take of a busy machine is not in them."""
    start = time.process_time()
    function(*arguments)
    return time.process_time() - start


def added_bytes():
    """Return how much resident memory the loss adds at its peak; runs in a process of its own."""
    torch.set_num_threads(1)
    inputs = embeddings()
    torch.mm(inputs[0][:64], inputs[1][:64].T)
    # Linux: forget the peak so far.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    loss(*inputs)
    return _status_bytes("VmHWM") - before


def _status_bytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


# Minutes of one thread, more on a busy machine.
@pytest.mark.timeout(3600)
@pytest.mark.slow
def test_the_loss_takes_at_most_1_3_times_its_products(benchmark, capsys):
    arrays = embeddings()
    seconds = np.zeros((ROUNDS, 2))

    def pairs():
        for number in range(ROUNDS):
            order = (products, loss) if number % 2 else (loss, products)
            took = {function: timed(function, *arrays) for function in order}
            seconds[number] = took[loss], took[products]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        benchmark.pedantic(pairs, rounds=1)
    finally:
        torch.set_num_threads(threads)
    ratios = seconds[:, 0] / seconds[:, 1]
    median = float(np.median(ratios))
    benchmark.extra_info.update(ratio_to_products=median)
    our_s, products_s = np.median(seconds, axis=0)
    with capsys.disabled():
        sys.stdout.write(
            f"\ncontrastive loss and gradients of {NUM_PAIRS} pairs, {DIM}-d, float32: {our_s:.1f} s, its "
            f"products alone {products_s:.1f} s, ratio {median:.2f} ({ratios.min():.2f} to "
            f"{ratios.max():.2f}; {ROUNDS} in turns); CPU time of one thread\n"
        )
    assert median <= TIME_LIMIT


@pytest.mark.timeout(3600)
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's peak memory from /proc")
def test_the_loss_holds_arrays_of_the_embeddings_size_only(benchmark, capsys):
    def peak():
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(added_bytes).result()

    added = benchmark.pedantic(peak, rounds=1)
    array = NUM_PAIRS * DIM * 4
    benchmark.extra_info.update(added_bytes=added)
    with capsys.disabled():
        sys.stdout.write(
            f"\nmemory beside the embeddings: {added / 1e6:.0f} MB, {added / array:.1f} arrays of "
            f"{array / 1e6:.0f} MB; logits of the whole batch {NUM_PAIRS**2 * 4 / 1e6:.0f} MB\n"
        )
    assert added <= ARRAYS_LIMIT * array
