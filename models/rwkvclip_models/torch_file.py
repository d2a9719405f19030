"""Reads what `torch.save` wrote: runs no code of the file, takes no damaged member, makes no memory for it.

`torch.load(weights_only=True)` builds tensors, containers and numbers only. Before it, this looks at the
archive (torch stores its members uncompressed, one behind the other) and at the pickle in it, and beside it
every member's CRC-32 is computed, of which torch takes no notice. That reads the file once more, from the
file system's cache at about 1 GB/s, on another core where there is one.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from rwkvclip_models.errors import CheckpointError, shortened
from rwkvclip_models.files import require_regular

_MAX_PICKLE_BYTES = 16 << 20
"""Of the description of a checkpoint; its tensors lie in members of their own."""
_MAX_MEMBERS = 200_000
_MAX_TUPLE = 100_000
"""Items of a tuple with those of the tuples in it; a tensor's description has about twenty."""
_LEGACY_PICKLES = 5
"""A file of before torch 1.6 begins with so many, the fourth being the content."""
_CHUNK_BYTES = 1 << 20


def read_torch_file(path: Path) -> Any:
    """Return the content of a file of `torch.save`, on the CPU.

    Raises:
        CheckpointError: it is damaged, compressed, or holds what could execute code or take endless memory.
    """
    import torch

    require_regular(path, "checkpoint", error=CheckpointError)
    try:
        with warnings.catch_warnings(), ThreadPoolExecutor(1) as beside:
            # The errors below say it better.
            warnings.simplefilter("ignore", UserWarning)
            sums = beside.submit(_check_sums, path, _check_content(path))
            content = torch.load(path, map_location="cpu", weights_only=True)
            sums.result()
            return content
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        needed = re.search(r"GLOBAL (\S+)", str(error))
        # The first byte of a pickle; anything else that came this far is an archive cut short.
        with path.open("rb") as file:
            is_pickle = file.read(1) == b"\x80"
        if needed is None and not (is_pickle and "Unsupported" in str(error)):
            raise CheckpointError(
                f"{path} is damaged or not a checkpoint: download or save it again."
            ) from error
        what = f" ({shortened(needed.group(1))})" if needed else ""
        raise CheckpointError(
            f"{path} holds Python objects beside tensors{what}; opening it could execute code: refused. "
            "Where you trust it, load it in the program that made it and save only model.state_dict()."
        ) from error
    # Whatever a file makes torch's reader trip over is the file's damage.
    except Exception as error:
        reason = shortened(str(error).partition("\n")[0], 300) or type(error).__name__
        raise CheckpointError(
            f"{path} is damaged or cut short ({reason}): download or save it again."
        ) from error


def check_torch_file(path: Path) -> None:
    """Look at a file of `torch.save` that another library will read.

    Raises:
        CheckpointError: as `read_torch_file`, but for what only loading tells.
    """
    require_regular(path, "checkpoint", error=CheckpointError)
    try:
        _check_sums(path, _check_content(path))
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, struct.error) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} is damaged or cut short ({shortened(str(error), 300)}): download or save it again."
        ) from error


def _check_content(path: Path) -> list[zipfile.ZipInfo]:
    """Look at archive and pickles without loading; return the archive's members, none of a legacy file."""
    with path.open("rb") as file:
        if file.read(1) == b"\x80":
            file.seek(0)
            for _ in range(_LEGACY_PICKLES):
                _check_pickle(file, path)
            return []
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        if any(Path(member.filename).name == "constants.pkl" for member in members):
            raise CheckpointError(
                f"{path} is a TorchScript program; opening it could execute code: refused. "
                "Where you trust it, save only its state_dict()."
            )
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                raise CheckpointError(
                    f"{path} is compressed or encrypted ({shortened(member.filename)}), as torch.save makes "
                    "none: refused. Where you trust it, unpack it, load it and save it again."
                )
        size, total = path.stat().st_size, sum(member.file_size for member in members)
        if len(members) > _MAX_MEMBERS or total > size:
            raise CheckpointError(
                f"{path} is no file of torch.save: {len(members)} members of {total} bytes in all in {size} "
                f"bytes; expected at most {_MAX_MEMBERS} that do not overlap."
            )
        for member in members:
            if Path(member.filename).name == "data.pkl":
                if member.file_size > _MAX_PICKLE_BYTES:
                    raise CheckpointError(
                        f"{path} describes its content in {member.file_size} bytes; at most "
                        f"{_MAX_PICKLE_BYTES} are read."
                    )
                _check_pickle(io.BytesIO(_stored(file, member)), path)
    return members


def _stored(file: IO[bytes], member: zipfile.ZipInfo) -> bytes:
    """Return an uncompressed member's bytes, whatever its CRC-32."""
    # The lengths of name and extra field in the member's own header, behind which its bytes lie.
    file.seek(member.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    file.seek(name + extra, io.SEEK_CUR)
    return file.read(member.file_size)


# Operation of a pickle → what it takes from the stack (below the mark where it takes one) and whether there
# is a mark, what it puts there, and whether that holds what was taken.
_EFFECTS = {
    operation.name: (
        operation.stack_before.index(pickletools.markobject)
        if pickletools.markobject in operation.stack_before
        else len(operation.stack_before),
        pickletools.markobject in operation.stack_before,
        len(operation.stack_after),
        operation.name.startswith("TUPLE"),
    )
    for operation in pickletools.opcodes
}
_PUT = {name for name in _EFFECTS if "PUT" in name}
_GET = {name for name in _EFFECTS if "GET" in name}


def _check_pickle(stream: IO[bytes], path: Path) -> None:
    """Refuse one pickle of which reading alone would take endless time or memory.

    Its operations are followed with nothing on the stack but sizes, of tuples with all that they hold: to
    hash one that holds the one before twice, and so on, would take for ever. None stands for a mark.
    """
    stack: list[int | None] = []
    memo: dict[Any, int | None] = {}
    try:
        for operation, argument, position in pickletools.genops(stream):
            name = operation.name
            if name in _PUT:
                memo[argument] = stack[-1]
            elif name in _GET:
                stack.append(memo[argument])
            elif name == "MARK":
                stack.append(None)
            else:
                num_taken, marked, num_put, is_tuple = _EFFECTS[name]
                size = 1
                if marked:
                    while (top := stack.pop()) is not None:
                        size += top
                for _ in range(num_taken):
                    size += stack.pop() or 0
                if is_tuple and size > _MAX_TUPLE:
                    raise CheckpointError(f"{path} holds a tuple of more than {_MAX_TUPLE} items: refused.")
                stack += [size if is_tuple else 1] * num_put
                if name == "GLOBAL" and str(argument).endswith(" bytearray"):
                    raise CheckpointError(f"{path} asks for memory of its own (bytearray): refused.")
                if (position or 0) > _MAX_PICKLE_BYTES:
                    raise CheckpointError(f"{path} describes its content in over {_MAX_PICKLE_BYTES} bytes.")
    except (IndexError, KeyError, TypeError):
        # No pickle; torch says so.
        return


def _check_sums(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Read every member once and compare its CRC-32.

    Raises:
        CheckpointError: one differs.
    """
    # torch.serialization.set_crc32_options(False) leaves all of them 0.
    if not any(member.CRC for member in members):
        return
    with zipfile.ZipFile(path) as archive:
        for member in members:
            try:
                with archive.open(member) as stream:
                    while stream.read(_CHUNK_BYTES):
                        pass
            except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
                raise CheckpointError(
                    f"{path} is damaged in {shortened(member.filename)} ({error}): download or save it again."
                ) from error
