"""The processes of one training run, as `torchrun` starts them; a run without it is one process.

All of them come to the same decisions from the same sums, so that none waits for another that has left. The
first that fails says why, and a process that loses another ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist

from rwkvclip_eval import console
from rwkvclip_eval.errors import UserError, shortened, shown
from rwkvclip_eval.schema import whole_number
from rwkvclip_models.device import resolve_device
from rwkvclip_train.order import keys_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

    from rwkvclip_train.data.pairs import Batch

JOIN_S = 300.0
"""How long the processes wait for each other at the start."""

SILENCE_S = 1800.0
"""How long one waits for the others afterwards: while rank 0 writes a checkpoint."""

LOOK_S = 3.0
"""How long one that failed waits for the others to see that it has said why."""

LED_POLL_S = 0.25
"""How often one that waits for rank 0 however long it takes asks whether it is done."""

_NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_AGAIN = "Start the same command again; it goes on from the last checkpoint."


class Ranks:
    """The processes of a run, seen from one of them; this class is the run that has only one.

    Args:
        device: of this process.

    Attributes:
        rank: number of this process; 0 writes and speaks.
        size: number of processes.
    """

    rank = 0
    size = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def data_parallel(self, module: nn.Module, *, unused: bool) -> nn.Module:
        """Return `module` as it is to be called; its gradients are then the mean over all ranks.

        Its `logit_scale`, which the objective takes beside the embeddings, is left to `average`.

        Args:
            module: on this rank's device.
            unused: some parameters may have no part in the embeddings.
        """
        return module

    def average(self, tensor: torch.Tensor | None) -> None:
        """Replace a tensor by its mean over all ranks."""

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows of all ranks in their order; gradients reach this rank's."""
        return rows

    def sum(self, values: list[float]) -> list[float]:
        """Return the sums over all ranks of float64 values."""
        return values

    def wait(self) -> None:
        """Wait until every rank is here."""

    def led(self, work: Callable[[], None]) -> None:
        """Have rank 0 alone do something; the others wait until it has, however long that takes.

        Raises:
            UserError: rank 0 has failed.
        """
        work()

    def agree(self, value: Any, what: str) -> None:
        """Refuse to go on where the ranks do not see the same.

        Raises:
            UserError: `value` is another one on another rank.
        """

    def say_once(self, error: BaseException) -> None:
        """Silence this rank where another has said what is wrong."""


class TorchrunRanks(Ranks):
    """The processes that one `torchrun`, or one on each of several machines, started.

    Args:
        device: of this process.
        store: that all of them reach.
    """

    def __init__(self, device: torch.device, store: Any) -> None:
        super().__init__(device)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._store = store
        self._num_led = 0
        self._said = False

    def data_parallel(self, module: nn.Module, *, unused: bool) -> nn.Module:
        """Return `module` in DistributedDataParallel, its `logit_scale` left out."""
        scale = module.logit_scale
        assert isinstance(scale, torch.Tensor)
        learned = scale.requires_grad
        # What needs no gradient when the wrapper is made is none of its business.
        scale.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in module.parameters()):
            scale.requires_grad_(learned)
            return module
        wrapped = nn_parallel(module, self.device, unused=unused)
        scale.requires_grad_(learned)
        return wrapped

    def average(self, tensor: torch.Tensor | None) -> None:
        """Replace a tensor by its mean over all ranks."""
        if tensor is not None:
            dist.all_reduce(tensor)
            tensor /= self.size

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows of all ranks in their order; gradients reach this rank's."""
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        dist.all_gather(parts, rows.detach())
        parts[self.rank] = rows
        return torch.cat(parts)

    def sum(self, values: list[float]) -> list[float]:
        """Return the sums over all ranks of float64 values."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        summed: list[float] = tensor.tolist()
        return summed

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.sum([0.0])

    def led(self, work: Callable[[], None]) -> None:
        """Have rank 0 alone do something; the others wait until it has, however long that takes.

        They ask the store: no exchange is under way whose time could run out.

        Raises:
            UserError: rank 0 has failed.
        """
        self._num_led += 1
        done = f"led/{self._num_led}"
        if self.rank == 0:
            try:
                work()
            except BaseException as error:  # Ctrl-C too: the others must not wait for this one.
                self.say_once(error)
                self._store.set(done, "failed")
                # The store may go with this process: the others are to see it there first.
                time.sleep(2 * LED_POLL_S)
                raise
            self._store.set(done, "done")
        while not self._store.check([done]):
            time.sleep(LED_POLL_S)
        if self._store.get(done) != b"done":
            raise UserError(f"Rank {self.rank} of {self.size} lost the others (rank 0 failed). {_AGAIN}")
        # Nor may rank 0 end, and the store with it, before all have seen that it is done.
        self.wait()

    def agree(self, value: Any, what: str) -> None:
        """Refuse to go on where the ranks do not see the same.

        Raises:
            UserError: `value` is another one on another rank.
        """
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        others = [rank for rank in range(self.size) if values[rank] != values[0]]
        if others:
            raise UserError(
                f"Rank {others[0]} of {self.size} sees another {what} than rank 0 "
                f"({shown(values[others[0]])}, not {shown(values[0])}): all processes need the same "
                "recipe, data and --out, on a file system that they share."
            )

    def say_once(self, error: BaseException) -> None:
        """Silence this rank where another has said what is wrong."""
        code = getattr(error, "exit_code", 1)
        if self._said:
            return
        self._said = True
        try:
            first = int(self._store.add("failures", 1)) == 1
        except RuntimeError:  # The store went with the first process, which held it.
            first = self.rank <= 1
        if not first and code:
            console.silence()

    def leave(self) -> None:
        """After an error, keep the store, which may be this process's, until all have looked into it."""
        end = time.monotonic() + LOOK_S
        with contextlib.suppress(RuntimeError):
            while self._said and time.monotonic() < end and int(self._store.add("failures", 0)) < self.size:
                time.sleep(0.02)


def nn_parallel(module: nn.Module, device: torch.device, *, unused: bool) -> nn.Module:
    """Return `module` in DistributedDataParallel on `device`."""
    from torch.nn.parallel import DistributedDataParallel

    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(
        module, device_ids=ids, gradient_as_bucket_view=True, find_unused_parameters=unused
    )


def is_one_of_many() -> bool:
    """Whether the environment says that this process is one of several of a run."""
    # Job schedulers set WORLD_SIZE as well, and no address.
    return ("TORCHELASTIC_RUN_ID" in os.environ or all(name in os.environ for name in _NAMES)) and (
        _count("WORLD_SIZE", least=1) > 1
    )


@contextlib.contextmanager
def join_ranks(device: str) -> Iterator[Ranks]:
    """Yield this process's place among those of its run, each on a device of its own.

    Where the block fails, the first rank that does is the one whose error is printed.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, `mps`; of several processes, `cuda` is a GPU for each.

    Raises:
        UserError: there is no such device, the others do not come, or the environment does not say who they
            are.
    """
    if not is_one_of_many():
        yield Ranks(resolve_device(device))
        return
    size, rank, local_rank = _count("WORLD_SIZE", least=1), _count("RANK"), _count("LOCAL_RANK", default="0")
    _count("MASTER_PORT")
    if rank >= size:
        raise UserError(f"The environment says RANK {rank} of WORLD_SIZE {size}; ranks count from 0.")
    own = resolve_device(f"cuda:{local_rank}" if device == "cuda" else device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    store = _store(rank, size)
    backend = "nccl" if own.type == "cuda" else "gloo"
    ranks: TorchrunRanks | None = None
    try:
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=SILENCE_S)
        )
        ranks = TorchrunRanks(own, store)
        yield ranks
    except BaseException as error:  # Ctrl-C too: the others are told whatever ended this one.
        lost = _as_lost(error, rank, size)
        if ranks is not None:
            ranks.say_once(lost)
        if lost is error:
            raise
        raise lost from error
    finally:
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()
        if ranks is not None:
            ranks.leave()


def _store(rank: int, size: int) -> Any:
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # public, unlisted
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=JOIN_S)))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return PrefixStore(attempt, store)
    except (RuntimeError, ValueError, OSError) as error:
        said = _first_line(error)
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        if "EADDRINUSE" in str(error) or "in use" in str(error).lower():
            raise UserError(
                f"Port {os.environ.get('MASTER_PORT')} is in use on this machine, and rank 0 needs it for "
                "the others: give torchrun another --master-port (or --standalone, which finds one)."
            ) from error
        raise UserError(
            f"Rank {rank} of {size} does not reach the others at {address} ({said}): check the network "
            "between the machines, or use one."
        ) from error


def _as_lost(error: BaseException, rank: int, size: int) -> BaseException:
    """Return what to tell the user of an error that a vanished process of the run has caused."""
    if not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError):
        return error
    said = str(error)
    if not isinstance(error, dist.DistError) and not any(
        word in said
        for word in ("gloo", "Gloo", "NCCL", "ProcessGroup", "Connection closed", "Connection reset")
    ):
        return error
    return UserError(f"Rank {rank} of {size} lost the others ({_first_line(error)}). {_AGAIN}")


def _count(name: str, least: int = 0, default: str = "") -> int:
    """Return a whole number that torchrun puts into the environment.

    Raises:
        UserError: it is none.
    """
    text = os.environ.get(name, default)
    number = whole_number(text)
    if number is None or number < least:
        raise UserError(
            f"The environment variable {name} must be a whole number of at least {least}, got {shown(text)}. "
            "torchrun sets it; without torchrun, unset TORCHELASTIC_RUN_ID, RANK and WORLD_SIZE."
        )
    return number


def _first_line(error: BaseException) -> str:
    return shortened(str(error).strip().partition("\n")[0], 300)


class StopSignal:
    """Notes SIGTERM while the block runs, for the loop to stop after the step that is under way.

    Further signals change nothing: schedulers, torchrun and shells may each send their own. Outside the main
    thread, where Python lets nobody listen, nothing is noted.

    Attributes:
        requested: whether one came.
    """

    requested = False

    def __enter__(self) -> StopSignal:
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Having stopped for a signal, this process leaves on its own; torchrun may send some more.
        if self._before is not None and not (self.requested and kind is not None):
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_: object) -> None:
        self.requested = True


class Facts(NamedTuple):
    """What every rank knows of a step.

    Attributes:
        epoch: of its batch.
        digest: of the keys that all ranks got, see `keys_digest`.
        texts: kind of text → its share of the batch, of kinds that occur.
        stopping: whether any rank was asked to stop.
    """

    epoch: int
    digest: int
    texts: dict[str, float]
    stopping: bool


def shared_facts(
    ranks: Ranks, batches: Sequence[Batch], batch_size: int, kinds: Sequence[str], stop: StopSignal
) -> Facts:
    """Exchange what ranks know of a step, the only time in a step: they decide alike, from equal sums.

    Args:
        ranks: of the run.
        batches: of this rank's passes.
        batch_size: of all ranks.
        kinds: of text, the same on every rank.
        stop: of this rank.
    """
    keys = torch.cat([batch.keys for batch in batches]).numpy()
    digest = keys_digest(keys[:, 0], keys[:, 1], ranks.rank * (batch_size // ranks.size))
    drawn = Counter(kind for batch in batches for kind in batch.kinds)
    # Float64 holds sums of 32-bit halves exactly.
    halves = [float(digest >> 32), float(digest & 0xFFFFFFFF)]
    high, low, stops, *counts = ranks.sum([*halves, float(stop.requested), *(float(drawn[k]) for k in kinds)])
    texts = {kind: round(n / batch_size, 6) for kind, n in zip(kinds, counts, strict=True) if n}
    return Facts(int(keys[0, 0]), ((int(high) << 32) + int(low)) % 2**64, texts, stops > 0)
