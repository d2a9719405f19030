"""The real command line with hostile values, environments and files: exit code 2, one short message."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rwkvclip_eval import console
from rwkvclip_eval.cli import main as cli
from rwkvclip_eval.data.prompts import resolve_prompts
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.printable import printable
from rwkvclip_eval.progress import Progress

SUITE = """\
name: s
tasks:
  - task: zero_shot_classification
    datasets: [{name: digits}]
"""


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "s.yaml").write_text(SUITE)
    return tmp_path / "s.yaml"


@pytest.fixture
def nano(tmp_path, nano_config):
    """A model's spec that loads in no time."""
    (tmp_path / "nano.json").write_text(json.dumps(nano_config))
    return f"{tmp_path / 'nano.json'}=random:0"


def said_once(code, said, expected=2):
    assert code == expected, said
    assert "Traceback" not in said and "Internal error" not in said
    assert 0 < len(said) < 2000
    assert not {c for c in said if ord(c) < 32 or 127 <= ord(c) < 160} - {"\n", "\t"}
    return said


OPTIONS = [
    (("--batch-size", "-1"), "greater than or equal to 1 (got '-1')"),
    (("--batch-size=1000000000000"), "less than or equal to 65536 (got '1000000000000')"),
    (("--batch-size", "9" * 5000), "Invalid value for '--batch-size'"),
    (("--memory-budget", "inf"), "(got 'inf')"),
    (("--memory-budget", "nan"), "(got 'nan')"),
    (("--memory-budget", "1e400"), "(got '1e400')"),
    (("--num-workers", "100000"), "(got '100000')"),
    (("--limit", "0"), "(got '0')"),
    (("--limit", "1e3"), "(got '1e3')"),
    (("--limit", "\x1b[31m"), r"(got '\x1b[31m')"),
    (("--allow-missing", "10000000000"), "(got '10000000000')"),
    (("--shots", "1,2,x"), "--shots '1,2,x': expected numbers"),
    (("--shots", "9" * 5000), "expected numbers divided by commas"),
    (("--shard", "0/3"), "--shard '0/3': expected I/N"),
    (("--shard", "1/" + "9" * 5000), "expected I/N"),
    (("--device", "x" * 5000), "device"),
    (("--device", "cuda:99999999999999999999"), "Device 'cuda:99999999999999999999'"),
    (("--precision", "\udcff"), r"Unknown precision '\udcff'"),
    (("-m", "x" * 5000), "at most 1000 characters, got 5000"),
    (("-m", "random:" + "9" * 30), "Unknown model"),
    (("-m", "rwkv-clip-b32=random:" + "9" * 30), "a seed has at most 18 digits"),
    (("-m", "rwkv-clip-b32=a\x1b[31m.pt"), r"no file matches 'a\x1b[31m.pt'"),
    (("-m", "rwkv-clip-b32=a\x1b]0;.pt"), r"No checkpoint at a\x1b]0;.pt"),
    (("-m", "rwkv-clip-b32=\udcff.pt"), r"No checkpoint at \udcff.pt"),
    (("-m", "rwkv-clip-b32=/dev/zero"), "expected a file, found a device"),
    (("-m", "/dev/zero.json=x"), "No configuration"),
    (("-m", "rwkv-clip-b32=~nobodyatall/x.pt"), "No checkpoint at ~nobodyatall/x.pt"),
    (("-m", "~nobodyatall/x.json=random:0"), "No configuration '~nobodyatall/x.json'"),
    (("-m", "hf:~nobodyatall/x"), "folder ~nobodyatall/x does not exist"),
    (("-m", ""), "is empty; expected a name or path"),
]


@pytest.mark.parametrize("given, said", OPTIONS)
def test_a_value_that_cannot_be_is_one_message_that_says_what_came(run, suite, tmp_path, given, said):
    given = (given,) if isinstance(given, str) else given
    models = () if "-m" in given else ("-m", "rwkv-clip-b32=random:0")
    code, _, errors = run("run", suite, *models, "-o", tmp_path / "out", *given)
    assert said in said_once(code, errors)


@pytest.mark.parametrize("path", ["\x00", "a\x00b", "/dev/zero", "/dev/null", "x" * 5000, "\udcff", "", "."])
@pytest.mark.parametrize("command", ["validate", "run", "report"])
def test_a_path_that_is_none_is_one_message(run, tmp_path, command, path):
    options = ("-m", "rwkv-clip-b32=random:0", "-o", tmp_path / "out") if command == "run" else ()
    code, _, errors = run(command, path, *options)
    said_once(code, errors)


ENVIRONMENTS = [
    ({"WORLD_SIZE": "abc"}, "WORLD_SIZE must be a whole number of at least 1, got 'abc'"),
    ({"WORLD_SIZE": ""}, "WORLD_SIZE"),
    ({"WORLD_SIZE": "-2"}, "got '-2'"),
    ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE"),
    ({"RANK": "x"}, "RANK must be a whole number of at least 0, got 'x'"),
    ({"RANK": "5"}, "RANK 5 of WORLD_SIZE 2"),
    ({"LOCAL_RANK": "²"}, "LOCAL_RANK must be a whole number"),
    ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE must be a whole number of at least 1, got '0'"),
    ({"MASTER_PORT": "http"}, "MASTER_PORT must be a whole number of at least 0, got 'http'"),
]


@pytest.mark.parametrize("changes, said", ENVIRONMENTS)
def test_an_environment_that_torchrun_never_makes_is_one_message(
    run, suite, tmp_path, monkeypatch, changes, said
):
    own = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_PORT": "1"}
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "MASTER_ADDR": "localhost", **own, **changes}.items():
        monkeypatch.setenv(name, value)
    code, _, errors = run("run", suite, "-m", "rwkv-clip-b32=random:0", "-o", tmp_path / "out")
    assert said in said_once(code, errors)


def test_a_scheduler_s_world_size_alone_means_nothing(run, suite, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "abc")
    code, _, errors = run("run", suite, "-m", "x=1", "-o", tmp_path / "out")
    assert "Unknown model 'x'" in said_once(code, errors)


def test_an_end_of_a_file_is_never_called_an_interruption(run, monkeypatch):
    def fail():
        raise EOFError("No data left in file")

    monkeypatch.setattr(cli, "list_models", fail, raising=False)
    monkeypatch.setattr("rwkvclip_eval.encoders.list_models", fail)
    code, _, errors = run("models")
    assert code == 70
    assert "Internal error (EOFError): No data left in file" in errors
    assert "Interrupted" not in errors


def test_no_control_character_of_a_checkpoint_reaches_the_terminal(run, suite, tmp_path):
    torch.save({f"\x1b]0;owned\x07{i}\u202e": torch.zeros(1) for i in range(3)}, tmp_path / "m.pt")
    arguments = ("run", suite, "-m", f"rwkv-clip-b32={tmp_path / 'm.pt'}", "-o", tmp_path / "out")
    code, _, errors = run(*arguments)
    assert r"\x1b]0;owned\x07" in said_once(code, errors)
    assert "\u202e" not in errors
    code, _, errors = run(*arguments, "--debug")
    assert code == 2 and "Traceback" in errors
    assert "\x1b" not in errors and r"\x1b]0;owned" in errors


def test_tables_and_progress_show_no_control_character(capfd):
    console.table(["a\x1b", "b"], [["x\ty\nz\x07", 1]])
    with Progress() as progress:
        progress.update(1, 2, "[red]\x1b")
        progress.say("\x1b[31m")
    said = capfd.readouterr()
    assert not {"\x1b", "\x07"} & set(said.out + said.err)
    assert len(said.out.splitlines()) == 2


def test_printable_keeps_texts_of_every_script():
    for text in ("naïve façade 猫 птицы 🙂 × − →", "two\nlines\tand a tab", ""):
        assert printable(text) == text
    assert printable("a\x9bb\u2066c\ud800") == r"a\x9bb\u2066c\ud800"


NAMES_CODE = "python:evil:factory"


def test_no_record_names_code_that_runs(run, suite, nano, tmp_path, monkeypatch):
    """A run directory that names a plugin and a factory is reported and continued without either."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path('PWNED').touch()\n")
    out = tmp_path / "out"
    command = ("run", suite, "-m", nano, "--limit", "20", "-o", out, "--no-report")
    assert run(*command)[0] == 0
    info = json.loads((out / "run.json").read_text())
    info["command"] = f"rwkvclip-eval run s --plugin evil.py -m {NAMES_CODE}"
    info["suite_text"] = f"plugin: evil.py\nmodels: ['{NAMES_CODE}']"
    # As a killed run leaves it; a digest of other results would be refused.
    info["results_sha256"] = ""
    (out / "run.json").write_text(json.dumps(info))
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    for line in lines:
        line["model_info"] |= {"spec": NAMES_CODE, "family": "python"}
    (out / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("report", out)[0] == 0
    assert run(*command)[0] == 0
    (out / "run.json").write_text(json.dumps(info | {"models": [NAMES_CODE]}))
    assert run("report", out)[0] == 0
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("name", ["results.jsonl", "run.json"])
def test_a_run_directory_of_other_content_is_one_message(run, suite, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    for content in (b'{"unit": 3}', b"\xff", b"[" * 100_000, b'{"identity": {"a": 1e999}}'):
        (out / "results.jsonl").write_bytes(b"")
        (out / name).write_bytes(content + b"\n")
        code, _, errors = run("report", out)
        assert name in said_once(code, errors)


def test_a_pipe_as_results_is_not_waited_for(run, tmp_path):
    os.mkfifo(tmp_path / "results.jsonl")
    code, _, errors = run("report", tmp_path)
    assert "a named pipe" in said_once(code, errors)


PROMPTS = [
    (b"\xff", "not UTF-8"),
    (b"[]", "expected a mapping of dataset name to list of texts (got a list)"),
    (b"3", "expected a mapping of dataset name to list of texts (got 3)"),
    (b'{"digits": 3}', "must be a list of texts (got 3)"),
    (b'{"digits": [3]}', "must be a list of texts"),
    (b'{"digits": []}', "must be a list of texts"),
    (b'{"x": ["a"]}', "Unknown dataset"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"digits": NaN}', "holds NaN"),
]


@pytest.mark.parametrize("content, said", PROMPTS)
def test_a_prompt_file_of_another_form_is_one_message(tmp_path, content, said):
    (tmp_path / "label.json").write_bytes(content)
    ref = DatasetRef(name="digits", prompts={"labels": "label.json"})
    with pytest.raises(UserError) as caught:
        resolve_prompts(ref, None, None, tmp_path)
    assert said in str(caught.value)


def test_a_pipe_as_prompt_file_is_not_waited_for(run, nano, tmp_path):
    os.mkfifo(tmp_path / "label.json")
    text = SUITE.replace("{name: digits}", "{name: digits, prompts: {labels: label.json}}")
    (tmp_path / "s.yaml").write_text(text)
    code, _, errors = run("run", tmp_path / "s.yaml", "-m", nano, "-o", tmp_path / "out")
    assert "a named pipe" in said_once(code, errors)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is full")
@pytest.mark.parametrize(
    "command",
    [("rwkvclip_eval", "data", "list"), ("rwkvclip_eval", "suites"), ("rwkvclip_train", "--explain")],
)
def test_output_that_cannot_be_written_is_one_message(command):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", *command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert done.stderr == "Error: cannot write the output: No space left on device.\n"
    assert done.returncode == 2


def test_a_reader_that_leaves_early_is_no_error():
    program = f"{sys.executable} -m rwkvclip_eval data list | head -1"
    done = subprocess.run(program, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("name\t")
    assert not {"Error", "Traceback", "Exception"} & set(re.findall(r"\w+", done.stderr))


@pytest.mark.parametrize("argument", ["suites", "--version", "--help"])
def test_output_that_nobody_reads_ends_without_a_word(argument):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "rwkvclip_eval", argument],
            stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_a_limit_of_memory_in_which_no_library_loads_is_one_message(tmp_path):
    arguments = f"run quickstart -m rwkv-clip-b32=random:0 -o {tmp_path / 'out'}"
    program = f"{sys.executable} -m rwkvclip_eval {arguments}"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -v 1500000; {program}"], capture_output=True, text=True, timeout=120
    )
    said_once(done.returncode, done.stderr)
    assert "ulimit -v" in done.stderr


EXITS = {
    "importing": "import sys\nsys.exit(0)\n",
    "calling": "import sys\ndef factory(*_):\n    sys.exit(0)\n",
}


@pytest.mark.parametrize("when", EXITS)
def test_a_factory_that_exits_is_told(run, suite, tmp_path, monkeypatch, when):
    monkeypatch.chdir(tmp_path)
    module = f"exits_{when}"
    (tmp_path / f"{module}.py").write_text(EXITS[when])
    code, _, errors = run("run", suite, "-m", f"python:{module}:factory", "-o", tmp_path / "out")
    assert "called sys.exit(0)" in said_once(code, errors)


def test_a_plugin_that_exits_is_told(run, tmp_path):
    (tmp_path / "p.py").write_text("raise SystemExit\n")
    code, _, errors = run("models", "--plugin", tmp_path / "p.py")
    assert "p.py called sys.exit()" in said_once(code, errors)


def test_damaged_data_that_are_there_are_not_called_absent(run, nano, tmp_path):
    (tmp_path / "birds").mkdir()
    (tmp_path / "s.yaml").write_text(SUITE.replace("name: digits", "name: birds, folder: birds"))
    code, _, errors = run("run", tmp_path / "s.yaml", "-m", nano, "-o", tmp_path / "out")
    said_once(code, errors)
    assert "1 of 1 datasets found, 1 of them cannot be used." in errors
    assert "no data root" not in errors


@pytest.mark.parametrize("command", ["models", "data list"])
def test_a_closed_output_is_no_internal_error(command):
    program = f"{sys.executable} -m rwkvclip_eval {command} >&-"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=120)
    assert "Internal error" not in done.stderr and "Traceback" not in done.stderr
    assert done.returncode in (0, 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is full")
def test_an_error_that_cannot_be_written_keeps_its_exit_code():
    program = f"{sys.executable} -m rwkvclip_eval validate nosuch 2>/dev/full"
    assert subprocess.run(["bash", "-c", program], timeout=120, check=False).returncode == 2


PLUGIN = """
import asyncio, sys
import numpy as np
from rwkvclip_eval.data.types import DatasetInfo
from rwkvclip_eval.run.plugins import register_dataset


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Mine:
    keys, captions = ["a", "b"], None
    labels = np.array([0, 1])

    def __init__(self, split):
        self.info = DatasetInfo(name="mine", kind="classification", num_samples=2, fingerprint="f",
                                class_names=("x", "y"), templates=("{c}",))
        INIT

    def __len__(self):
        return 2

    def image(self, index):
        from PIL import Image
        return Image.new("RGB", (8, 8))


register_dataset("mine", Mine)
"""


@pytest.mark.parametrize(
    "code, said",
    [
        ("sys.exit(0)", "The registered dataset 'mine' called sys.exit(0)"),
        ("self.labels = np.array([0, 5])", "1 labels name no class: 2 class names"),
        ("self.labels = np.array([0.0, 1.0])", "labels float64 [2]"),
        ("self.labels = np.array([0])", "2 samples of a classification set, 1 labels"),
        ("self.keys = ['a', 'a']", "1 keys that differ"),
    ],
)
def test_a_plugin_s_dataset_that_misbehaves_is_one_message(run, nano, tmp_path, monkeypatch, code, said):
    from rwkvclip_eval.data.open import DATASETS

    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries), raising=False)
    (tmp_path / "p.py").write_text(PLUGIN.replace("INIT", code))
    (tmp_path / "s.yaml").write_text(SUITE.replace("digits", "mine"))
    code, _, errors = run(
        "run", tmp_path / "s.yaml", "-m", nano, "-o", tmp_path / "out", "--plugin", tmp_path / "p.py"
    )
    assert said in said_once(code, errors)


@pytest.mark.parametrize("raised", ["GeneratorExit", "asyncio.CancelledError", "Mute"])
def test_any_exception_of_a_plugin_is_one_line(tmp_path, raised):
    (tmp_path / "p.py").write_text(PLUGIN.replace("INIT", f"raise {raised}"))
    (tmp_path / "s.yaml").write_text(SUITE.replace("digits", "mine"))
    options = ("-m", "rwkv-clip-b32=random:0", "-o", tmp_path / "out", "--plugin", tmp_path / "p.py")
    command = [sys.executable, "-m", "rwkvclip_eval", "run", tmp_path / "s.yaml", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode not in (0, 130)
    assert "Traceback" not in done.stderr and len(done.stderr) < 2000
