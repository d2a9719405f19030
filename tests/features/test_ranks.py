"""What the ranks of one run say to each other: shares, answers, failures, silence."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import torch.distributed as dist
import yaml
from PIL import Image

import rwkvclip_eval as rc
from rwkvclip_eval import console
from rwkvclip_eval.errors import DamagedData, UserError
from rwkvclip_eval.features import ranks as distributed
from rwkvclip_eval.features.options import EncodeOptions
from rwkvclip_eval.features.ranks import Job, PeerFailed, Ranks, TorchrunRanks, join_ranks
from rwkvclip_eval.features.torchrun import TorchrunEngine
from rwkvclip_eval.run.helper import help_suite
from rwkvclip_eval.run.options import RunContext

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STARTS = range(0, 100, 4)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Show life every 50 ms, and speak again after a test in which another rank did."""
    monkeypatch.setattr(distributed, "BEAT_S", 0.05)
    monkeypatch.setattr(console, "_silent", False)
    yield


def announce(ranks: TorchrunRanks) -> list[range]:
    return ranks.announce(split="test", key="k", folder="f", batch_size=4, starts=STARTS)


def help_once(store: dist.Store, rank: int, size: int) -> tuple[list[Job], list[range], int]:
    """Be a rank that answers jobs, with its first row missing, until it is dismissed."""
    jobs, done = [], []
    with TorchrunRanks(store, rank=rank, size=size) as ranks:
        while job := ranks.next_job():
            jobs.append(job)
            for rows in ranks.share(job):
                done.append(rows)
                ranks.count(len(rows))
            ranks.answer({done[0].start: f"rank {rank}"})
        return jobs, done, ranks.exit_code


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_ranks_encode_every_batch_of_one_process_once_between_them(size: int) -> None:
    store, counts = dist.HashStore(), []
    with ThreadPoolExecutor() as pool, TorchrunRanks(store, rank=0, size=size) as ranks:
        others = [pool.submit(help_once, store, rank, size) for rank in range(1, size)]
        ranks.working_on = ("model", "unit")
        mine = announce(ranks)
        for rows in mine:
            ranks.count(len(rows))
        missing = ranks.gather(counts.append)
        assert ranks.count(0) == 100
        ranks.dismiss(3)
        helped = [other.result(timeout=30) for other in others]
    shares = [mine, *(done for _, done, _ in helped)]
    assert sorted((rows for share in shares for rows in share), key=lambda rows: rows.start) == [
        range(start, start + 4) for start in STARTS
    ]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert missing == {share[0].start: f"rank {rank}" for rank, share in enumerate(shares) if rank}
    for jobs, _, code in helped:
        assert [(job.model, job.unit, job.key) for job in jobs] == [("model", "unit", "k")]
        assert code == 3
    assert counts == sorted(counts)


def test_a_rank_that_fails_stops_the_others_with_its_code_and_speaks_alone() -> None:
    store = dist.HashStore()

    def fail() -> None:
        with TorchrunRanks(store, rank=1, size=2) as ranks:
            ranks.next_job()
            raise DamagedData("no")

    with ThreadPoolExecutor() as pool:
        other = pool.submit(fail)
        with pytest.raises(PeerFailed) as stopped, TorchrunRanks(store, rank=0, size=2) as ranks:
            announce(ranks)
            assert isinstance(other.exception(timeout=30), DamagedData)
            assert not console._silent
            ranks.gather(lambda rows: None)
    assert stopped.value.exit_code == DamagedData.exit_code
    assert console._silent


def test_a_rank_that_shows_no_life_is_given_up_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "SILENCE_S", 0.5)
    with (
        pytest.raises(UserError, match="Rank 1 of 2 has not been heard of"),
        TorchrunRanks(dist.HashStore(), rank=0, size=2) as ranks,
    ):
        announce(ranks)
        ranks.gather(lambda rows: None)


def test_a_rank_waits_for_another_that_lives_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "SILENCE_S", 0.5)
    store, ready = dist.HashStore(), threading.Event()

    def lead() -> None:
        with TorchrunRanks(store, rank=0, size=2) as ranks:
            ready.set()
            time.sleep(2.5)
            ranks.dismiss(0)

    with ThreadPoolExecutor() as pool:
        other = pool.submit(lead)
        ready.wait(timeout=30)
        assert help_once(store, 1, 2) == ([], [], 0)
        other.result(timeout=30)


def test_without_torchrun_there_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")  # as job schedulers set it
    with join_ranks() as ranks:
        assert (ranks.rank, ranks.size, ranks.device("cuda")) == (0, 1, "cuda")


def test_each_rank_has_a_gpu_of_its_own_unless_one_is_named() -> None:
    ranks = TorchrunRanks(dist.HashStore(), rank=5, size=8, local_rank=1, local_size=4)
    assert [ranks.device(name) for name in ("cuda", "cuda:3", "cpu")] == ["cuda:1", "cuda:3", "cpu"]


def sets_of_images(base: Path, black: int) -> Path:
    """Write a suite of two sets of twelve images; number `black` of the first is black."""
    tasks = []
    for name in ("dark", "light"):
        for i in range(12):
            folder = base / name / ("only" if i < 6 else "other")
            folder.mkdir(parents=True, exist_ok=True)
            shade = 0 if (name, i) == ("dark", black) else 100 + i
            Image.new("RGB", (8, 8), (shade, shade, shade)).save(folder / f"{i:02d}.png")
        dataset = {"name": name, "folder": name, "templates": ["{c}"]}
        tasks.append({"task": "zero_shot_classification", "datasets": [dataset]})
    (base / "suite.yaml").write_text(yaml.safe_dump({"name": "shades", "tasks": tasks}))
    return base / "suite.yaml"


@pytest.mark.parametrize(
    ("size", "black"),
    [(1, 5), (2, 1), (2, 3)],
    ids=["alone", "where rank 0 encodes", "where rank 1 encodes"],
)
def test_a_set_that_cannot_be_encoded_fails_alone_and_the_same_run_tries_it_again(
    size: int, black: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = sets_of_images(tmp_path, black)
    models = ["python:toy_factory:afraid_of_black"]

    options = rc.RunOptions(cache_dir=tmp_path / "c", encode=EncodeOptions(batch_size=2))

    def lead(ranks: Ranks) -> tuple[rc.RunSummary, int]:
        context = RunContext()
        summary = rc.run_suite(suite, models, tmp_path / "run", options=options, context=context, ranks=ranks)
        ranks.dismiss(summary.exit_code)
        return summary, context.timings.images

    def helping(store: dist.Store) -> int:
        with TorchrunRanks(store, rank=1, size=2) as ranks:
            engine = TorchrunEngine(ranks, options.encode)
            assert help_suite(suite, models, engine=engine, options=options) in (0, 3)
            return engine.context.timings.images

    def command() -> tuple[rc.RunSummary, int]:
        """Return the summary, and how many images all ranks encoded."""
        if size == 1:
            return lead(Ranks())
        store = dist.HashStore()
        with ThreadPoolExecutor() as pool, TorchrunRanks(store, rank=0, size=2) as ranks:
            other = pool.submit(helping, store)
            summary, images = lead(ranks)
            return summary, images + other.result(timeout=30)

    summary, before = command()
    assert summary.exit_code == 3
    reasons = {r.dataset: r.reason for r in summary.records}
    assert "NaN or infinity in the image embeddings" in reasons["dark"]
    assert reasons["dark"].endswith(f"Images: only/{black:02d}.png.")
    assert {r.dataset: r.status for r in summary.records} == {"dark": "failed", "light": "ok"}

    monkeypatch.setenv("TOY_BRAVE", "1")
    summary, after = command()
    assert summary.exit_code == 0
    assert {r.dataset: r.n for r in summary.records} == {"dark": 12, "light": 12}
    assert (summary.num_skipped, before + after) == (1, 24)
