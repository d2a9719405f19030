"""Runs `rwkvclip-train` in processes that a test may kill, forked so that nothing is imported again.

`train_command` is the same command for a process of its own.
"""

import contextlib
import ctypes
import functools
import json
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml

from rwkvclip_train import log, update
from rwkvclip_train.cli import main
from rwkvclip_train.log import VARYING
from rwkvclip_train.loop import train
from rwkvclip_train.recipe import load_recipe

TINY = {
    "input_size": 16,
    "image_depth": 2,
    "image_embed_dims": 32,
    "image_patch_size": 8,
    "image_hidden_rate": 2,
    "image_num_heads": 2,
    "ctx_len": 16,
    "vocab_size": 49408,
    "head_size": 16,
    "n_layer": 1,
    "n_embd": 32,
    "drop_path_rate": 0.3,
}
ROOT = Path(__file__).resolve().parents[2]


def write_recipe(folder: Path, **changes: object) -> Path:
    settings: dict[str, object] = {
        "name": "tiny",
        "model": {"family": "rwkv-clip", "config": TINY},
        "data": [{"dataset": "digits", "texts": "kinds"}],
        "steps": 60,
        "batch_size": 8,
        "lr": 0.001,
        "log_every": 1,
        "checkpoint_every": 10,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings | changes))
    return path


@functools.cache
def import_all() -> None:
    """Train once in this process, so that what is imported on the way is there for all forks."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(write_recipe(Path(folder), steps=1, precision="fp64"))
        train(recipe, Path(folder), progress=False)


class Run:
    """A forked `rwkvclip-train ARGUMENTS --quiet --threads 1`.

    `dies_at`: the process kills itself, as `kill -9` does, when it writes down the keys of that step.
    `slow_s`: it sleeps so long in each. `keep_gradients`: folder for `gradients.RANK.pt`, the last step's.
    """

    def __init__(
        self,
        *arguments,
        output,
        dies_at=None,
        environ=None,
        most_file_bytes=None,
        slow_s=0.0,
        keep_gradients=None,
    ):
        import_all()
        self.output = Path(output)
        words = ["rwkvclip-train", *map(str, arguments), "--quiet", "--threads", "1"]
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                code = _child(
                    words, self.output, dies_at, environ or {}, most_file_bytes, slow_s, keep_gradients
                )
            finally:
                os._exit(code)

    def wait(self, timeout_s=120.0):
        """Return exit code (negative: of a signal) and what was said."""
        end = time.monotonic() + timeout_s
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status), self.output.read_text()
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"hangs: {self.output.read_text()}")
            time.sleep(0.02)

    def signal(self, number):
        os.kill(self.pid, number)


def _child(words, output, dies_at, environ, most_file_bytes, slow_s, keep_gradients):
    # A test that is ended leaves nobody behind.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        os.environ.pop(name, None)
    os.environ.update(environ)
    real = log.RunLog.keys

    def keys(self, step, *rest):
        if step == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(slow_s)
        real(self, step, *rest)

    log.RunLog.keys = keys
    if keep_gradients is not None:
        _keep(keep_gradients / f"gradients.{os.environ.get('RANK', 0)}.pt")
    if most_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_file_bytes, most_file_bytes))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = words
    torch.manual_seed(os.getpid())
    try:
        main()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 0
    return 0


def _keep(path):
    """Have the gradients of each step written to `path` before the weights move."""
    real = update.Update.__init__

    def made(self, model, *rest):
        real(self, model, *rest)
        parameters = dict(model.named_parameters())
        step = self.scaler.step

        def stepped(optimizer):
            torch.save({n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}, path)
            return step(optimizer)

        self.scaler.step = stepped

    update.Update.__init__ = made


def ranks(size, *arguments, output, dies_at=None, **given):
    """Fork the processes of one run as a launcher would; `dies_at` is rank → step."""
    port = free_port()
    return [
        Run(
            *arguments,
            output=f"{output}.{rank}",
            dies_at=(dies_at or {}).get(rank),
            environ={
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            **given,
        )
        for rank in range(size)
    ]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def environment(**extra):
    paths = [str(ROOT / part) for part in (".", "models", "train")]
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return kept | {"PYTHONPATH": ":".join(paths), "OMP_NUM_THREADS": "1"} | extra


def train_command(*arguments, processes=0, module_arguments=()):
    launch = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes else []
    )
    return [
        sys.executable,
        *launch,
        *module_arguments,
        "-m",
        "rwkvclip_train",
        *map(str, arguments),
        "--quiet",
    ]


def keys_done(out):
    path = out / "training" / "tiny.keys"
    return path.read_text().count("\n") if path.exists() else 0


def wait_for_step(out, step, timeout_s=60.0):
    end = time.monotonic() + timeout_s
    while keys_done(out) < step:
        assert time.monotonic() < end, f"step {step} is not reached"
        time.sleep(0.005)


def lines(out):
    """Return the log's lines without what may differ between runs."""
    with (out / "training" / "tiny.jsonl").open() as file:
        return [{k: v for k, v in json.loads(line).items() if k not in VARYING} for line in file]


def left_by(out):
    """Return name → bytes of all that a run leaves, the log as `lines`, for comparison."""
    files = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    del files["training/tiny.jsonl"]
    return files | {"log": lines(out)}
