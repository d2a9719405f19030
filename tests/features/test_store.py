"""The feature store: encoded once, resumed exactly, never half-written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from toy import ColourDataset, ColourEncoder, engine

from rwkvclip_eval.errors import EncodingFailed, OutputError, UserError
from rwkvclip_eval.features.options import default_num_workers
from rwkvclip_eval.features.store import FeatureStore
from rwkvclip_eval.features.upkeep import clear, entries

if TYPE_CHECKING:
    from collections.abc import Callable

    from rwkvclip_eval.features.engine import LocalEngine

ROOT = Path(__file__).resolve().parents[2]


class StopHere(Exception):
    pass


def stop_after(batches: int) -> LocalEngine:
    calls = 0

    def progress(done: int, total: int, what: str) -> None:
        nonlocal calls
        calls += 1
        if calls > batches:  # the first call announces the start
            raise StopHere

    return engine(batch_size=4, on_progress=progress)


def test_a_split_is_encoded_once_and_read_back_equal(tmp_path: Path) -> None:
    encoder, dataset = ColourEncoder(), ColourDataset()
    first = FeatureStore(tmp_path).images(encoder, dataset, engine(batch_size=4))
    again = FeatureStore(tmp_path).images(encoder, dataset, engine(batch_size=7))
    assert encoder.images == len(dataset)
    np.testing.assert_array_equal(first.embedding, again.embedding)
    np.testing.assert_allclose(np.linalg.norm(first.embedding, axis=1), 1, rtol=1e-6)
    pixels = torch.stack([encoder.preprocess(dataset.image(i)) for i in range(len(dataset))])
    np.testing.assert_allclose(first.probe, pixels.mean((2, 3)).numpy(), atol=1e-6)


def test_an_interrupted_encoding_continues_at_the_next_batch_with_equal_results(tmp_path: Path) -> None:
    whole = FeatureStore(tmp_path / "whole").images(ColourEncoder(), ColourDataset(), engine(batch_size=4))
    with pytest.raises(StopHere):
        FeatureStore(tmp_path / "cut").images(ColourEncoder(), ColourDataset(), stop_after(3))
    encoder = ColourEncoder()
    resumed = FeatureStore(tmp_path / "cut").images(encoder, ColourDataset(), engine(batch_size=4))
    assert encoder.images == 30 - 3 * 4
    np.testing.assert_array_equal(whole.embedding, resumed.embedding)
    np.testing.assert_array_equal(whole.probe, resumed.probe)


def test_a_resumed_encoding_keeps_the_batch_boundaries_it_began_with(tmp_path: Path) -> None:
    with pytest.raises(StopHere):
        FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), stop_after(3))
    encoder = ColourEncoder()
    FeatureStore(tmp_path).images(encoder, ColourDataset(), engine(batch_size=30))
    assert encoder.images == 30 - 3 * 4


def test_a_journal_line_cut_short_costs_that_batch_only(tmp_path: Path) -> None:
    with pytest.raises(StopHere):
        FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), stop_after(3))
    journal = next(tmp_path.rglob("journal.jsonl"))
    journal.write_text(journal.read_text()[:-8])
    encoder = ColourEncoder()
    FeatureStore(tmp_path).images(encoder, ColourDataset(), engine(batch_size=4))
    assert encoder.images == 30 - 2 * 4


def test_an_unfinished_entry_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(StopHere):
        FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), stop_after(3))
    (entry,) = entries(tmp_path)
    assert not entry["complete"]


def test_other_weights_data_or_precision_are_other_entries(tmp_path: Path) -> None:
    store, options = FeatureStore(tmp_path), engine()
    keys = {
        store.images(ColourEncoder(), ColourDataset(), options).key,
        store.images(ColourEncoder("other"), ColourDataset(), options).key,
        store.images(ColourEncoder(), ColourDataset(n=29), options).key,
    }
    assert len(keys) == 3


def test_damaged_images_are_named_and_leave_the_others_in_place(tmp_path: Path) -> None:
    clean = FeatureStore(tmp_path / "clean").images(ColourEncoder(), ColourDataset(), engine(batch_size=4))
    damaged = (0, 5, 29)
    stored = FeatureStore(tmp_path / "bad").images(
        ColourEncoder(), ColourDataset(damaged=damaged), engine(batch_size=4)
    )
    assert stored.missing == {i: f"image-{i:03d} cannot be decoded" for i in damaged}
    kept = [i for i in range(30) if i not in damaged]
    np.testing.assert_array_equal(stored.embedding[kept], clean.embedding[kept])


def test_worker_processes_give_the_same_features(tmp_path: Path) -> None:
    here = FeatureStore(tmp_path / "a").images(ColourEncoder(), ColourDataset(damaged=(3,)), engine())
    workers = FeatureStore(tmp_path / "b").images(
        ColourEncoder(), ColourDataset(damaged=(3,)), engine(num_workers=2)
    )
    np.testing.assert_array_equal(here.embedding, workers.embedding)
    assert here.missing == workers.missing


def test_no_more_processes_decode_than_there_are_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    loader = torch.utils.data.DataLoader

    def counted(*args: Any, **kwargs: Any) -> Any:
        started.append(kwargs["num_workers"])
        return loader(*args, **kwargs)

    monkeypatch.setattr(torch.utils.data, "DataLoader", counted)
    options = engine(batch_size=30, num_workers=1024)
    assert not FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), options).missing
    assert started == [1]


def test_a_decoding_process_that_is_killed_is_said_and_the_batches_before_it_are_kept(tmp_path: Path) -> None:
    class Deadly(ColourDataset):
        def image(self, index: int) -> Any:
            if index == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().image(index)

    options = engine(batch_size=4, num_workers=1)
    with pytest.raises(EncodingFailed, match="A decoding process was killed"):
        FeatureStore(tmp_path).images(ColourEncoder(), Deadly(), options)
    encoder = ColourEncoder()
    FeatureStore(tmp_path).images(encoder, ColourDataset(), engine(batch_size=4))
    assert encoder.images < 30


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (lambda: os._exit(7), "ended with exit code 7 before its work was done: code that it ran"),
        (lambda: sys.exit(3), "ended with exit code 3 before its work was done: code that it ran"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "ended by the signal Segmentation fault before"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), r"was killed \(signal 9\), often for lack of memory"),
    ],
    ids=["os._exit", "sys.exit", "a crash", "a kill"],
)
def test_of_a_decoding_process_that_ends_only_what_is_known_is_said(
    tmp_path: Path, end: Callable[[], object], said: str
) -> None:
    class Ends(ColourDataset):
        def image(self, index: int) -> Any:
            if index == 20:
                end()
            return super().image(index)

    with pytest.raises(EncodingFailed, match=said) as caught:
        FeatureStore(tmp_path).images(ColourEncoder(), Ends(), engine(batch_size=4, num_workers=1))
    assert ("memory" in str(caught.value)) == ("killed" in said)


def test_decoding_takes_cores_that_encoding_leaves() -> None:
    assert [default_num_workers("cpu", cores) for cores in (0, 1, 2, 4, 16, 64)] == [0, 0, 0, 1, 4, 8]
    assert [default_num_workers("cuda", cores) for cores in (1, 4, 64)] == [1, 4, 8]


def test_each_different_text_is_encoded_once(tmp_path: Path) -> None:
    encoder = ColourEncoder()
    rows = FeatureStore(tmp_path).texts(encoder, ["a red one", "a blue one", "a red one"], engine())[
        "embedding"
    ]
    assert encoder.texts == 2
    np.testing.assert_array_equal(rows[0], rows[2])
    assert rows[0].argmax() == 0
    assert rows[1].argmax() == 2


def test_a_shared_store_is_read_and_never_written(tmp_path: Path) -> None:
    FeatureStore(tmp_path / "shared").images(ColourEncoder(), ColourDataset(), engine())
    before = sorted(p for p in (tmp_path / "shared").rglob("*"))
    encoder = ColourEncoder()
    store = FeatureStore(tmp_path / "own", tmp_path / "shared")
    store.images(encoder, ColourDataset(), engine())
    store.images(encoder, ColourDataset(n=12), engine())
    assert encoder.images == 12
    assert sorted(p for p in (tmp_path / "shared").rglob("*")) == before


def test_an_embedding_that_is_not_finite_names_the_image(tmp_path: Path) -> None:
    class Broken(ColourEncoder):
        def encode_image(self, pixels: torch.Tensor) -> Any:
            error = UserError("Embeddings are not finite.")
            error.rows = [1]
            raise error

    with pytest.raises(EncodingFailed, match="image-001"):
        FeatureStore(tmp_path).images(Broken(), ColourDataset(), engine(batch_size=4))


def test_running_out_of_gpu_memory_halves_the_batch_and_says_so(tmp_path: Path) -> None:
    class Small(ColourEncoder):
        def encode_image(self, pixels: torch.Tensor) -> Any:
            if len(pixels) > 3:
                raise torch.cuda.OutOfMemoryError("out of memory")
            return super().encode_image(pixels)

    said: list[str] = []
    options = engine(batch_size=8, on_message=said.append)
    small = FeatureStore(tmp_path / "small").images(Small(), ColourDataset(), options)
    whole = FeatureStore(tmp_path / "whole").images(ColourEncoder(), ColourDataset(), engine(batch_size=8))
    np.testing.assert_allclose(small.embedding, whole.embedding, atol=1e-6)
    assert said[0] == "Out of GPU memory: going on with batches of 4."


def test_a_full_disk_is_one_clear_error_and_keeps_finished_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StopHere):
        FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), stop_after(3))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left on device"):
            FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), engine(batch_size=4))
    encoder = ColourEncoder()
    FeatureStore(tmp_path).images(encoder, ColourDataset(), engine(batch_size=4))
    assert encoder.images <= 30 - 3 * 4


def test_a_store_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--no-cache"):
        FeatureStore(tmp_path / "file").images(ColourEncoder(), ColourDataset(), engine())


def test_clearing_frees_what_is_not_in_use(tmp_path: Path) -> None:
    FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), engine())
    count, freed = clear(tmp_path)
    assert count == 1
    assert freed > 0
    assert entries(tmp_path) == []


@pytest.mark.parametrize("num_workers", [0, 1])
def test_encoding_leaves_the_random_generator_alone(tmp_path: Path, num_workers: int) -> None:
    before = torch.get_rng_state()
    FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), engine(num_workers=num_workers))
    assert torch.equal(before, torch.get_rng_state())


def test_impossible_batch_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="at least 1"):
        engine(batch_size=0)


def damage(folder: Path, how: str) -> None:
    if how == "array cut short":
        os.truncate(folder / "embedding.npy", 200)
    elif how == "array gone":
        (folder / "probe.npy").unlink()
    elif how == "no meta":
        (folder / "meta.json").unlink()
    else:
        (folder / "meta.json").write_text("garbage")


@pytest.mark.parametrize("how", ["array cut short", "array gone", "no meta", "meta garbled"])
def test_a_damaged_entry_is_said_and_encoded_again(tmp_path: Path, how: str) -> None:
    first = FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), engine())
    expected = np.array(first.embedding)
    (entry,) = entries(tmp_path)
    damage(entry["path"], how)
    assert [e["complete"] for e in entries(tmp_path)] == [False]
    said: list[str] = []
    encoder = ColourEncoder()
    again = FeatureStore(tmp_path).images(encoder, ColourDataset(), engine(on_message=said.append))
    assert encoder.images == 30
    np.testing.assert_array_equal(again.embedding, expected)
    assert [text for text in said if "damaged" in text]


@pytest.mark.parametrize("how", ["journal garbled", "array gone", "array cut short"])
def test_a_damaged_unfinished_entry_is_started_over(tmp_path: Path, how: str) -> None:
    with pytest.raises(StopHere):
        FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), stop_after(3))
    (entry,) = entries(tmp_path)
    if how == "journal garbled":
        with (entry["path"] / "journal.jsonl").open("ab") as journal:
            journal.write(b"\xffgarbage\n")
    else:
        damage(entry["path"], how)
    encoder = ColourEncoder()
    stored = FeatureStore(tmp_path).images(encoder, ColourDataset(), engine(batch_size=4))
    assert encoder.images == 30
    np.testing.assert_allclose(np.linalg.norm(stored.embedding, axis=1), 1, rtol=1e-6)


SLOW_ENCODING = """
import sys, time
sys.path[:0] = {paths!r}
from pathlib import Path
from toy import ColourDataset, ColourEncoder, engine
from rwkvclip_eval.features.store import FeatureStore
class Slow(ColourEncoder):
    def encode_image(self, pixels):
        time.sleep({delay})
        return super().encode_image(pixels)
encoder = Slow()
FeatureStore(Path({store!r})).images(encoder, ColourDataset(n=60), engine(batch_size=4))
print(encoder.images)
"""


def start_encoding(store: Path, delay: float) -> subprocess.Popen[str]:
    paths = [str(ROOT), str(ROOT / "models"), str(ROOT / "train"), str(ROOT / "tests")]
    code = SLOW_ENCODING.format(paths=paths, delay=delay, store=str(store))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_two_processes_encode_a_split_once_between_them(tmp_path: Path) -> None:
    both = [start_encoding(tmp_path, 0.05) for _ in range(2)]
    counts = sorted(int(process.communicate(timeout=60)[0]) for process in both)
    assert counts == [0, 60]


def test_a_killed_encoding_loses_the_batch_in_flight_only(tmp_path: Path) -> None:
    process = start_encoding(tmp_path, 0.2)
    deadline = time.monotonic() + 60
    journal: list[Path] = []
    while time.monotonic() < deadline and not (journal and journal[0].read_text().count("start") >= 3):
        journal = list(tmp_path.rglob("journal.jsonl"))
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = journal[0].read_text().count('"start"')
    encoder = ColourEncoder()
    resumed = FeatureStore(tmp_path).images(encoder, ColourDataset(n=60), engine(batch_size=4))
    whole = FeatureStore(tmp_path / "w").images(ColourEncoder(), ColourDataset(n=60), engine(batch_size=4))
    assert finished >= 3
    assert encoder.images == 60 - 4 * finished
    np.testing.assert_array_equal(resumed.embedding, whole.embedding)


def test_an_image_that_failed_in_passing_is_encoded_when_it_can_be_read_again(tmp_path: Path) -> None:
    class Flaky(ColourDataset):
        def __post_init__(self) -> None:
            super().__post_init__()
            self.info = ColourDataset().info  # the bytes are those of the sound dataset

    first = FeatureStore(tmp_path).images(ColourEncoder(), Flaky(damaged=(3,)), engine())
    assert list(first.missing) == [3]
    again = FeatureStore(tmp_path).images(ColourEncoder(), Flaky(), engine())
    assert again.key == first.key
    assert not again.missing
    whole = FeatureStore(tmp_path / "whole").images(ColourEncoder(), ColourDataset(), engine())
    np.testing.assert_array_equal(again.embedding, whole.embedding)


def test_a_part_of_a_halved_batch_names_its_own_image(tmp_path: Path) -> None:
    class Small(ColourEncoder):
        def encode_image(self, pixels: torch.Tensor) -> Any:
            if len(pixels) > 2:
                raise torch.cuda.OutOfMemoryError("out of memory")
            if self.images == 2:
                error = UserError("Embeddings are not finite.")
                error.rows = [1]
                raise error
            return super().encode_image(pixels)

    with pytest.raises(EncodingFailed, match="image-003"):
        FeatureStore(tmp_path).images(Small(), ColourDataset(), engine(batch_size=4))


def test_memory_that_does_not_suffice_is_said_once(tmp_path: Path) -> None:
    class Small(ColourEncoder):
        def encode_image(self, pixels: torch.Tensor) -> Any:
            if len(pixels) > 4:
                raise torch.cuda.OutOfMemoryError("out of memory")
            return super().encode_image(pixels)

    said: list[str] = []
    options = engine(batch_size=8, on_message=said.append)
    FeatureStore(tmp_path).images(Small(), ColourDataset(), options)
    assert said == ["Out of GPU memory: going on with batches of 4."]


def test_a_spawned_worker_knows_the_classes_of_a_plugin(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text("from toy import ColourDataset\nclass Mine(ColourDataset):\n    pass\n")
    paths = [str(ROOT), str(ROOT / "models"), str(ROOT / "train"), str(ROOT / "tests")]
    code = f"""
import pickle, sys
sys.path[:0] = {paths!r}
from pathlib import Path
if sys.argv[1] == "write":
    from rwkvclip_eval.features.decoding import _Decoder
    from rwkvclip_eval.run.plugins import load_plugin
    load_plugin(Path({str(plugin)!r}))
    (name,) = [n for n in sys.modules if n.startswith("rwkvclip_plugin_")]
    Path("decoder.pkl").write_bytes(pickle.dumps(_Decoder(sys.modules[name].Mine(), repr)))
else:
    print(len(pickle.loads(Path("decoder.pkl").read_bytes())))
"""
    for step in ("write", "read"):
        done = subprocess.run(
            [sys.executable, "-c", code, step], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "30"
