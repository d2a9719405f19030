"""The main job as a process: run, kill, continue, refuse, merge."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from command import environment, run_cli
from PIL import Image

import rwkvclip_eval as rc

if TYPE_CHECKING:
    from pathlib import Path

Cli = Callable[..., subprocess.CompletedProcess[str]]
MODEL = ("--model", "python:toy_factory:make", "--batch-size", "4")

# What a run's outcome is; times, durations and folders are not.
OUTCOME = ["unit", "status", "metric", "value", "n", "ci_low", "ci_high", "primary", "prompt_hash"]


def outcome(run: Path) -> pd.DataFrame:
    frame = rc.load_results(run)
    columns = [*OUTCOME, "dataset_fingerprint", "feature_key", "model_info.fingerprint"]
    return frame[columns].sort_values(["unit", "metric"]).reset_index(drop=True)


def predictions(run: Path) -> dict[str, pd.DataFrame]:
    files = sorted(run.rglob("predictions/*/*.parquet"))
    return {f"{path.parent.name}/{path.stem}": pd.read_parquet(path) for path in files}


def assert_same_outcome(one: Path, other: Path) -> None:
    pd.testing.assert_frame_equal(outcome(one), outcome(other))
    a, b = predictions(one), predictions(other)
    assert a.keys() == b.keys()
    assert a
    for name in a:
        pd.testing.assert_frame_equal(a[name], b[name])


@pytest.fixture(scope="module")
def whole_run(colour_suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run, with its feature store beside it."""
    base = tmp_path_factory.mktemp("whole")
    done = run_cli(base, base / "cache", "run", colour_suite, *MODEL, "--out", "run")
    assert done.returncode == 0, done.stderr
    return base / "run"


def test_a_run_leaves_records_predictions_and_a_report(whole_run: Path) -> None:
    frame = rc.load_results(whole_run)
    assert set(frame["status"]) == {"ok"}
    assert set(frame["protocol"]) == {"standard", "clip-benchmark"}
    primary = frame[frame["primary"]].set_index("unit")["value"]
    assert primary.filter(like="zero_shot_classification").min() > 0.9
    assert (frame["ci_low"] <= frame["value"]).all()
    assert (frame["value"] <= frame["ci_high"]).all()
    assert "colours" in (whole_run / "report" / "index.html").read_text()
    info = json.loads((whole_run / "run.json").read_text())
    assert info["suite_name"] == "colours"
    assert info["duration_s"] > 0


def test_predictions_and_features_of_a_run_are_read_back(whole_run: Path) -> None:
    frame = rc.load_results(whole_run)
    unit = frame[frame["task"] == "zero_shot_classification"]["unit"].iloc[0]
    table = rc.load_predictions(whole_run, unit)
    assert len(table) == 60
    features = rc.load_features(
        whole_run, frame["model"].iloc[0], "colours", cache_dir=whole_run.with_name("cache")
    )
    assert features["embedding"].shape == (60, 3)
    assert list(table.iloc[:, 0]) == features["keys"]


def test_the_same_command_again_finds_everything_finished(
    cli: Cli, colour_suite: Path, whole_run: Path
) -> None:
    again = cli("run", colour_suite, *MODEL, "--out", whole_run)
    assert again.returncode == 0
    assert "0 units" in again.stdout
    assert "3 were finished before" in again.stdout


def test_killed_again_and_again_the_same_command_reaches_the_same_outcome(
    colour_suite: Path, whole_run: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "rwkvclip_eval",
        "run",
        str(colour_suite),
        *MODEL,
        "--no-report",
        "--out",
        "cut",
    ]
    env = environment(tmp_path / "cut-cache", TOY_DELAY_S="0.1")
    kills = 0
    for _ in range(40):
        process = subprocess.Popen(
            command, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        before = progress(tmp_path)
        deadline = time.monotonic() + 120
        # Kill once nine more lines are on disk, wherever that is: encoding, between units, reporting.
        while process.poll() is None and progress(tmp_path) < before + 9 and time.monotonic() < deadline:
            time.sleep(0.01)
        if process.poll() is not None:
            assert process.returncode == 0
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills >= 3
    assert_same_outcome(whole_run, tmp_path / "cut")


def progress(base: Path) -> int:
    """Return how many journal lines and result lines are on disk."""
    files = [*base.glob("cut-cache/**/journal.jsonl"), *base.glob("cut/results.jsonl")]
    count = 0
    for path in files:
        try:
            count += path.read_text().count("\n")
        except FileNotFoundError:
            continue
    return count


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_ends_with_130_and_continues(
    cli: Cli, colour_suite: Path, whole_run: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    command = [
        sys.executable,
        "-m",
        "rwkvclip_eval",
        "run",
        str(colour_suite),
        *MODEL,
        "--no-report",
        "--out",
        "cut",
    ]
    env = environment(tmp_path / "cut-cache", TOY_DELAY_S="0.2")
    process = subprocess.Popen(command, env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while progress(tmp_path) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert (
        cli(
            "run", colour_suite, *MODEL, "--no-report", "--out", "cut", cache=tmp_path / "cut-cache"
        ).returncode
        == 0
    )
    assert_same_outcome(whole_run, tmp_path / "cut")


def test_members_of_a_job_array_merge_into_the_whole(
    cli: Cli, colour_suite: Path, whole_run: Path, tmp_path: Path
) -> None:
    for index in (1, 2):
        done = cli("run", colour_suite, *MODEL, "--out", "array", "--shard", f"{index}/2", "--no-report")
        assert done.returncode == 0, done.stderr
    array = tmp_path / "array"
    assert_same_outcome(whole_run, array)
    assert cli("report", array).returncode == 0
    assert (array / "report" / "index.html").is_file()


def test_no_cache_gives_the_same_outcome_and_leaves_nothing(
    cli: Cli, colour_suite: Path, whole_run: Path, tmp_path: Path
) -> None:
    store = tmp_path / "unused"
    done = cli("run", colour_suite, *MODEL, "--no-report", "--out", "nocache", "--no-cache", cache=store)
    assert done.returncode == 0
    assert_same_outcome(whole_run, tmp_path / "nocache")
    assert not (store / "features").exists()


@pytest.mark.parametrize(
    ("extra", "said"),
    [(["--limit", "10"], "limit: none there, 10 now"), (["--precision", "bf16"], "precision")],
)
def test_other_options_into_the_same_directory_are_refused(
    cli: Cli, colour_suite: Path, whole_run: Path, extra: list[str], said: str
) -> None:
    before = (whole_run / "results.jsonl").read_bytes()
    done = cli("run", colour_suite, *MODEL, "--out", whole_run, *extra)
    assert done.returncode == 2
    assert said in done.stderr
    assert (whole_run / "results.jsonl").read_bytes() == before


def test_another_suite_into_the_same_directory_is_refused(
    cli: Cli, colour_suite: Path, whole_run: Path
) -> None:
    other = colour_suite.with_name("other.yaml")
    other.write_text(colour_suite.read_text().replace("name: colours", "name: others", 1))
    assert cli("run", other, *MODEL, "--out", whole_run).returncode == 2


def test_a_subset_is_marked_in_every_record(cli: Cli, colour_suite: Path, tmp_path: Path) -> None:
    assert cli("run", colour_suite, *MODEL, "--no-report", "--out", "few", "--limit", "9").returncode == 0
    frame = rc.load_results(tmp_path / "few")
    assert frame["subset"].all()
    by_class = rc.load_predictions(tmp_path / "few", frame["unit"].iloc[0])["label"].value_counts()
    assert list(by_class) == [3, 3, 3]


def test_a_missing_dataset_does_not_stop_the_others(cli: Cli, colour_suite: Path, tmp_path: Path) -> None:
    suite = colour_suite.with_name("partly.yaml")
    suite.write_text(colour_suite.read_text().replace("{name: pictures, folder: pictures}", "flickr30k"))
    done = cli("run", suite, *MODEL, "--no-report", "--out", "partly")
    assert done.returncode == 3
    frame = rc.load_results(tmp_path / "partly").set_index("dataset")
    assert frame.loc["flickr30k", "status"] == "missing_data"
    assert "No data for flickr30k" in frame.loc["flickr30k", "reason"]
    assert set(frame.loc["colours", "status"]) == {"ok"}


def test_damaged_images_need_the_users_leave(cli: Cli, colour_suite: Path, tmp_path: Path) -> None:
    base = tmp_path / "damaged"
    subprocess.run(["cp", "-r", str(colour_suite.parent), str(base)], check=True)
    picture = base / "colours" / "green" / "07.png"
    picture.write_bytes(picture.read_bytes()[:40])
    suite = base / "suite.yaml"
    refused = cli("run", suite, *MODEL, "--no-report", "--out", "refused")
    assert refused.returncode == 3
    assert "1 of 60 images of colours are damaged" in refused.stderr + refused.stdout
    assert "07.png" in refused.stderr + refused.stdout
    allowed = cli("run", suite, *MODEL, "--no-report", "--out", "allowed", "--allow-missing", "1")
    assert allowed.returncode == 0
    frame = rc.load_results(tmp_path / "allowed")
    colours = frame[frame["dataset"] == "colours"]
    assert set(colours["num_missing"]) == {1}
    assert set(colours["n"]) == {59}


BAD_INPUT: list[tuple[list[Any], str]] = [
    (["run", "zero-shot-12", *MODEL], "Did you mean 'zero-shot-11'"),
    (["run", "quickstart", "--model", "rwkv-clip-b23=x.pt"], "Did you mean 'rwkv-clip-b32'"),
    (["run", "quickstart", "--model", "rwkv-clip-b32=absent.pt"], "absent.pt"),
    (["run", "quickstart", "--model", "rwkv-clip-b32=page.pt"], "page.pt"),
    (["run", "quickstart", "--model", "clip-vit-b32=page.pt"], "page.pt"),
    (["run", "smoke", *MODEL, "--data-root", "absent"], "absent is not a folder"),
    (["run", "smoke", *MODEL], "No dataset of the suite can be used"),
    (["run", "quickstart", *MODEL, "--shard", "3/2"], "expected I/N"),
    (["run", "quickstart", *MODEL, "--device", "cuda:99"], "cuda"),
    (["run", "quickstart", *MODEL, "--precision", "fp8"], "fp8"),
    (["run", "quickstart", *MODEL, "--plugin", "absent.py"], "absent.py"),
    (["run", "quickstart", "--model", "python:toy_factory:absent"], "absent"),
    (["report", "."], "No results in"),
    (["data", "verify", "cifar01"], "Did you mean 'cifar10'"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD_INPUT, ids=lambda value: str(value)[:60])
def test_bad_input_is_one_clear_message_with_exit_code_2(
    cli: Cli, tmp_path: Path, arguments: list[Any], said: str
) -> None:
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><html><body>404 not found</body></html>")
    out = ["--out", "out"] if arguments[0] == "run" else []
    done = cli(*arguments, *out)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_an_output_that_cannot_be_written_is_named(cli: Cli, colour_suite: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = cli("run", colour_suite, *MODEL, "--out", "file/run")
    assert done.returncode == 2
    assert "Cannot write the run directory" in done.stderr


OFFLINE = """
import sys
opened = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo") and isinstance(arguments[-1], tuple | str | int):
        opened.append((event, arguments))
sys.addaudithook(hook)
import atexit, os
def check():
    if opened:
        print("opened sockets:", opened, file=sys.stderr)
        os._exit(99)
atexit.register(check)
from rwkvclip_eval.cli.main import main
main()
"""


def test_an_offline_run_opens_no_socket(colour_suite: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, "run", str(colour_suite), *MODEL, "--out", "offline", "--offline"],
        env=environment(tmp_path / "cache"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_offline_a_model_that_is_not_local_is_named(process: Cli, tmp_path: Path) -> None:
    done = process(
        "run",
        "quickstart",
        "--model",
        "rwkv-clip-b32=hf://Kaichengalex/RWKV-CLIP-B32-YFCC15M/model_31.pt",
        "--out",
        "out",
        "--offline",
        HF_HOME=str(tmp_path / "hub"),
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "not in the local cache" in done.stderr


def test_verify_tells_of_every_dataset_and_ends_with_1(cli: Cli, tmp_path: Path) -> None:
    shard = tmp_path / "root" / "wds_cut" / "test" / "0.tar"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"cut")
    done = cli("data", "verify", "wds_cut", "digits", "--data-root", "root")
    assert done.returncode == 1
    assert "wds_cut: NOT fine" in done.stdout
    assert "digits:test: fine" in done.stdout and "digits:train: fine" in done.stdout


def test_the_version_is_printed(process: Cli) -> None:
    done = process("--version")
    assert (done.returncode, done.stdout) == (0, f"rwkvclip-eval {rc.__version__}\n")


def test_a_file_the_system_refuses_is_named(cli: Cli) -> None:
    done = cli("validate", "y" * 300)
    assert done.returncode == 2
    assert "File name too long" in done.stderr


def test_a_name_the_terminal_cannot_show_does_not_end_a_run(process: Cli, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "name: n\ntasks:\n- task: zero_shot_classification\n"
        "  datasets: [{name: größe, folder: x, templates: ['{c}']}]\n",
        encoding="utf-8",
    )
    for name in ("a", "b"):
        (tmp_path / "x" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "x" / name / "0.png")
    done = process("validate", "s.yaml", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert done.returncode == 0
    (tmp_path / "s.yaml").rename(tmp_path / "größe.yaml")
    done = process("validate", "größe.yaml", PYTHONIOENCODING="ascii", LC_ALL="C.UTF-8")
    assert (done.returncode, done.stdout) == (0, "gr\\xf6\\xdfe.yaml: fine; 1 unit a model.\n")


def test_shots_of_the_command_line_take_the_place_of_the_suites(cli: Cli, tmp_path: Path) -> None:
    suite = tmp_path / "few.yaml"
    few = "{task: few_shot_linear_probe, options: {num_seeds: 2, shots: [16]}, datasets: [digits]}"
    suite.write_text(f"name: few\ntasks:\n- {few}\n")
    few_run = ("run", suite, *MODEL, "--no-report", "--out", "few")
    done = cli(*few_run, "--shots", "1,2,4")
    assert done.returncode == 0, done.stderr
    frame = rc.load_results(tmp_path / "few")
    assert set(frame["metric"]) == {f"top1_accuracy_{shots}_shot" for shots in (1, 2, 4)}
    assert set(frame["protocol"]) == {"clip-certified (shots=1+2+4, num_seeds=2)"}
    other = cli(*few_run, "--shots", "8")
    assert other.returncode == 2
    assert "suite" in other.stderr
