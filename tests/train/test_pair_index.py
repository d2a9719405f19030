import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pair_files import as_csv, as_npy, as_rec, as_tar, jpeg, pairs, write_tar

from rwkvclip_eval.errors import DamagedData, DataNotFound, NewerFile, OutputError, UserError
from rwkvclip_train.data import build
from rwkvclip_train.data.build import Settings, build_index, read_keys
from rwkvclip_train.data.open import check_kinds, open_pairs
from rwkvclip_train.data.recorder import Recorder
from rwkvclip_train.recipe import RecipeError

FILES = {"about.json", "pairs.bin", "spans.bin", "keys.bin", "texts.bin"}


def many(folder, shards=3):
    for number in range(shards):
        members = []
        for i in range(4):
            members += [(f"{number}-{i}.jpg", jpeg(10 * number + i)), (f"{number}-{i}.txt", b"a text")]
        write_tar(folder / f"{number}.tar", members)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stop_after(monkeypatch, shards):
    """Let a build fail when it comes to the shard behind so many."""
    scan, seen = build.scan_tar, []

    def failing(path, recorder, rows, on_bytes):
        scan(path, recorder, rows, on_bytes)
        if len(seen) == shards:
            raise KeyboardInterrupt
        seen.append(path)

    monkeypatch.setattr(build, "scan_tar", failing)
    return seen


def test_a_build_that_was_killed_goes_on_after_its_last_whole_shard(tmp_path, monkeypatch):
    many(tmp_path / "once")
    expected = build_index(tmp_path / "once")
    folder = tmp_path / "twice"
    many(folder)
    for shard in ("0.tar", "1.tar", "2.tar"):
        state = (tmp_path / "once" / shard).stat()
        os.utime(folder / shard, ns=(state.st_atime_ns, state.st_mtime_ns))
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            build_index(folder)
    assert not (folder / "index").exists()
    with monkeypatch.context() as patch:
        seen = stop_after(patch, 99)
        assert build_index(folder) == expected
        assert [path.name for path in seen] == ["1.tar", "2.tar"]
    assert content(folder / "index") == content(tmp_path / "once" / "index")
    assert {path.name for path in folder.iterdir()} == {"0.tar", "1.tar", "2.tar", "index"}
    assert set(content(folder / "index")) == FILES


def test_a_build_with_other_settings_starts_anew(tmp_path, monkeypatch):
    many(tmp_path)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            build_index(tmp_path)
    seen = stop_after(monkeypatch, 99)
    build_index(tmp_path, None, Settings(longest=50))
    assert len(seen) == 3


def test_a_journal_that_says_more_than_is_on_the_disk_is_not_believed(tmp_path, monkeypatch):
    many(tmp_path)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            build_index(tmp_path)
    (tmp_path / ".index.partial" / "pairs.bin").write_bytes(b"short")
    about = build_index(tmp_path)
    assert about.num_pairs == 12
    assert open_pairs(tmp_path).key(11) == "2.tar:2-3"


def test_a_build_that_goes_on_knows_the_row_of_an_array_behind_samples_left_out(tmp_path, monkeypatch):
    made = pairs()
    for shard, part in (("0.tar", made[:3]), ("1.tar", made[3:])):
        write_tar(tmp_path / shard, [(f"{pair.name}.jpg", pair.jpeg) for pair in part])
    np.save(tmp_path / "tokens.npy", np.stack([pair.ids for pair in made]))
    settings = Settings(without=frozenset(["0.tar:p1"]))
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            build_index(tmp_path, None, settings)
    assert build_index(tmp_path, None, settings).num_pairs == 4
    source = open_pairs(tmp_path)
    assert source.key(2) == "1.tar:p3"
    assert source.texts(2)["raw"][0].tolist() == made[3].ids[:77].tolist()


def test_an_index_of_the_same_is_kept_and_a_damaged_one_made_anew(tmp_path, monkeypatch):
    many(tmp_path)
    about = build_index(tmp_path)
    before = content(tmp_path / "index")
    seen = stop_after(monkeypatch, 99)
    assert build_index(tmp_path) == about
    assert seen == []
    path = tmp_path / "index" / "keys.bin"
    path.write_bytes(path.read_bytes()[::-1])
    assert build_index(tmp_path) == about
    assert len(seen) == 3
    assert content(tmp_path / "index") == before


def test_two_processes_do_not_write_one_index(tmp_path):
    with (
        Recorder(tmp_path / "index", {}, longest=9),
        pytest.raises(OutputError, match="Another process is making"),
        Recorder(tmp_path / "index", {}, longest=9),
    ):
        pass


def test_an_old_index_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    many(tmp_path)
    build_index(tmp_path)
    before = content(tmp_path / "index")
    stop_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path, None, Settings(longest=50))
    assert content(tmp_path / "index") == before
    assert len(open_pairs(tmp_path)) == 12


def test_an_index_of_shards_that_changed_is_refused_with_their_names(tmp_path):
    many(tmp_path)
    before = build_index(tmp_path).fingerprint
    write_tar(tmp_path / "1.tar", [("x.jpg", jpeg(9)), ("x.txt", b"other")])
    with pytest.raises(DamagedData, match=r"changed since it was made: 1\.tar \(.* bytes now.*data index"):
        open_pairs(tmp_path)
    assert build_index(tmp_path).fingerprint != before
    (tmp_path / "2.tar").unlink()
    with pytest.raises(DataNotFound, match=r"2\.tar"):
        open_pairs(tmp_path)


def test_a_shard_of_the_same_size_and_another_time_is_refused_until_indexed_again(tmp_path):
    as_rec(tmp_path, pairs())
    before = build_index(tmp_path).fingerprint
    os.utime(tmp_path / "train.rec", ns=(1, 1))
    with pytest.raises(DamagedData, match=r"train\.rec"):
        open_pairs(tmp_path)
    # A copy of the data has other times; what it holds is the same.
    assert build_index(tmp_path).fingerprint == before


@pytest.mark.parametrize("write", [as_tar, as_rec, as_npy, as_csv])
def test_another_text_of_the_same_length_is_another_fingerprint(write, tmp_path):
    made = pairs()
    write(tmp_path / "a", made)
    write(tmp_path / "b", [*made[:4], type(made[4])("p4", made[4].jpeg, "raw text 5", made[4].synthetic)])
    assert build_index(tmp_path / "a").fingerprint != build_index(tmp_path / "b").fingerprint


def test_a_folder_that_cannot_be_written_has_its_index_elsewhere(tmp_path):
    many(tmp_path / "data")
    build_index(tmp_path / "data", tmp_path / "indices" / "mine")
    assert len(open_pairs(tmp_path / "data", tmp_path / "indices" / "mine")) == 12
    with pytest.raises(DataNotFound, match=r"There is no index at .*data index"):
        open_pairs(tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "change", "error", "said"),
    [
        ("pairs.bin", lambda old: old[:-1], DamagedData, "pairs.bin has .* bytes, expected"),
        ("about.json", lambda old: old[:50], DamagedData, "about.json"),
        ("about.json", lambda old: old.replace(b'"version": 1', b'"version": 2'), NewerFile, "newer version"),
        ("about.json", lambda old: old.replace(b'"version": 1', b'"version": "1"'), DamagedData, "version"),
    ],
)
def test_a_damaged_index_is_refused(name, change, error, said, tmp_path):
    many(tmp_path)
    build_index(tmp_path)
    path = tmp_path / "index" / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(error, match=said):
        open_pairs(tmp_path)


def texts(folder, *captions):
    """A tar with one pair for each mapping of kinds to texts."""
    members = []
    for i, caption in enumerate(captions):
        members += [(f"{i}.jpg", jpeg(i)), (f"{i}.json", json.dumps(caption).encode())]
    write_tar(folder / "0.tar", members)


def test_empty_and_long_texts_are_counted_and_not_drawn(tmp_path):
    texts(
        tmp_path,
        {"raw": "", "synthetic": "fine"},
        {"raw": "x" * 10_000, "synthetic": "fine"},
        {"raw": [" \u200b", "good"], "synthetic": "fine"},
        {"raw": "y" * 2000},
    )
    about = build_index(tmp_path)
    assert about.not_drawn == {"raw: empty": 2, "raw: longer than 2000 characters": 1}
    assert about.examples["raw: empty"] == "0.tar:0, 0.tar:2"
    source = open_pairs(tmp_path)
    assert [dict(source.texts(i)) for i in range(4)] == [
        {"synthetic": ["fine"]},
        {"synthetic": ["fine"]},
        {"raw": ["good"], "synthetic": ["fine"]},
        {"raw": ["y" * 2000]},
    ]
    assert list(source.lacking(["raw"])) == [0, 1]
    assert list(source.lacking(["synthetic"])) == [3]


def test_samples_without_text_or_image_are_counted_and_left_out(tmp_path):
    members = [
        ("a.jpg", jpeg(0)), ("a.txt", b"fine"),
        ("b.jpg", jpeg(1)), ("b.txt", b"\n \n"),
        ("c.txt", b"no picture"),
        ("d.jpg", jpeg(2)), ("d.txt", b"\xff not UTF-8"),
        ("e.jpg", jpeg(3)), ("e.json", b"[1, 2]"),
        ("f.jpg", b""), ("f.txt", b"fine"),
    ]  # fmt: skip
    write_tar(tmp_path / "0.tar", members)
    about = build_index(tmp_path)
    assert about.num_pairs == 1
    assert about.left_out == {"no usable text": 3, "no image": 1, "an image without bytes": 1}
    assert about.not_drawn == {"txt: empty": 1, "txt: not UTF-8": 1, "json: JSON that is no mapping": 1}
    assert about.examples["no image"] == "0.tar:c"


def test_a_list_of_keys_is_left_out(tmp_path):
    many(tmp_path)
    (tmp_path / "broken.txt").write_text("1.tar:1-0\timage file is truncated\n0.tar:0-3\n")
    about = build_index(tmp_path, None, Settings(without=read_keys(tmp_path / "broken.txt")))
    assert about.left_out == {"in the list of --without": 2}
    source = open_pairs(tmp_path)
    assert "1.tar:1-0" not in [source.key(i) for i in range(len(source))]


def test_kinds_that_are_not_kept_are_as_absent(tmp_path):
    texts(tmp_path, {"raw": "a", "synthetic": "b"}, {"synthetic": "c"})
    about = build_index(tmp_path, None, Settings(kinds=("raw",)))
    assert about.kinds == ("raw",)
    assert about.left_out == {"no usable text": 1}


def test_a_missing_kind_is_refused_with_the_pairs_and_the_cure(tmp_path):
    texts(tmp_path, {"raw": "a"}, {"raw": "b", "synthetic": "c"})
    build_index(tmp_path)
    source = open_pairs(tmp_path)
    check_kinds(source, {"raw": 1, "synthetic": 3}, "texts")
    with pytest.raises(RecipeError, match=r"1 of 2 pairs have no text of kind synthetic \(0\.tar:0\): add a"):
        check_kinds(source, {"synthetic": 1}, "texts")
    with pytest.raises(RecipeError, match="1 of 2 pairs"):
        check_kinds(source, {"synthetic": 1, "raw": 0}, "texts")
    with pytest.raises(RecipeError, match="Did you mean 'synthetic'"):
        check_kinds(source, {"sinthetic": 1, "raw": 1}, "texts")


def test_too_many_kinds_ask_which_to_keep(tmp_path):
    texts(tmp_path, {f"k{i}": "a" for i in range(33)})
    with pytest.raises(UserError, match="texts of more than 32 kinds"):
        build_index(tmp_path)
    assert build_index(tmp_path, None, Settings(kinds=("k3", "k32"))).num_pairs == 1


def test_a_folder_without_training_data_is_refused(tmp_path):
    with pytest.raises(DataNotFound, match="no file in it or below ends in tar, rec, parquet, csv"):
        build_index(tmp_path)
    with pytest.raises(DataNotFound, match="There is no folder"):
        build_index(tmp_path / "gone")
    many(tmp_path)
    with pytest.raises(UserError, match="Unknown layout 'zip'"):
        build_index(tmp_path, None, Settings(layout="zip"))


def test_a_full_disk_is_one_message_and_what_was_read_is_kept(tmp_path):
    many(tmp_path)
    code = (
        "import resource, sys, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))\n"
        "from pathlib import Path\n"
        "from rwkvclip_eval.errors import OutputError\n"
        "from rwkvclip_train.data.build import build_index\n"
        "try:\n    build_index(Path(sys.argv[1]))\n"
        "except OutputError as error:\n    print(error)\n"
    )
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join(str(root / name) for name in (".", "models", "train"))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Cannot write the index" in done.stdout, done.stderr
    assert "run the same command again" in done.stdout
    assert not (tmp_path / "index").exists()
    assert build_index(tmp_path).num_pairs == 12


def test_an_index_pickles_as_its_place(tmp_path):
    many(tmp_path)
    build_index(tmp_path)
    source = open_pairs(tmp_path)
    assert list(source.lacking([])) == list(range(12))
    copy = pickle.loads(pickle.dumps(source))
    assert copy.key(7) == source.key(7)
    assert copy.fingerprint == source.fingerprint
