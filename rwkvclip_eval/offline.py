"""`--offline`: libraries are told, and any attempt to reach the network is an error instead of a wait."""

from __future__ import annotations

import os
import sys

from rwkvclip_eval.errors import UserError

_FLAGS = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
_NETWORK_EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


def forbid_network() -> None:
    """Make this process and its libraries refuse the network; cannot be undone within the process."""
    for flag in _FLAGS:
        os.environ[flag] = "1"
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event not in _NETWORK_EVENTS:
        return
    address = arguments[-1] if event in ("socket.connect", "socket.sendto") else arguments[0]
    # Data-loading workers talk to their parent over local (path-named) sockets.
    if event in ("socket.connect", "socket.sendto") and not isinstance(address, tuple):
        return
    raise UserError(
        f"--offline, but something tried to reach {address}. Run `rwkvclip-eval prefetch` with the same "
        "suite and models where there is a network, or leave out what is not local."
    )
