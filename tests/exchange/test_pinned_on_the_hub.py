"""A baseline file on the hub is compared with, fetched by its real client from a server of the test's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hub_stub import environment
from huggingface_hub import constants
from small_runs import Run

from rwkvclip_eval.compare.pairing import pin
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.exchange.hub_file import fetch_file

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from hub_stub import Hub

    Cli = Callable[..., subprocess.CompletedProcess[str]]
    Command = Callable[..., tuple[int, str, str]]


def test_it_says_what_the_run_says(cli: Cli, run: Command, hub: Hub, tmp_path: Path) -> None:
    for name, flip in (("main", 0.0), ("new", 0.3)):
        made = Run(tmp_path / name)
        made.zero_shot(flip=flip)
        made.write()
    pin(tmp_path / "main", None, tmp_path / "main.baseline")
    hub.files["gates/main.baseline"] = (tmp_path / "main.baseline").read_bytes()
    code, out, _ = run("compare", tmp_path / "main", tmp_path / "new", "--format", "json")
    done = cli(
        *("compare", "hf://me/model/gates/main.baseline", tmp_path / "new", "--format", "json"),
        **environment(hub, tmp_path / "home"),
    )
    assert (done.returncode, done.stderr) == (code, "") == (1, "")
    told, direct = json.loads(done.stdout), json.loads(out)
    assert told["baseline"].pop("run") == "main.baseline" != direct["baseline"].pop("run")
    assert told == direct
    assert "Bearer hf_stub" in hub.tokens


@pytest.fixture
def asked(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The server, which the client in this process asks."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    hub.files["gates/b"] = b"now"
    hub.revisions["v1"] = {"gates/b": b"then"}
    return hub


def test_a_revision_is_fetched_and_what_was_fetched_is_there_without_a_network(
    asked: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert fetch_file("hf://me/model/gates/b", 99).read_bytes() == b"now"
        assert fetch_file("hf://me/model/gates/b@v1", 99).read_bytes() == b"then"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"Cannot fetch hf://me/model/other .*LocalEntryNotFoundError"):
        fetch_file("hf://me/model/other", 99)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("hf://me/model/nothing", r"Cannot fetch hf://me/model/nothing"),
        ("hf://me/model/gates/b@v2", r"Cannot fetch hf://me/model/gates/b@v2"),
        ("hf://me/another/b", r"Cannot fetch hf://me/another/b"),
        ("hf://me/model", r"expected hf://owner/repo/file"),
        ("hf://me/model/", r"expected hf://owner/repo/file"),
        ("hf://me/model/../../secret", r"expected hf://owner/repo/file"),
        ("hf://me/model/b@", r"expected hf://owner/repo/file"),
        ("hf://", r"expected hf://owner/repo/file"),
    ],
)
@pytest.mark.usefixtures("asked")
def test_what_the_hub_does_not_give_is_one_message(address: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        fetch_file(address, 99)
    assert "\n" not in str(error.value)


def test_a_file_too_large_is_not_fetched(asked: Hub, tmp_path: Path) -> None:
    asked.files["gates/b"] = b"0" * 100
    with pytest.raises(UserError, match="has 100 bytes; at most 99 are read"):
        fetch_file("hf://me/model/gates/b", 99)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
