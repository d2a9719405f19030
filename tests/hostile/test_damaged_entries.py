"""Entries of the feature store that something else changed: encoded again, said once, never used."""

from __future__ import annotations

import io
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from toy import ColourDataset, ColourEncoder, engine

from rwkvclip_eval.data.array_files import WrongArray, map_array, small_array
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.features import entry as stored_entry
from rwkvclip_eval.features import store as features
from rwkvclip_eval.features.store import FeatureStore
from rwkvclip_eval.features.upkeep import MARK_NAME, clear, entries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Damage = Callable[[Path], object]

TEXTS = ["a red one", "a blue one", "green"]


def rewrite(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    def damage(folder: Path) -> None:
        array = np.load(folder / f"{name}.npy")
        np.save(folder / f"{name}.npy", change(array))

    return damage


def say(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        change(meta)
        (folder / "meta.json").write_text(json.dumps(meta))

    return damage


def linked(folder: Path) -> None:
    elsewhere = folder.with_name("elsewhere")
    shutil.rmtree(elsewhere, ignore_errors=True)
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


def zeros(folder: Path) -> None:
    (folder / "embedding.npy").unlink()
    (folder / "embedding.npy").symlink_to("/dev/zero")


def pipe(folder: Path) -> None:
    (folder / "meta.json").unlink()
    os.mkfifo(folder / "meta.json")


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


def huge_header(folder: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f4", "fortran_order": False, "shape": (30, 1 << 36)}
    )
    (folder / "embedding.npy").write_bytes(stream.getvalue())


def with_nan(array: np.ndarray) -> np.ndarray:
    array[3, 1] = np.nan
    return array


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    """Put something else in the place of a file."""
    path.unlink()
    make(path)


DAMAGES: dict[str, Damage] = {
    "rows permuted": rewrite("embedding", lambda a: a[::-1].copy()),
    "one number changed": rewrite("probe", lambda a: a + 1e-6),
    "NaN": rewrite("embedding", with_nan),
    "other shape": rewrite("embedding", lambda a: a[:, :2].copy()),
    "other rows": rewrite("embedding", lambda a: a[:20].copy()),
    "other type": rewrite("probe", lambda a: a.astype(np.float64)),
    "columns first": rewrite("probe", lambda a: np.asfortranarray(a)),
    "objects": rewrite("probe", lambda a: a.astype(object)),
    "header of 7 TiB": huge_header,
    "cut short": lambda folder: os.truncate(folder / "probe.npy", 200),
    "longer": lambda folder: os.truncate(folder / "probe.npy", 4000),
    "an array is a link to a device": zeros,
    "meta without fields": lambda folder: (folder / "meta.json").write_text("{}"),
    "meta of another type": lambda folder: (folder / "meta.json").write_text("[1]"),
    "meta nested": lambda folder: (folder / "meta.json").write_text("[" * 100_000),
    "meta is a pipe": pipe,
    "missing image out of range": say(lambda m: m["missing"].update({"30": "gone"})),
    "another total": say(lambda m: m.update(total=29)),
    "a text for a number": say(lambda m: m.update(total="30")),
    "a pipe as keys": lambda folder: replaced(folder / "keys.json", os.mkfifo),
    "a device as keys": lambda folder: replaced(folder / "keys.json", lambda p: p.symlink_to("/dev/zero")),
    "a pipe as array": lambda folder: replaced(folder / "probe.npy", os.mkfifo),
    "a pipe as description": lambda folder: replaced(folder / "meta.json", os.mkfifo),
    "no digest of one file": say(lambda m: m["sha256"].pop("keys.json")),
    "the entry is a link": linked,
    "the entry is a file": a_file,
}


def only_entry(root: Path) -> Path:
    (entry,) = entries(root)
    path: Path = entry["path"]
    return path


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_entry_is_encoded_again_with_one_message_and_show_and_clear_survive_it(
    tmp_path: Path, run: Any, how: str
) -> None:
    first = FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), engine())
    expected = np.array(first.embedding), np.array(first.probe)
    DAMAGES[how](only_entry(tmp_path))
    code, said, problem = run("cache", "show", "--cache", tmp_path)
    assert code == 0
    assert "1 entries" in said
    # What only reading the numbers tells is not looked for.
    assert not problem or problem.startswith("1 damaged, which a run encodes again: ")
    messages: list[str] = []
    encoder = ColourEncoder()
    options = engine(on_message=messages.append)
    again = FeatureStore(tmp_path).images(encoder, ColourDataset(), options)
    assert encoder.images == 30
    assert len(messages) == 1
    assert "are damaged" in messages[0]
    np.testing.assert_array_equal(again.embedding, expected[0])
    np.testing.assert_array_equal(again.probe, expected[1])
    FeatureStore(tmp_path).images(encoder, ColourDataset(), options)
    assert (encoder.images, len(messages)) == (30, 1)
    DAMAGES[how](only_entry(tmp_path))
    assert run("cache", "clear", "--cache", tmp_path)[0] == 0
    assert entries(tmp_path) == []


def test_damaged_texts_are_encoded_again(tmp_path: Path) -> None:
    expected = FeatureStore(tmp_path).texts(ColourEncoder(), TEXTS, engine())["embedding"]
    for damage in (
        rewrite("rows", lambda a: a[::-1].copy()),
        rewrite("rows", lambda a: a * 0),
        rewrite("rows", lambda a: a.astype(np.int32)),
        lambda folder: (folder / "rows.npy").write_bytes(b""),
        lambda folder: (folder / "rows.npy").unlink(),
    ):
        damage(only_entry(tmp_path))
        messages: list[str] = []
        again = FeatureStore(tmp_path).texts(ColourEncoder(), TEXTS, engine(on_message=messages.append))[
            "embedding"
        ]
        np.testing.assert_array_equal(again, expected)
        assert len(messages) == 1


def of_before(folder: Path) -> None:
    say(lambda meta: meta.pop("sha256"))(folder)
    (folder.parents[1] / MARK_NAME).unlink()


def test_an_entry_of_before_there_were_digests_is_read_and_gets_them(tmp_path: Path) -> None:
    FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), engine())
    folder = only_entry(tmp_path)
    of_before(folder)
    encoder = ColourEncoder()
    FeatureStore(tmp_path).images(encoder, ColourDataset(), engine())
    assert encoder.images == 0
    meta = json.loads((folder / "meta.json").read_text())
    assert set(meta["sha256"]) == {"embedding.npy", "probe.npy", "keys.json"}
    rewrite("embedding", lambda a: a[::-1].copy())(folder)
    FeatureStore(tmp_path).images(encoder, ColourDataset(), engine())
    assert encoder.images == 30


@pytest.mark.parametrize(
    "damage",
    [
        rewrite("embedding", with_nan),
        rewrite("embedding", lambda a: a * 2),
        rewrite("embedding", lambda a: a * 0),
        rewrite("probe", with_nan),
    ],
)
def test_without_digests_values_that_no_encoder_gives_are_damage(tmp_path: Path, damage: Damage) -> None:
    FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), engine())
    of_before(only_entry(tmp_path))
    damage(only_entry(tmp_path))
    encoder = ColourEncoder()
    FeatureStore(tmp_path).images(encoder, ColourDataset(), engine())
    assert encoder.images == 30


def test_every_byte_is_checked_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), engine())
    read: list[str] = []
    digest = stored_entry.file_digest
    monkeypatch.setattr(stored_entry, "file_digest", lambda path: (read.append(path.name), digest(path))[1])
    for _ in range(3):
        FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), engine())
    assert read == ["embedding.npy", "probe.npy", "keys.json"]


def test_a_damaged_shared_store_is_left_as_it_is(tmp_path: Path) -> None:
    FeatureStore(tmp_path / "shared").images(ColourEncoder(), ColourDataset(), engine())
    folder = only_entry(tmp_path / "shared")
    rewrite("embedding", lambda a: a[::-1].copy())(folder)
    before = (folder / "embedding.npy").read_bytes()
    encoder, messages = ColourEncoder(), list[str]()
    for _ in range(2):
        store = FeatureStore(tmp_path / "own", tmp_path / "shared")
        store.images(encoder, ColourDataset(), engine(on_message=messages.append))
    assert (encoder.images, len(messages)) == (30, 1)
    assert (folder / "embedding.npy").read_bytes() == before


@pytest.mark.parametrize("step", ["open_entry", "check"])
def test_an_entry_that_is_cleared_between_finding_and_reading_is_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), engine())
    stored_entry._sound.clear()
    called = getattr(features, step)

    def after_clearing(given: Any) -> Any:
        clear(tmp_path)
        return called(given)

    monkeypatch.setattr(features, step, after_clearing)
    encoder, messages = ColourEncoder(), list[str]()
    options = engine(on_message=messages.append)
    stored = FeatureStore(tmp_path).images(encoder, ColourDataset(), options)
    assert (encoder.images, messages) == (30, [])
    np.testing.assert_allclose(np.linalg.norm(stored.embedding, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    "line",
    [
        '{"batch_size": -1}',
        '{"batch_size": 1000000000000000000000}',
        '{"start": 3, "missing": {}}',
        '{"start": 1000000000000, "missing": {}}',
        '{"start": 0, "missing": {"29": "x"}}',
        '{"start": 0, "missing": ["x"]}',
        '{"start": 12, "missing": {}}\t00000000',
        "[" * 100_000,
        "",
    ],
)
def test_a_journal_that_makes_no_sense_starts_the_entry_over(tmp_path: Path, line: str) -> None:
    class Stop(Exception):
        pass

    def progress(done: int, total: int, what: str) -> None:
        if done >= 12:
            raise Stop

    with pytest.raises(Stop):
        FeatureStore(tmp_path).images(
            ColourEncoder(), ColourDataset(), engine(batch_size=4, on_progress=progress)
        )
    with next(tmp_path.rglob("journal.jsonl")).open("a") as journal:
        journal.write(line + "\n")
    encoder = ColourEncoder()
    stored = FeatureStore(tmp_path).images(encoder, ColourDataset(), engine(batch_size=4))
    assert encoder.images == 30
    assert not stored.missing


def test_a_digit_that_changed_in_a_journal_passes_no_batch_off_for_another(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def progress(done: int, total: int, what: str) -> None:
        if done >= 8:
            raise Stop

    whole = FeatureStore(tmp_path / "whole").images(ColourEncoder(), ColourDataset(), engine(batch_size=4))
    with pytest.raises(Stop):
        FeatureStore(tmp_path / "cut").images(
            ColourEncoder(), ColourDataset(), engine(batch_size=4, on_progress=progress)
        )
    journal = next((tmp_path / "cut").rglob("journal.jsonl"))
    journal.write_text(journal.read_text().replace('"start": 4', '"start": 8'))
    encoder = ColourEncoder()
    stored = FeatureStore(tmp_path / "cut").images(encoder, ColourDataset(), engine(batch_size=4))
    assert encoder.images == 30
    np.testing.assert_array_equal(stored.embedding, whole.embedding)


def test_a_journal_of_before_there_were_checksums_is_continued(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def progress(done: int, total: int, what: str) -> None:
        if done >= 8:
            raise Stop

    with pytest.raises(Stop):
        FeatureStore(tmp_path).images(
            ColourEncoder(), ColourDataset(), engine(batch_size=4, on_progress=progress)
        )
    journal = next(tmp_path.rglob("journal.jsonl"))
    journal.write_text("".join(line.partition("\t")[0] + "\n" for line in journal.read_text().splitlines()))
    encoder = ColourEncoder()
    FeatureStore(tmp_path).images(encoder, ColourDataset(), engine(batch_size=4))
    assert encoder.images == 22


def test_keys_that_are_none_are_said(tmp_path: Path) -> None:
    FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), engine())
    folder = only_entry(tmp_path)
    assert stored_entry.open_entry(folder).keys()[0] == "image-000"
    for text in ("{}", "[1]", '["a"]', "["):
        (folder / "keys.json").write_text(text)
        with pytest.raises(stored_entry.DamagedEntry, match=r"keys\.json"):
            stored_entry.open_entry(folder).keys()


@pytest.mark.parametrize("marked", [True, False])
def test_clearing_deletes_entries_alone(tmp_path: Path, marked: bool) -> None:
    FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), engine())
    features_folder = tmp_path / "features"
    if not marked:
        (features_folder / MARK_NAME).unlink()
    kept = [features_folder / "ab" / "thesis", features_folder / "ab" / ("0" * 64), features_folder / "notes"]
    for path in kept:
        path.mkdir(parents=True)
        (path / "meta.json").write_text("mine")
    if marked:
        assert clear(tmp_path)[0] == 1
    else:
        with pytest.raises(UserError, match=r"is no feature store: .* Nothing was deleted"):
            clear(tmp_path)
        assert len(entries(tmp_path)) == 1
        for path in kept:
            shutil.rmtree(path)
        assert clear(tmp_path)[0] == 1
        return
    assert all((path / "meta.json").read_text() == "mine" for path in kept)


def test_a_folder_that_is_no_store_is_not_cleared(tmp_path: Path, run: Any) -> None:
    mine = tmp_path / "features" / "ab" / "cd.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    code, _, said = run("cache", "clear", "--cache", tmp_path)
    assert code == 2
    assert "Nothing was deleted" in said
    assert mine.read_text() == "mine"


def test_a_link_in_place_of_an_entry_is_deleted_and_not_what_it_leads_to(tmp_path: Path) -> None:
    FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), engine())
    linked(only_entry(tmp_path))
    clear(tmp_path)
    assert (next(tmp_path.rglob("elsewhere")) / "embedding.npy").is_file()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 118,
        npy(np.zeros(3))[:-1],
        npy(np.zeros(3)) + b"x",
        npy(np.array([None, 1])),
        npy(np.array(["text"])),
        npy(np.zeros(2, dtype=[("a", "f4")])),
    ],
)
def test_bytes_that_are_no_array_of_numbers_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(WrongArray):
        small_array(content)
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(WrongArray):
        map_array(tmp_path / "a.npy", np.float64, (3,))


def test_arrays_of_numbers_are_read_as_they_were_written(tmp_path: Path) -> None:
    for array in (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.array(3)):
        np.testing.assert_array_equal(small_array(npy(array)), array)
    (tmp_path / "a.npy").write_bytes(npy(np.arange(6.0)))
    np.testing.assert_array_equal(map_array(tmp_path / "a.npy", np.float64, (6,)), np.arange(6.0))
