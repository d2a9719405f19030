"""A model card is uploaded with the hub's real client, against a server on this machine."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from report_runs import record, write_run

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Cli = Callable[..., subprocess.CompletedProcess[str]]

COMMIT = "1" * 40


@dataclass
class Hub:
    """What the server holds and was asked.

    Attributes:
        address: of the server.
        files: path → content, of the one repository `me/model`.
        commits: path → content, of each commit.
        tokens: authorization headers seen.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict[str, bytes]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)


@pytest.fixture
def hub() -> Iterator[Hub]:
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
            path = self.path.removeprefix("/me/model/resolve/main/")
            if not self.path.startswith(("/me/model", "/api/models/me/model")):
                self.answer(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            elif path in state.files:
                self.answer(200, state.files[path], ETag=f'"{len(state.files[path])}"', X_Repo_Commit=COMMIT)
            elif path != self.path:
                self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
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
    yield state
    server.shutdown()
    server.server_close()


def push(cli: Cli, hub: Hub, run: Path, repository: str = "me/model") -> subprocess.CompletedProcess[str]:
    environment = {"HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_stub", "HF_HUB_DISABLE_XET": "1"}
    environment["HF_HOME"] = str(run.parent / "hub")
    return cli("report", run, "--push-to-hub", repository, **environment)


def test_card_and_eval_results_are_uploaded_in_one_commit_and_again(
    cli: Cli, hub: Hub, tmp_path: Path
) -> None:
    done = push(cli, hub, write_run(tmp_path / "a", [record(value=0.3)]))
    assert done.returncode == 0, done.stderr
    assert f"Uploaded: {hub.address}/me/model/commit/{COMMIT}" in done.stdout
    (files,) = hub.commits
    name = ".eval_results/cifar10--test--zero_shot_classification--standard.yaml"
    assert set(files) == {"README.md", name}
    data: Any = ModelCard(files["README.md"].decode()).data
    assert [r.metric_value for r in data.eval_results] == [30]
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[name]))
    assert (entry.value, entry.source_url) == (30, f"{hub.address}/me/model")
    assert "Bearer hf_stub" in hub.tokens

    hub.files["README.md"] = (
        b"---\nlicense: mit\n---\n\n# By hand\n" + files["README.md"].split(b"\n---\n")[1]
    )
    done = push(cli, hub, write_run(tmp_path / "b", [record(value=0.6)]))
    assert done.returncode == 0, done.stderr
    text = hub.commits[1]["README.md"].decode()
    data = ModelCard(text).data
    assert data.license == "mit" and [r.metric_value for r in data.eval_results] == [60]
    assert "# By hand" in text and "60.00" in text and "30.00" not in text


def test_what_the_hub_refuses_is_one_message_and_the_card_stays(cli: Cli, hub: Hub, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record()])
    for repository, told in (
        ("me/other", "Cannot upload to me/other on the Hugging Face hub"),
        ("no-owner", "expected OWNER/REPO"),
    ):
        done = push(cli, hub, run, repository)
        assert done.returncode == 2 and told in done.stderr
        assert "Traceback" not in done.stderr and len(done.stderr) < 1500
    assert hub.commits == []
    assert (run / "report" / "model_card" / "rwkv-clip-b32" / "README.md").is_file()
    hub.files["README.md"] = b"---\n[1, 2\n---\n"
    done = push(cli, hub, run)
    assert done.returncode == 2 and "is no model card" in done.stderr and hub.commits == []
