"""A server on this machine that answers as the Hugging Face hub does: one repository, `me/model`."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

COMMIT = "1" * 40


@dataclass
class Hub:
    """What the server holds and was asked.

    Attributes:
        address: of the server.
        files: path → content, of the one repository `me/model`.
        revisions: name of a branch, tag or commit → files of it, beside those of `main`.
        commits: path → content, of each commit.
        tokens: authorization headers seen.
        broken: whether it answers every question for a file with 500.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: list[dict[str, bytes]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    broken: bool = False


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    """Yield a hub that answers until the block ends."""
    state = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            state.tokens.add(self.headers.get("Authorization"))
            named = {"main": state.files, **state.revisions}
            path, files, commit = self.path, state.files, COMMIT
            for revision, content in named.items():
                if self.path.startswith(f"/me/model/resolve/{revision}/"):
                    path, files = self.path.removeprefix(f"/me/model/resolve/{revision}/"), content
                    if revision != "main":
                        commit = hashlib.sha256(revision.encode()).hexdigest()[: len(COMMIT)]
            if state.broken and path != self.path:
                self.answer(500)
            elif not self.path.startswith(("/me/model", "/api/models/me/model")):
                self.answer(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            elif path in files:
                tag = hashlib.sha256(files[path]).hexdigest()
                self.answer(200, files[path], ETag=f'"{tag}"', X_Repo_Commit=commit)
            elif path != self.path:
                self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            else:
                self.answer(200, json.dumps({"id": "me/model", "sha": COMMIT, "siblings": []}).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.tokens.add(self.headers.get("Authorization"))
            if self.path == "/api/validate-yaml":
                self.answer(200, b'{"errors": [], "warnings": []}')
            elif not self.path.startswith("/api/models/me/model/"):
                self.answer(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            elif self.path.startswith("/api/models/me/model/preupload/"):
                asked = json.loads(body)["files"]
                found = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
                self.answer(200, json.dumps({"files": found}).encode())
            else:
                lines = [json.loads(line) for line in body.splitlines()]
                files = {
                    line["value"]["path"]: base64.b64decode(line["value"]["content"])
                    for line in lines
                    if line["key"] == "file"
                }
                state.commits.append(files)
                state.files |= files
                told: dict[str, Any] = {"commitUrl": f"{state.address}/me/model/commit/{COMMIT}"}
                told |= {"commitOid": COMMIT, "success": True}
                self.answer(200, json.dumps(told).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def environment(hub: Hub, home: Path) -> dict[str, str]:
    """Return what has a new process's huggingface_hub ask this server, and keep what it fetches in `home`."""
    return {
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": "hf_stub",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home),
    }


def ask_here(hub: Hub, home: Path, patch: pytest.MonkeyPatch) -> None:
    """As `environment`, of this process, whose huggingface_hub has read the variables."""
    from huggingface_hub import constants

    patch.setenv("HF_TOKEN", "hf_stub")
    patch.setattr(constants, "ENDPOINT", hub.address)
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
