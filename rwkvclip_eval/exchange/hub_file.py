"""One file of a model repository of the Hugging Face hub, by its address."""

from __future__ import annotations

import re
from pathlib import Path

from rwkvclip_eval.errors import UserError, shown

PREFIX = "hf://"
_ADDRESS = re.compile(
    r"hf://(?P<repo>[\w.-]{1,96}/[\w.-]{1,96})/(?P<file>[^@]{1,500})(@(?P<revision>[^@]{1,200}))?"
)


def fetch_file(address: str, limit: int) -> Path:
    """Return the local copy of `hf://owner/repo/file[@revision]`, downloaded where it must be.

    Args:
        address: of the file; the branch `main` by default.
        limit: most bytes that it may have.

    Raises:
        UserError: that is no address, the hub does not give the file, or it is larger.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

    found = _ADDRESS.fullmatch(address)
    if found is None or {"", ".", ".."} & {*found["file"].split("/")}:
        raise UserError(f"{shown(address)}: expected hf://owner/repo/file or hf://owner/repo/file@revision.")
    repo, file, revision = found["repo"], found["file"], found["revision"]
    try:
        if not constants.HF_HUB_OFFLINE:
            size = get_hf_file_metadata(hf_hub_url(repo, file, revision=revision)).size or 0
            if size > limit:
                raise UserError(f"{address} has {size} bytes; at most {limit} are read.")
        return Path(hf_hub_download(repo, file, revision=revision))
    except UserError:
        raise
    except Exception as error:  # HTTP library, disk and hub errors share no base class
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"Cannot fetch {address} from the Hugging Face hub ({type(error).__name__}: {reason}). Check the "
            "name, the network, and for private repositories the login (`hf auth login`)."
        ) from error
