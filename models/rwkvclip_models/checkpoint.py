"""Reads and writes checkpoints of any CLIP-like model, without ever executing code from them.

Official RWKV-CLIP checkpoints are plain state dicts; keys may carry `module.` (data parallel) and
`_orig_mod.` (torch.compile). Training checkpoints wrap the state dict under names such as `state_dict`
or `model`, with averaged weights beside it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkvclip_models.checkpoint_family import refuse_other_family
from rwkvclip_models.disk import atomic_path, file_digest
from rwkvclip_models.errors import CheckpointError, OutputError, shortened
from rwkvclip_models.files import check_keys, expanded, require_regular
from rwkvclip_models.torch_file import check_torch_file, read_torch_file

if TYPE_CHECKING:
    from torch import Tensor

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "weights", "params")
_EMA_WRAPPERS = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema")
_WRAPPER_PARTS = {"module", "_orig_mod"}
_MAX_WRAPPERS = 8
_MAX_NAMED = 12
"""Keys in a message."""
_MAX_HEADER_BYTES = 16 << 20


def checkpoint_file(source: str | Path, *, offline: bool = False) -> Path:
    """Return the local file of `source`, fetching `hf://owner/repo[@revision]/file` if need be.

    Raises:
        CheckpointError: no such file, a folder, an address of another form, or it could not be fetched.
    """
    text = str(source)
    if text.startswith("hf://"):
        return _fetch(text, offline)
    path = expanded(source)
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in (".pt", ".pth", ".bin", ".safetensors"))
        raise CheckpointError(
            f"{path} is a folder; give the checkpoint file itself. "
            f"Checkpoints in it: {', '.join(inside) or 'none'}."
        )
    if not path.exists():
        raise CheckpointError(f"No checkpoint at {path}: check the path, or give hf://owner/repo/file.")
    if require_regular(path, "checkpoint", error=CheckpointError).st_size == 0:
        # Those of the system, such as /proc/self/mem, say so of themselves, too.
        raise CheckpointError(f"Cannot read the checkpoint {path}: it is empty: download or save it again.")
    return path


def checkpoint_sha256(source: str | Path, *, offline: bool = False) -> str:
    """Return the SHA-256 (hex) of the checkpoint's bytes.

    Raises:
        CheckpointError: as `checkpoint_file`, or it cannot be read.
    """
    path = checkpoint_file(source, offline=offline)
    try:
        return file_digest(path)
    except OSError as error:
        raise CheckpointError(f"Cannot read the checkpoint {path}: {error.strerror or error}.") from error


def read_checkpoint(source: str | Path, *, offline: bool = False, ema: bool = False) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint, on the CPU, wrappers and key prefixes removed.

    Args:
        source: path (.pt, .safetensors) or `hf://owner/repo[@revision]/file`.
        offline: never fetch.
        ema: take the averaged weights of a training checkpoint instead of the last ones.

    Raises:
        CheckpointError: missing, unreadable, unsafe, or without weights; the text says which and what to do.
    """
    path = checkpoint_file(source, offline=offline)
    content: object = _read_safetensors(path) if _is_safetensors(path) else read_torch_file(path)
    return strip_prefixes(_unwrap(content, path, ema=ema), str(path))


def check_weights_file(path: Path) -> None:
    """Look at a file of weights that another library will read.

    Raises:
        CheckpointError: it is no such file, is damaged, or reading it would take endless time or memory.
    """
    if not _is_safetensors(path):
        check_torch_file(path)


def strip_prefixes(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return `state` without the `module` and `_orig_mod` parts of its keys.

    Raises:
        CheckpointError: two keys become one.
    """
    stripped: dict[str, Tensor] = {}
    for key, value in state.items():
        name = ".".join(part for part in key.split(".") if part not in _WRAPPER_PARTS)
        if name in stripped:
            raise CheckpointError(
                f"In {source}, {shortened(key)!r} and another key both mean {shortened(name)!r}: save one of "
                "them."
            )
        stripped[name] = value
    return stripped


def fit_state_dict(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """Return `state` in the order and dtypes of `expected` after checking that it fits.

    Raises:
        CheckpointError: they are of another kind of model; keys are missing, unexpected or of another shape
            (all listed); or weights hold NaN or infinity.
    """
    _refuse_kinds(state, source)
    refuse_other_family(state, expected, source)
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    misshapen = [
        f"{shortened(key)} is {list(state[key].shape)}, expected {list(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if missing or unexpected or misshapen:
        lines = [f"{source} does not fit the model."]
        for what, keys in (("Missing", missing), ("Unexpected", unexpected), ("Of another shape", misshapen)):
            if keys:
                lines.append(f"{what} ({len(keys)}): {_some(_grouped(keys))}.")
        raise CheckpointError("\n".join(lines))
    whole = [
        f"{key} is {state[key].dtype}"
        for key, value in expected.items()
        if value.is_floating_point() and not state[key].is_floating_point()
    ]
    if whole:
        raise CheckpointError(f"{source}: expected floating-point weights, but {_some(whole)}.")
    fitted = {key: state[key].to(value.dtype).contiguous() for key, value in expected.items()}
    # After the cast: what float64 holds may be too large for float32.
    bad = [key for key, value in fitted.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"{source} holds NaN or infinity in {len(bad)} tensors: {_some(_grouped(bad))}. "
            "Use a checkpoint from before training diverged."
        )
    return fitted


def save_state_dict(state: Mapping[str, Tensor], path: Path) -> None:
    """Write `state` to a `.safetensors` or `.pt` file, atomically; tensors go to the CPU.

    Raises:
        CheckpointError: another suffix, or the file cannot be written.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if path.suffix not in (".safetensors", ".pt"):
        raise CheckpointError(f"Cannot save to {path}: the suffix must be .safetensors or .pt.")
    plain = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    try:
        with atomic_path(path) as temporary:
            if path.suffix == ".safetensors":
                save_file(plain, temporary, metadata={"format": "pt"})
            else:
                # Given a path, torch would keep the temporary name inside: equal weights, other bytes.
                with temporary.open("wb") as file:
                    torch.save(plain, file)
    except (OSError, OutputError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"Cannot write {path}: {error}. Free space or choose another folder."
        ) from error


def _fetch(address: str, offline: bool) -> Path:
    from huggingface_hub import hf_hub_download

    parts = address.removeprefix("hf://").split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise CheckpointError(f"Expected hf://owner/repo/file, got {address!r}.")
    repo, _, revision = parts[1].partition("@")
    try:
        file = hf_hub_download(
            f"{parts[0]}/{repo}", parts[2], revision=revision or None, local_files_only=offline
        )
    except Exception as error:  # HTTP library, disk and hub errors share no base class
        cure = (
            "It is not in the local cache and fetching is switched off: fetch it once with internet."
            if offline
            else "Check the address and the network; a private repository needs `hf auth login`."
        )
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"Cannot fetch {address}: {reason} {cure}") from error
    return Path(file)


def _refuse_other_files(path: Path, head: bytes) -> None:
    """Raise for files whose first bytes show that they are no checkpoint."""
    start = head.lstrip()[:64].lower()
    if not head:
        raise CheckpointError(f"{path} is empty: download or save it again.")
    if start.startswith(b"<"):
        raise CheckpointError(
            f"{path} is a web page, not a checkpoint: the download link led to a page. "
            "Download the file itself (on the hub: the `resolve` address, not `blob`)."
        )
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file it stands for: run `git lfs pull`.")
    if not head.startswith((b"PK", b"\x80")):
        if head[8:9] == b"{":
            raise CheckpointError(f"{path} is damaged or cut short: download or save it again.")
        raise CheckpointError(f"{path} is neither a PyTorch nor a safetensors file.")


def _is_safetensors(path: Path) -> bool:
    """Return whether `path` is a safetensors file: the length of a header, which it holds whole, and a brace.

    Raises:
        CheckpointError: its first bytes show that it is no checkpoint at all, or its header is too long.
    """
    size = require_regular(path, "checkpoint", error=CheckpointError).st_size
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}.") from error
    length = int.from_bytes(head[:8], "little")
    # The length comes first and may look like anything, a page's first sign among it.
    if head[8:9] != b"{" or 8 + length > size:
        _refuse_other_files(path, head)
        return False
    if length > _MAX_HEADER_BYTES:
        raise CheckpointError(f"{path} has a header of {length} bytes; at most {_MAX_HEADER_BYTES} are read.")
    return True


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        check_keys(file.read(length), f"header of {path}", error=CheckpointError)
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut short ({error}): download or save it again."
        ) from error
    return state


def _unwrap(content: object, path: Path, *, ema: bool) -> dict[str, Tensor]:
    """Return the tensors of the innermost state dict of a training checkpoint."""
    import torch

    top: Any = content
    found_ema = False
    # A wrapper may hold itself.
    for _ in range(_MAX_WRAPPERS):
        if not isinstance(content, Mapping):
            break
        names = _EMA_WRAPPERS if ema and not found_ema else _WRAPPERS
        name = next((n for n in names if isinstance(content.get(n), Mapping)), None)
        if name is None:
            break
        found_ema = found_ema or name in _EMA_WRAPPERS
        content = content[name]
    keys = ", ".join(map(_key, list(top)[:12])) if isinstance(top, Mapping) else type(top).__name__
    if ema and not found_ema:
        raise CheckpointError(f"{path} holds no averaged (EMA) weights. It holds: {keys}.")
    state = (
        {k: v for k, v in content.items() if isinstance(v, torch.Tensor) and isinstance(k, str)}
        if isinstance(content, Mapping)
        else {}
    )
    if not state:
        raise CheckpointError(f"{path} holds no weights: expected a state dict. It holds: {keys}.")
    _refuse_kinds(state, str(path))
    return state


def _refuse_kinds(state: Mapping[str, Tensor], source: str) -> None:
    """Raise for tensors that hold no plain numbers: 8-bit floats, sparse, quantized, without data."""
    import torch

    dtypes = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
    dtypes |= {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
    odd = {
        key: ", ".join(
            word
            for word, is_so in (
                (str(value.layout).removeprefix("torch."), value.layout is not torch.strided),
                ("nested", value.is_nested),
                ("without data", value.is_meta),
                (str(value.dtype).removeprefix("torch."), value.dtype not in dtypes),
            )
            if is_so
        )
        for key, value in state.items()
    }
    found = [f"{shortened(key)} ({what})" for key, what in odd.items() if what]
    if found:
        raise CheckpointError(
            f"{source}: {len(found)} tensors are none that a model can take: {_some(found)}. Expected dense "
            "ones of float32, float16, bfloat16 or float64; save the weights so."
        )


def _key(key: object) -> str:
    # The text form of any other object may be endless.
    return shortened(str(key)) if isinstance(key, str | int) else type(key).__name__


def _some(words: Sequence[str]) -> str:
    """Return the first of `words` and how many more there are."""
    more = len(words) - _MAX_NAMED
    return "; ".join([*words[:_MAX_NAMED], *([f"… and {more} more"] if more > 0 else [])])


def _grouped(keys: Iterable[str]) -> list[str]:
    """Return `keys` with those that differ in one layer number written once: `blocks.{0,1}.ln1.weight`."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key in keys:
        match = re.fullmatch(r"(.*?\.)([0-9]{1,9})(\..*)", key, re.DOTALL)
        before, number, after = match.groups() if match else (key, "", "")
        groups[before, after].append(number)
    return [
        f"{shortened(before)}{numbers[0] if len(numbers) == 1 else _braced(numbers)}{shortened(after)}"
        for (before, after), numbers in groups.items()
    ]


def _braced(numbers: Sequence[str]) -> str:
    kept = numbers if len(numbers) <= _MAX_NAMED else [*numbers[: _MAX_NAMED - 1], "…", numbers[-1]]
    return "{" + ",".join(kept) + "}"
