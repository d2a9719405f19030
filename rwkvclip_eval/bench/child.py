"""The process that holds one model and does what it is told: count, warm up, measure.

    python -m rwkvclip_eval.bench.child '{"spec": …, "device": …, "precision": …, …}'  (see `_Server`)

reads one JSON object a line from its standard input and answers each with one on its standard output. A
process of its own, so that running out of memory or a crash costs one cell of one model.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rwkvclip_eval.errors import UserError, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STABLE = 0.1
"""Warm-up ends once two calls in a row took times within this of each other…"""
WARM_UP_S = 5.0
"""…or after this long, and two calls."""
LEAST_CALLS = 3
"""Of a turn, unless they take as many times as long as the turn."""
MOST_CALLS = 10_000
_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "status_alloc_failed",
)
"""In what libraries say when memory ends."""


def main(arguments: dict[str, Any], answers: TextIO) -> None:
    """Load the model, say so, then answer commands until there are no more."""
    try:
        server = _Server(**arguments)
    except Exception as error:  # whatever a model does not like is this cell's outcome
        _answer(answers, _failure(error))
        return
    _answer(answers, server.facts)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            found = getattr(server, f"do_{command.pop('do')}")(**command)
        except Exception as error:  # as above
            found = _failure(error)
        _answer(answers, found)


def _answer(answers: TextIO, found: dict[str, Any]) -> None:
    answers.write(json.dumps(found) + "\n")
    answers.flush()


def _failure(error: Exception) -> dict[str, Any]:
    said = shortened(str(error) or type(error).__name__, 1000)
    memory = isinstance(error, MemoryError) or any(words in said.lower() for words in _NO_MEMORY)
    possible = "out_of_memory" if memory else "not_possible" if isinstance(error, UserError) else "crashed"
    text = said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"
    return {"failed": possible, "reason": text}


class _Server:
    def __init__(
        self,
        spec: str,
        device: str,
        precision: str,
        implementation: str,
        threads: int,
        plugins: Sequence[str] = (),
    ) -> None:
        import torch

        from rwkvclip_eval.bench.heap import trim_heap
        from rwkvclip_eval.bench.subject import Subject
        from rwkvclip_eval.encoders import load_encoder
        from rwkvclip_eval.encoders.load import import_adapter
        from rwkvclip_eval.registry import run_plugin

        for path in plugins:
            run_plugin(Path(path))
        torch.set_num_threads(threads)
        self._device = device
        if device.startswith("cuda:"):
            # Events, waits and counts of memory are of the current one.
            torch.cuda.set_device(device)
        uuid = torch.cuda.get_device_properties(device).uuid if device.startswith("cuda") else ""
        import_adapter(spec)
        start = time.perf_counter()
        encoder = load_encoder(spec, device, precision, implementation=implementation, offline=True)
        self._subject = Subject(encoder)
        # What loading freed but the allocator keeps would hide as much of what a call takes.
        trim_heap()
        info = encoder.info
        self.facts = {
            "load_s": time.perf_counter() - start,
            "model": info.name,
            "spec": info.spec,
            "implementation": info.implementation,
            "num_parameters": info.num_parameters,
            "fingerprint": info.fingerprint,
            "image_size_px": list(info.image_size_px),
            "context_length": info.context_length,
            "patch_px": self._subject.patch_px,
            "gpu_uuid": str(uuid),
            "loaded_bytes": torch.cuda.memory_allocated() if device.startswith("cuda") else None,
        }
        self._call: Callable[[], object] = lambda: None
        self._call_s = 0.0

    def do_count(self, cells: list[dict[str, Any]]) -> dict[str, Any]:
        """Return FLOPs of each cell, or why the model cannot do it; nothing can be measured afterwards."""
        from rwkvclip_eval.records.efficiency import Cell

        self._subject.drop_weights()
        found = []
        for cell in cells:
            try:
                found.append({"flops": self._subject.count_flops(Cell(**cell))})
            except Exception as error:  # one cell's trouble
                found.append(_failure(error) | {"flops": None})
        return {"cells": found}

    def do_prepare(self, cell: dict[str, Any]) -> dict[str, Any]:
        """Make a cell's call, and make it until its times are stable."""
        from rwkvclip_eval.bench.parts import attention_kernels
        from rwkvclip_eval.records.efficiency import Cell

        self._call = self._subject.call(Cell(**cell))
        self._wait()
        start = time.perf_counter()
        times = self._timed(1)
        first = time.perf_counter() - start
        kernels: list[str] = []
        began = time.perf_counter()
        if not cell["compiled"]:
            kernels = attention_kernels(self._call)
            self._wait()
            times.append(time.perf_counter() - began)
        while True:
            times += self._timed(1)
            steady = len(times) > 2 and abs(times[-1] - times[-2]) <= STABLE * times[-2]
            if steady or time.perf_counter() - began > WARM_UP_S:
                break
        self._reset_peak()
        self._call_s = times[-1]
        return {
            "first_call_s": first,
            "warm_up_calls": len(times),
            "seconds": times[-1],
            "attention_kernels": ", ".join(kernels),
        }

    def do_measure(self, seconds: float) -> dict[str, Any]:
        """Make the call for so long, or up to three times as long for three calls; at least once."""
        # Of a GPU's calls those that the time takes are waited for at once, up to ten.
        at_once = 1
        if self._device.startswith("cuda"):
            at_once = max(1, min(10, int(seconds / max(self._call_s, 1e-6))))
        times: list[float] = []
        start = time.perf_counter()
        while len(times) < MOST_CALLS:
            spent = time.perf_counter() - start
            if times and spent >= (seconds if len(times) >= LEAST_CALLS else LEAST_CALLS * seconds):
                break
            times += self._timed(at_once)
        return {"seconds": times, **self._peaks()}

    def do_fit(self, cell: dict[str, Any], budget_bytes: int | None) -> dict[str, Any]:
        """Make a cell's call, the whole process held to so much memory where the system can.

        Once; a training step twice, for AdamW's moments lie beside the second's gradients.
        """
        from rwkvclip_eval.records.efficiency import Cell

        if budget_bytes is not None:
            _hold_to(budget_bytes)
        self._call = self._subject.call(Cell(**cell))
        self._timed(2 if cell["tower"] == "train" else 1)
        return {}

    def do_parts(self, cell: dict[str, Any], calls: int, usual: float) -> dict[str, Any]:
        """Take a prepared forward pass that usually takes so many seconds apart; nothing can follow."""
        from rwkvclip_eval.bench.parts import bytes_of, seconds_of
        from rwkvclip_eval.records.efficiency import Cell

        module = self._subject.towers.module

        def clock() -> float:
            self._wait()
            return time.perf_counter()

        seconds = seconds_of(self._call, module, clock, calls, usual)
        moved = bytes_of(self._call, module)
        self._subject.drop_weights()
        flops, note = {}, ""
        try:
            flops = self._subject.flops_by_part(Cell(**cell))
        except Exception as error:  # times and bytes are known all the same
            note = f"their FLOPs could not be counted: {_failure(error)['reason']}"
        names = sorted(seconds, key=lambda name: -seconds[name])
        return {
            "parts": [
                {
                    "name": name,
                    "seconds": seconds[name],
                    "flops": flops.get(name, 0),
                    "bytes": int(moved.get(name, 0)),
                }
                for name in names
            ],
            "note": note,
        }

    def do_ceiling(self, precision: str, seconds: float) -> dict[str, Any]:
        """Return the most FLOP/s of square products of this precision, and bytes/s of a copy.

        Each over so many seconds; bytes read and written.
        """
        import torch

        from rwkvclip_eval.encoders.arithmetic import arithmetic, product_dtype

        side = 2048 if self._device.startswith("cpu") else 8192
        device, dtype = torch.device(self._device), product_dtype(precision)
        # No conversion counts.
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

        def product() -> None:
            with torch.inference_mode(), arithmetic(device, precision):
                torch.nn.functional.linear(a, b)

        source = torch.zeros(256 << 20, dtype=torch.uint8, device=self._device)
        target = torch.zeros_like(source)
        return {
            "flops_per_second": 2 * side**3 / self._least(product, seconds),
            "bytes_per_second": 2 * len(source) / self._least(lambda: target.copy_(source), seconds / 4),
        }

    def _least(self, call: Callable[[], object], seconds: float) -> float:
        """Return the least time of a call over so many seconds."""
        self._call = call
        # A processor's may take as long as all the seconds.
        at_once = 3 if self._device.startswith("cuda") else 1
        self._timed(at_once)
        times: list[float] = []
        start = time.perf_counter()
        while not times or time.perf_counter() - start < seconds:
            times += self._timed(at_once)
        return min(times)

    def _timed(self, calls: int) -> list[float]:
        """Return seconds of each of so many calls: by events on a GPU, one wait at the end."""
        if self._device.startswith("cuda"):
            import torch

            # torch declares no types for it.
            events = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]  # type: ignore[no-untyped-call]
            events[0].record()
            for event in events[1:]:
                self._call()
                event.record()
            torch.cuda.synchronize()
            return [one.elapsed_time(other) / 1e3 for one, other in itertools.pairwise(events)]
        found = []
        for _ in range(calls):
            start = time.perf_counter()
            self._call()
            self._wait()
            found.append(time.perf_counter() - start)
        return found

    def _wait(self) -> None:
        if not self._device.startswith("cpu"):
            import torch

            (torch.mps if self._device.startswith("mps") else torch.cuda).synchronize()

    def _reset_peak(self) -> None:
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats()

    def _peaks(self) -> dict[str, int]:
        if not self._device.startswith("cuda"):
            return {}
        import torch

        return {
            "allocated_bytes": torch.cuda.max_memory_allocated(),
            "reserved_bytes": torch.cuda.max_memory_reserved(),
        }


def _hold_to(budget_bytes: int) -> None:
    """Have the system refuse memory beyond so much of this process, where it can (Linux)."""
    try:
        import resource

        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except (ImportError, OSError):
        return
    held = {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (line.partition(":") for line in lines)
        if name in ("VmRSS", "VmData")
    }
    limit = held["VmData"] + max(0, budget_bytes - held["VmRSS"])
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


if __name__ == "__main__":
    # Whatever libraries print must not be taken for an answer.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    main(json.loads(sys.argv[1]), stream)
