"""Runs the program's `main` again and again, each time in a fork of one process that has imported it.

Started as a script, with the program on PYTHONPATH. Reads one JSON request per line and answers with one JSON
line per request, in turn:

    {"program", "argv", "cwd", "env", "stdout", "stderr"[, "kill_after", "kill_group"]}
    {"code", "signal", "seconds", "bytes", "ended"}

`bytes` is the greatest resident memory of the fork and of what it started; `ended` says why the server killed
it, or nothing. A fork that starts a shell or a fetching program touches the file that $CANARY names.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

MODULES = (
    *("rwkvclip_eval.cli.main", "rwkvclip_train.cli", "rwkvclip_eval.run.suite_run", "rwkvclip_eval.report"),
    *("rwkvclip_eval.encoders.open_clip", "rwkvclip_eval.encoders.hugging_face", "rwkvclip_train.loop"),
    *("rwkvclip_eval.encoders.rwkv_clip", "rwkvclip_eval.data.prepare", "rwkvclip_eval.data.verify"),
    *("rwkvclip_eval.data.webdataset", "rwkvclip_eval.data.hugging_face", "rwkvclip_eval.tasks"),
    *("open_clip", "transformers", "datasets", "scipy.io", "h5py", "pandas", "matplotlib.pyplot"),
    *("clip_benchmark.datasets.builder", "torchvision.datasets", "jinja2", "pyarrow.parquet", "filelock"),
)
"""What the commands import; a fork finds it imported."""
FORBIDDEN = frozenset({"sh", "bash", "dash", "wget", "curl", "touch"})
MOST_S = 40.0
MOST_BYTES = 4 << 30
FILE_BYTES = 1 << 30
"""Of one file that a fork writes."""
POLL_S = 0.004


def _watch_for_execution(canary: str) -> None:
    """Touch the canary when this process has a shell or a fetching program started."""

    def heard(event: str, given: tuple[Any, ...]) -> None:
        if event in ("os.system", "pty.spawn"):
            started = "sh"
        elif event in ("subprocess.Popen", "os.exec", "os.posix_spawn"):
            started = os.path.basename(os.fsdecode(given[0] or (given[1] or ["?"])[0]))  # noqa: PTH119  # of text as of bytes
        else:
            return
        if started in FORBIDDEN:
            with contextlib.suppress(OSError):
                os.close(os.open(canary, os.O_CREAT | os.O_WRONLY))

    sys.addaudithook(heard)


def _become(request: dict[str, Any]) -> None:
    """Turn this fork into a fresh process of the program."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["stdout"], os.O_WRONLY),
        (2, request["stderr"], os.O_WRONLY),
    ):
        handle = os.open(path, flags)
        os.dup2(handle, number)
        os.close(handle)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(MOST_S), int(MOST_S)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What these libraries read of the environment at import.
    import datasets.config
    import huggingface_hub.constants

    datasets.config.HF_DATASETS_CACHE = Path(request["env"]["HF_DATASETS_CACHE"])
    huggingface_hub.constants.HF_HUB_CACHE = request["env"]["HF_HUB_CACHE"]
    sys.argv = [f"{request['program']}/__main__.py", *request["argv"]]
    _watch_for_execution(request["env"]["CANARY"])


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def _wait(pid: int, kill_after: float | None = None, kill_group: bool = True) -> dict[str, Any]:
    """Wait for a fork; kill it and what it started where it takes too long or too much, or when asked to."""
    started, ended, looked = time.monotonic(), "", 0.0
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        now = time.monotonic()
        if found:
            break
        if not ended and now - started > MOST_S:
            ended = f"killed after {MOST_S:.0f} s"
        elif not ended and now - looked > 0.05:
            looked = now
            if _resident_bytes(pid) > MOST_BYTES:
                ended = f"killed at {MOST_BYTES >> 30} GiB"
        if kill_after is not None and now - started > kill_after:
            kill_after = None
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if kill_group else os.kill)(pid, signal.SIGKILL)
        if ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        time.sleep(POLL_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    return {
        "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "seconds": now - started,
        "bytes": usage.ru_maxrss * 1024,
        "ended": ended,
    }


def serve() -> None:
    """Answer requests until the input ends; in a fork, run the program and leave."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in MODULES:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    # A collection in a fork would touch, and so copy, all that was imported.
    gc.collect()
    gc.freeze()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in requests:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.close(requests.fileno())
            os.close(answers.fileno())
            _become(request)
            _run(request["program"])
        options = request.get("kill_after"), request.get("kill_group", True)
        print(json.dumps(_wait(pid, *options)), file=answers, flush=True)


ENTRY = {"rwkvclip_eval": "rwkvclip_eval.cli.main", "rwkvclip_train": "rwkvclip_train.cli"}


def _run(program: str) -> NoReturn:
    """Call the entry point and end as `python -m PROGRAM` does, but for taking the interpreter apart.

    That is seconds for all that is imported, and says nothing of the program.
    """
    code: Any = 0
    try:
        sys.modules[ENTRY[program]].main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve()
