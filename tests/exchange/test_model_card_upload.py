"""A model card is uploaded with the hub's real client, against a server on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from hub_stub import COMMIT, Hub, ask_here, environment
from huggingface_hub import ModelCard, parse_eval_result_entries
from report_runs import record, write_run

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    Cli = Callable[..., subprocess.CompletedProcess[str]]
    Run = Callable[..., tuple[int, str, str]]


def push(cli: Cli, hub: Hub, run: Path) -> subprocess.CompletedProcess[str]:
    return cli("report", run, "--push-to-hub", "me/model", **environment(hub, run.parent / "hub"))


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


def test_what_the_hub_refuses_is_one_message_and_the_card_stays(
    run: Run, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_here(hub, tmp_path / "hub", monkeypatch)
    folder = write_run(tmp_path / "run", [record()])

    def refused(repository: str = "me/model") -> str:
        code, _, err = run("report", folder, "--push-to-hub", repository)
        assert code == 2 and hub.commits == []
        assert "Traceback" not in err and len(err) < 1500
        return err

    for repository, told in (
        ("me/other", "Cannot upload to me/other on the Hugging Face hub"),
        ("no-owner", "expected OWNER/REPO"),
    ):
        assert told in refused(repository)
    assert (folder / "report" / "model_card" / "rwkv-clip-b32" / "README.md").is_file()
    hub.broken = True
    # What cannot be read must not be replaced.
    assert "Cannot upload" in refused()
    hub.broken = False
    hub.files["README.md"] = b"---\n[1, 2\n---\n"
    assert "is no model card" in refused()
