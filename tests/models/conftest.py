"""The CUDA sources as the CPU runs them."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from rwkvclip_models.ops import choice

ROOT = Path(__file__).resolve().parents[2]
MARGIN = 64


@pytest.fixture
def new_memory_is_nan():
    """torch fills new tensors with NaN where it is asked to be deterministic."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


@pytest.fixture
def kernels(request):
    """The implementation that the test is parametrised with, if it can run here."""
    found = choice.status(request.param)
    if not found.available:
        pytest.skip(found.reason)
    return request.param


@pytest.fixture
def nano_config():
    """A configuration small enough for any machine."""
    return {
        "input_size": 32,
        "image_depth": 2,
        "image_embed_dims": 32,
        "image_patch_size": 8,
        "image_hidden_rate": 2,
        "image_num_heads": 2,
        "ctx_len": 12,
        "vocab_size": 64,
        "head_size": 16,
        "n_layer": 2,
        "n_embd": 32,
        "dim_ffn": 64,
    }


@pytest.fixture(scope="module")
def emulate(tmp_path_factory):
    """Compile sources of `cuda/` for the CPU, with these further flags; fibers run in random order."""

    def compiled(sources, *flags):
        if shutil.which("g++") is None:
            pytest.skip("needs g++ to compile the CUDA sources for the CPU; none here")
        target = tmp_path_factory.mktemp("emulated") / "kernels.so"
        common = "-O1 -std=c++17 -Wall -Werror -Wno-unknown-pragmas -fno-strict-aliasing -fPIC -shared"
        includes = ["-I", ROOT / "tests/cuda", "-I", ROOT / "cuda", "-x", "c++"]
        files = [ROOT / "cuda" / name for name in (*sources, "error.cu")]
        command = ["g++", *common.split(), "-DRWKVCLIP_EMULATE", *flags, *includes, *files, "-o", target]
        subprocess.run(command, check=True)
        loaded = ctypes.CDLL(str(target))
        loaded.rwkvclip_error.restype = ctypes.c_char_p
        return loaded

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RWKVCLIP_EMULATE_SEED", "1")
        yield compiled


@pytest.fixture
def guarded_outputs():
    """Every output is NaN before the kernels run, and so is the memory around it after they ran.

    Yields a function that restores torch's own allocation.
    """
    arenas = []

    def new_empty(x, *size, dtype=None):
        shape = torch.Size(size[0] if isinstance(size[0], tuple | list) else size)
        arena = torch.full((shape.numel() + 2 * MARGIN,), torch.nan, dtype=dtype or x.dtype, device=x.device)
        arenas.append(arena)
        return arena[MARGIN : MARGIN + shape.numel()].view(shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "new_empty", new_empty)
        patch.setattr(torch, "empty_like", lambda x, **_: new_empty(x, x.shape))
        yield patch.undo
    for arena in arenas:
        assert arena[:MARGIN].isnan().all()
        assert arena[-MARGIN:].isnan().all()
