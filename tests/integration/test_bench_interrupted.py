"""A measurement that is interrupted, or whose disk is full: what is lost, what is said, how it goes on."""

import json
import resource
import signal
import subprocess
import sys
import time

import pytest
from command import environment

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
# No waiting for a quiet machine, of which tests have none.
PLUGIN = """\
from rwkvclip_eval.bench import turns
turns.wait_for_quiet = lambda own, seconds, gpu_share: True
turns.MOST_AGAIN = 0
"""


@pytest.fixture
def bench(tmp_path):
    """Starts `bench` with a tiny model in its own group of processes."""
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    (tmp_path / "plugin.py").write_text(PLUGIN)

    def start(*sizes, most_file_bytes=None):
        def limit():
            # Tests in the background have Ctrl-C switched off, and so would have what they start.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if most_file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most_file_bytes, most_file_bytes))

        command = (
            sys.executable, "-m", "rwkvclip_eval", "bench", "-m", "open_clip:tiny.json=random:0", "--plugin",
            "plugin.py", "--tower", "image", "--size", ",".join(map(str, sizes)), "--batch-size", "1",
            "--precision", "fp32", "--repeats", "2", "--turn", "0.05", "-o", "out",
            *(["--no-report"] if len(sizes) == 1 else []),
        )  # fmt: skip
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment(tmp_path / "cache"), start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit,
        )  # fmt: skip

    return start


def measured(out):
    return {path.name: path.read_bytes() for path in (out / "cells").glob("*")}


def processes_of(group):
    listed = subprocess.run(["ps", "-e", "-o", "pgid="], capture_output=True, text=True, check=True).stdout
    return listed.split().count(str(group))


def test_ctrl_c_keeps_what_is_measured_leaves_no_process_and_the_same_command_goes_on(bench, tmp_path):
    out = tmp_path / "out"
    with bench(32, 48, 64) as process:
        end = time.monotonic() + 120
        while not (out / "cells").is_dir() or not measured(out):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    kept = measured(out)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert 1 <= len(kept) < 3
    assert all(name.endswith(".json") for name in kept), "no half-written file"
    assert processes_of(process.pid) == 0, "its measuring processes have ended"
    with bench(32, 48, 64) as process:
        _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert len(measured(out)) == 3
    assert {name: measured(out)[name] for name in kept} == kept, "measured once"
    assert (out / "report" / "index.html").is_file()


@pytest.mark.parametrize(
    ("most_file_bytes", "message"),
    [(0, "No usable temporary directory"), (600, "run.json")],
    ids=["that of temporary files too", "that of the run"],
)
def test_a_disk_that_is_full_is_one_message_and_the_same_command_goes_on(
    bench, tmp_path, most_file_bytes, message
):
    with bench(32, most_file_bytes=most_file_bytes) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert message in err
    assert not (tmp_path / "out" / "cells").exists()
    with bench(32) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert len(measured(tmp_path / "out")) == 1
