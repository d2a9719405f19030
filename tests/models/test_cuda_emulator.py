"""The emulator that proves CUDA kernels on the CPU: its arithmetic, and that it sees what hardware hides."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parents[1] / "cuda"
RIGHT, NO_BARRIER, PART_BARRIER, PAST_END, MIXED_COLLECTIVES, LANE_RETURNED = range(6)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("needs g++ to compile the emulator; none here")
    target = tmp_path_factory.mktemp("emulator") / "cases.so"
    flags = "-O2 -std=c++17 -Wall -Werror -fno-strict-aliasing -DRWKVCLIP_EMULATE -fPIC -shared -x c++"
    command = ["g++", *flags.split(), "-I", HERE, HERE / "emulator_cases.cu", "-o", target]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(target))

    def call(name, *arguments):
        function = getattr(library, name)
        function.restype = ctypes.c_char_p
        passed = [ctypes.c_void_p(z.data_ptr()) if isinstance(z, torch.Tensor) else z for z in arguments]
        outcome = function(*passed)
        return outcome.decode() if outcome else None

    return call


def reverse(cases, fault):
    x, y = torch.arange(128.0), torch.full((128,), torch.nan)
    return cases("run_reverse", x, y, fault), y, x.view(2, 64).flip(1).flatten()


def test_barriers_let_threads_read_what_others_wrote(cases):
    outcome, y, expected = reverse(cases, RIGHT)
    assert outcome == "no error"
    assert torch.equal(y, expected)


def test_a_missing_barrier_gives_wrong_numbers(cases):
    outcome, y, expected = reverse(cases, NO_BARRIER)
    assert outcome == "no error"
    assert y.isnan().any()
    assert not torch.equal(y, expected)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (PART_BARRIER, "deadlock: 31 of 64 threads have returned, 33 wait at __syncthreads"),
        (LANE_RETURNED, "deadlock: 1 of 64 threads have returned, 63 wait at __syncthreads"),
        (PAST_END, "byte 4 past the end of shared memory was written"),
        (MIXED_COLLECTIVES, "lanes of one warp meet at __shfl_sync and __syncwarp"),
    ],
)
def test_faults_are_reported_and_the_next_launch_is_fine(cases, fault, message):
    outcome, _, _ = reverse(cases, fault)
    assert message in outcome
    outcome, y, expected = reverse(cases, RIGHT)
    assert outcome == "no error"
    assert torch.equal(y, expected)


def test_shared_memory_starts_as_nan(cases):
    y = torch.zeros(64)
    assert cases("run_uninitialised", y) == "no error"
    assert y.isnan().all()


def test_shared_memory_beyond_48_kb_must_be_asked_for_and_beyond_227_kb_is_refused(cases):
    assert "50000 of 49152 bytes of shared memory" in cases("run_shared", 50000, 0)
    assert cases("run_shared", 50000, 1) == "no error"
    assert "more than a block can have" in cases("run_shared", 240000, 1)


def test_shuffles_move_numbers_between_lanes(cases):
    y = torch.full((5, 64), -1, dtype=torch.int32)
    assert cases("run_shuffles", y) == "no error"
    i = torch.arange(64)
    lane = i % 32
    assert torch.equal(y[0], (i - i % 8 + (lane + 3) % 8).int())
    assert torch.equal(y[1], torch.where(i % 16 >= 2, i - 2, i).int())
    assert torch.equal(y[2], torch.where(lane + 2 < 32, i + 2, i).int())
    assert torch.equal(y[3], (i ^ 5).int())
    ballot = sum(1 << n for n in range(0, 32, 3))
    assert (y[4] == ballot).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_mma_multiplies_as_its_fragments_say(cases, dtype):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator).to(dtype) for shape in ((16, 16), (16, 8)))
    d = torch.full((16, 8), torch.nan)
    assert cases("run_product", a, b.T.contiguous(), d, int(dtype == torch.float16)) == "no error"
    torch.testing.assert_close(d.double(), a.double() @ b.double() + 1, rtol=1e-6, atol=1e-5)


def test_conversions_to_16_bits_round_as_those_of_torch(cases):
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (100000,), generator=generator).int()
    halves = torch.arange(2**16).to(torch.int16).view(torch.float16).float()
    ties = (halves[:0x7BFF] + halves[1:0x7C00]) / 2
    x = torch.cat([bits.view(torch.float32), torch.randn(100000, generator=generator), halves, ties, -ties])
    x = x[~x.isnan()]
    bf16, fp16 = torch.empty(len(x), dtype=torch.int16), torch.empty(len(x), dtype=torch.int16)
    back = torch.empty(len(x))
    assert cases("convert", x, bf16, fp16, back, len(x)) == "no error"
    assert torch.equal(bf16, x.bfloat16().view(torch.int16))
    assert torch.equal(fp16, x.half().view(torch.int16))
    assert torch.equal(back, x.half().float())
