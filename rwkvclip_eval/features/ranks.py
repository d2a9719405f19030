"""Several processes that encode for one run, as `torchrun` starts them, one per GPU.

Rank 0 runs the suite as a single process would. Whenever a split must be encoded it announces a job, every
rank encodes its share of the batches into the same entry of the feature store, and rank 0 goes on once all
have answered; the others hold no lock, score nothing and write no result. Messages are keys of the store that
torchrun keeps for its processes. They are asked for by polling, never by a collective, so that nobody waits
for ever: each rank shows every few seconds that it lives, and the first that fails leaves a mark that stops
the others. A share that cannot be encoded (`EncodingFailed`) is an answer instead: it ends the job alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
import zlib
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.errors import EncodingFailed, UserError, shown
from rwkvclip_eval.schema import whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

BEAT_S = 5.0
"""Each rank shows this often that it lives."""

SILENCE_S = 120.0
"""A rank that did not for this long is given up: longer than any library holds the interpreter."""

JOIN_S = 300.0
"""How long the ranks wait for each other at the start."""

_POLL_S = 0.05
_AGAIN = "Start the same command again; finished batches are kept."
_INTERRUPTED = 130


class PeerFailed(UserError):
    """Another rank failed and has told the user why."""

    def __init__(self, code: int) -> None:
        super().__init__("Another process of this run failed; its message says why.")
        self.exit_code = code


@dataclass(frozen=True, kw_only=True)
class Job:
    """One split to encode, in terms every rank understands.

    Attributes:
        model: display name of the encoder.
        unit: name of a unit that needs the split, without the model.
        split: the split's name.
        key: of the store entry; a rank that arrives at another has other weights or data.
        folder: the unfinished entry, which rank 0 has made.
        batch_size: images per batch.
        starts: first rows of the batches that are not on disk yet.
    """

    model: str
    unit: str
    split: str
    key: str
    folder: str
    batch_size: int
    starts: Sequence[int]


class Ranks:
    """The processes of one run, seen from one of them; this class is the run that has only one.

    Attributes:
        rank: number of this process; 0 leads.
        size: number of processes.
        local_size: those of them on this machine.
    """

    rank = 0
    size = 1
    local_size = 1

    def device(self, name: str) -> str:
        """Return the device of this process, given what the user asked for."""
        return name

    def dismiss(self, code: int) -> None:
        """Have the others leave with exit code `code`."""


class TorchrunRanks(Ranks):
    """The processes that one `torchrun` started.

    Args:
        store: torch.distributed store that all of them reach.
        rank: of this process.
        size: number of processes.
        local_rank: number of this process on its machine.
        local_size: processes on this machine.

    Attributes:
        working_on: (model, unit) that rank 0 is at, for the job it announces.
    """

    def __init__(self, store: Any, *, rank: int, size: int, local_rank: int = 0, local_size: int = 1) -> None:
        self.working_on = ("", "")
        self.rank, self.size, self.local_size = rank, size, local_size
        self.exit_code = 0
        self._local_rank = local_rank
        self._store = store
        self._job = 0
        self._heard = {other: (0, time.monotonic()) for other in range(size) if other != rank}
        self._checked = 0.0
        self._left = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="rank-beats", daemon=True)

    def __enter__(self) -> TorchrunRanks:
        self._beats.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if error is not None and not self._claim(error):
                from rwkvclip_eval import console

                console.silence()
        finally:
            self._left.set()
            self._beats.join(timeout=BEAT_S)

    def device(self, name: str) -> str:
        """Return cuda:LOCAL_RANK for `cuda`, other names as they are."""
        return f"cuda:{self._local_rank}" if name == "cuda" else name

    def announce(
        self, *, split: str, key: str, folder: str, batch_size: int, starts: Sequence[int]
    ) -> list[range]:
        """Have the others join in; return the batches of this rank as ranges of one batch size."""
        model, unit = self.working_on
        job = Job(
            model=model,
            unit=unit,
            split=split,
            key=key,
            folder=folder,
            batch_size=batch_size,
            starts=list(starts),
        )
        self._job += 1
        self._put(f"job/{self._job}", asdict(job))
        return self.share(job)

    def share(self, job: Job) -> list[range]:
        """Return the batches of a job that are this rank's: every size-th, so that all finish together."""
        return [range(start, start + job.batch_size) for start in job.starts[self.rank :: self.size]]

    def count(self, rows: int) -> int:
        """Add `rows` that are on disk; return how many all ranks have put there since the announcement."""
        self._check_others()
        with self._reaching():
            return int(self._store.add(f"rows/{self._job}", rows))

    def gather(self, on_count: Callable[[int], None]) -> dict[int, str]:
        """Wait until the others have finished the job; return row → reason of what they could not decode.

        Args:
            on_count: told how many rows all ranks have put on disk.

        Raises:
            EncodingFailed: another rank could not encode its share; all have answered nevertheless.
            UserError: another rank failed or is gone.
        """
        missing: dict[int, str] = {}
        failures: list[str] = []
        for other in range(1, self.size):
            answer = self._await(f"answer/{self._job}/{other}", lambda: on_count(self.count(0)))
            missing |= {int(row): reason for row, reason in answer["missing"].items()}
            failures += [answer["failure"]] if answer["failure"] else []
        if failures:
            raise EncodingFailed(failures[0])
        return missing

    def next_job(self) -> Job | None:
        """Return what rank 0 announces next; None once it dismissed this rank, `exit_code` is then set."""
        self._job += 1
        announced = self._await(f"job/{self._job}", self._check_others)
        if "dismissed" not in announced:
            return Job(**announced)
        self.exit_code = announced["dismissed"]
        _leave_quietly()
        with contextlib.suppress(RuntimeError):
            self._store.add("left", 1)
        return None

    def answer(self, missing: dict[int, str], failure: str = "") -> None:
        """Tell rank 0 that this rank's share of the job is on disk, or why it cannot be."""
        self._put(f"answer/{self._job}/{self.rank}", {"missing": missing, "failure": failure})

    def dismiss(self, code: int) -> None:
        """Have the others leave with exit code `code`."""
        _leave_quietly()
        self._job += 1
        self._put(f"job/{self._job}", {"dismissed": code})
        # Rank 0 may be the one that hosts the store.
        deadline = time.monotonic() + BEAT_S
        with contextlib.suppress(RuntimeError):
            while int(self._store.add("left", 0)) < self.size - 1 and time.monotonic() < deadline:
                time.sleep(_POLL_S)

    def _put(self, key: str, value: Any) -> None:
        with self._reaching():
            # The store refuses values of more than 8 MiB.
            self._store.set(key, zlib.compress(json.dumps(value).encode()))

    def _await(self, key: str, meanwhile: Callable[[], object]) -> dict[str, Any]:
        while True:
            with self._reaching():
                if self._store.check([key]):
                    found: dict[str, Any] = json.loads(zlib.decompress(self._store.get(key)))
                    return found
            meanwhile()
            time.sleep(_POLL_S)

    def _check_others(self) -> None:
        """Raise where another rank failed or is gone; asks once a second at most."""
        now = time.monotonic()
        if now - self._checked < 1.0:
            return
        self._checked = now
        with self._reaching():
            if self._store.check(["failed"]):
                raise PeerFailed(int(self._store.get("failed")))
            # Rank 0 watches all; the others wait for rank 0 alone.
            for other in self._heard if self.rank == 0 else (0,):
                beats, since = self._heard[other]
                new = int(self._store.add(f"beats/{other}", 0))
                if new != beats:
                    self._heard[other] = (new, now)
                elif now - since > SILENCE_S:
                    raise UserError(
                        f"Rank {other} of {self.size} has not been heard of for {now - since:.0f} s. {_AGAIN}"
                    )

    def _claim(self, error: BaseException) -> bool:
        """Mark the run failed; return whether this rank is the first and thus the one to say why."""
        code = _INTERRUPTED if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
        try:
            if int(self._store.add("failures", 1)) > 1:
                return False
            self._store.set("failed", str(code))
        except RuntimeError:  # The store went with the process that held it.
            return self.rank == 0
        return True

    def _beat(self) -> None:
        with contextlib.suppress(RuntimeError):
            while True:
                self._store.add(f"beats/{self.rank}", 1)
                if self._left.wait(BEAT_S):
                    return

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise UserError(
                f"Rank {self.rank} of {self.size} lost the others ({_first_line(error)}). {_AGAIN}"
            ) from error


@contextlib.contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Yield this process's place among those that `torchrun` started, or a single one's without it.

    Where the block fails, all ranks stop, and the first that failed is the only one whose error is printed.

    Raises:
        UserError: the others do not come, or the environment does not say who they are.
    """
    # Job schedulers set WORLD_SIZE as well.
    if "TORCHELASTIC_RUN_ID" not in os.environ or (size := _count("WORLD_SIZE", least=1)) == 1:
        yield Ranks()
        return
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    rank, local_rank = _count("RANK"), _count("LOCAL_RANK")
    local_size, _ = _count("LOCAL_WORLD_SIZE", least=1), _count("MASTER_PORT")
    if rank >= size or local_rank >= local_size:
        raise UserError(
            f"The environment says RANK {rank} of WORLD_SIZE {size}, LOCAL_RANK {local_rank} of "
            f"LOCAL_WORLD_SIZE {local_size}; ranks count from 0. torchrun sets them."
        )
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=JOIN_S)))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"Rank {rank} of {size} does not reach the others ({_first_line(error)}); check the network "
            "between the machines, or use one."
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    with TorchrunRanks(
        dist.PrefixStore(f"rwkvclip-eval/{attempt}", store),  # type: ignore[attr-defined]  # public, unlisted
        rank=rank,
        size=size,
        local_rank=local_rank,
        local_size=local_size,
    ) as ranks:
        yield ranks


def _count(name: str, least: int = 0) -> int:
    """Return a whole number that torchrun puts into the environment.

    Raises:
        UserError: it is none.
    """
    text = os.environ.get(name, "")
    number = whole_number(text)
    if number is None or number < least:
        raise UserError(
            f"The environment variable {name} must be a whole number of at least {least}, got {shown(text)}. "
            "torchrun sets it; without torchrun, unset TORCHELASTIC_RUN_ID."
        )
    return number


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _leave_quietly() -> None:
    # torchrun ends all others as soon as one leaves with a code other than 0; they are leaving already.
    if threading.current_thread() is threading.main_thread():  # no other may set it
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
