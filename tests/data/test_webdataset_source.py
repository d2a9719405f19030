import io
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rwkvclip_eval.data import webdataset as source
from rwkvclip_eval.data.samples import fingerprint_samples
from rwkvclip_eval.data.shard_index import INDEX_NAME
from rwkvclip_eval.data.webdataset import open_webdataset
from rwkvclip_eval.errors import DamagedData, DataNotFound


def test_labels_keys_and_bytes_are_those_written_in_shard_order(tmp_path, write_wds, png):
    folder = write_wds(tmp_path, "x", [[2, 0], [1]], classnames="a\nb\nc\n")
    opened = open_webdataset(folder, "test")
    assert opened.labels.tolist() == [2, 0, 1]
    assert opened.keys == ["s0000", "s0001", "s0002"]
    assert [opened.images.read(i) for i in range(3)] == [png(0), png(1), png(2)]
    assert opened.class_names == ("a", "b", "c")
    assert opened.source == "webdataset wds_x/test"


def test_shards_are_read_in_numerical_order_without_nshards(tmp_path, write_shard, png):
    for number in (10, 9, 1):
        write_shard(
            tmp_path / "wds_x" / "test" / f"{number}.tar",
            [(f"k{number}.png", png(number)), (f"k{number}.cls", b"0")],
        )
    # A file manager's of another system.
    (tmp_path / "wds_x" / "test" / "._1.tar").write_bytes(b"no shard")
    assert open_webdataset(tmp_path / "wds_x", "test").keys == ["k1", "k9", "k10"]


def test_key_ends_at_the_first_dot_of_the_last_part(tmp_path, write_shard, png):
    members = [
        ("v1.0/cat.01.png", png(9)),
        ("v1.0/cat.PNG", png(1)),
        ("v1.0/cat.cls", b"3"),
        ("v1.0/cat.json", b"{}"),
        ("__note__", b"x"),
    ]
    write_shard(tmp_path / "wds_x" / "test" / "0.tar", members)
    opened = open_webdataset(tmp_path / "wds_x", "test")
    assert opened.keys == ["v1.0/cat"]
    assert opened.images.read(0) == png(1)
    assert opened.labels.tolist() == [3]


def test_captions_are_lines_and_may_differ_in_number(tmp_path, write_wds):
    folder = write_wds(tmp_path, "r", [["a dog\nun café", "one\ntwo\nthree"]], dataset_type="retrieval")
    opened = open_webdataset(folder, "test")
    assert opened.kind == "retrieval"
    assert opened.captions == [["a dog", "un café"], ["one", "two", "three"]]
    assert opened.labels is None


def test_multilabel_vectors_are_read_from_npy(tmp_path, write_shard, png):
    members = []
    for i, vector in enumerate([[0, 1, 1], [1, 0, 0]]):
        stream = io.BytesIO()
        np.save(stream, np.array(vector, dtype=np.float32))
        members += [(f"{i}.png", png(i)), (f"{i}.npy", stream.getvalue())]
    write_shard(tmp_path / "wds_m" / "test" / "0.tar", members)
    (tmp_path / "wds_m" / "dataset_type.txt").write_text("multilabel")
    assert open_webdataset(tmp_path / "wds_m", "test").labels.tolist() == [[0, 1, 1], [1, 0, 0]]


def test_fingerprint_is_the_same_for_other_sharding_and_differs_for_other_labels(tmp_path, write_wds):
    one = open_webdataset(write_wds(tmp_path / "1", "x", [[0, 1, 1]]), "test").fingerprint
    two = open_webdataset(write_wds(tmp_path / "2", "x", [[0, 1], [1]]), "test").fingerprint
    other = open_webdataset(write_wds(tmp_path / "3", "x", [[0, 1, 0]]), "test").fingerprint
    assert one == two != other


def test_fingerprint_hashes_key_image_digest_and_target_in_order():
    digest = bytes(range(32))
    assert fingerprint_samples([("a", digest, 1)]) != fingerprint_samples([("a", digest, [1])])
    pair = [("a", digest, 1), ("b", digest, 2)]
    assert fingerprint_samples(pair) != fingerprint_samples(pair[::-1])


@pytest.mark.parametrize("cut", [0, 300, 512, 700, 1024, 1536, 3072, 3500])
def test_cut_off_shard_is_refused_by_name_wherever_it_ends(tmp_path, write_wds, cut):
    folder = write_wds(tmp_path, "x", [[0, 1, 2]])
    shard = folder / "test" / "0.tar"
    whole = shard.read_bytes()
    # Three samples of two members, each a header and one block of content: the end mark starts here.
    assert cut < 6 * 1024 < len(whole)
    shard.write_bytes(whole[:cut])
    with pytest.raises(DamagedData, match=r"0\.tar is cut off or damaged .* members are readable"):
        open_webdataset(folder, "test")


def test_damaged_header_in_the_middle_does_not_end_the_shard_unseen(tmp_path, write_wds):
    folder = write_wds(tmp_path, "x", [[0, 1, 2]])
    shard = folder / "test" / "0.tar"
    content = bytearray(shard.read_bytes())
    content[2048:2560] = b"\xff" * 512
    shard.write_bytes(content)
    with pytest.raises(DamagedData, match=r"2 members are readable after member s0000.cls"):
        open_webdataset(folder, "test")


def test_missing_shard_is_named(tmp_path, write_wds):
    folder = write_wds(tmp_path, "x", [[0], [1], [0]])
    (folder / "test" / "1.tar").unlink()
    with pytest.raises(DamagedData, match=r"nshards\.txt says 3 shards, 2 are there; missing: 1\.tar"):
        open_webdataset(folder, "test")


def test_keys_that_occur_twice_are_named(tmp_path, write_wds, write_shard, png):
    folder = write_wds(tmp_path, "x", [[0, 1], [1]])
    (folder / "test" / "1.tar").write_bytes((folder / "test" / "0.tar").read_bytes())
    with pytest.raises(DamagedData, match=r"2 sample keys occur more than once \(s0000, s0001\)"):
        open_webdataset(folder, "test")
    write_shard(folder / "test" / "1.tar", [("k.png", png(1)), ("k.cls", b"0"), ("k.png", png(2))])
    with pytest.raises(DamagedData, match=r"1 members occur more than once: k\.png"):
        open_webdataset(folder, "test")


def test_samples_without_image_or_label_are_named_and_counted(tmp_path, write_shard, png):
    members = [("a.png", png(1)), ("a.cls", b"0"), ("b.png", png(2)), ("c.cls", b"1")]
    write_shard(tmp_path / "wds_x" / "test" / "0.tar", members)
    with pytest.raises(DamagedData, match=r"2 samples are incomplete.*b \(0\.tar\), c \(0\.tar\)"):
        open_webdataset(tmp_path / "wds_x", "test")


@pytest.mark.parametrize(
    ("kind", "name", "content", "message"),
    [
        ("classification", "a.cls", b"seven", "expected a class id from 0"),
        ("classification", "a.cls", b"-1", "expected a class id from 0"),
        ("retrieval", "a.txt", b" \n", "a caption is empty"),
        ("retrieval", "a.txt", b"\xff\xfe", "UTF-8"),
        ("multilabel", "a.npy", b"x", "expected a .npy vector"),
        ("segmentation", "a.cls", b"1", "expected one of classification, multilabel, retrieval"),
    ],
)
def test_unreadable_targets_are_named(tmp_path, write_shard, png, kind, name, content, message):
    write_shard(tmp_path / "wds_x" / "test" / "0.tar", [("a.png", png(1)), (name, content)])
    (tmp_path / "wds_x" / "dataset_type.txt").write_text(kind)
    with pytest.raises(DamagedData, match=message):
        open_webdataset(tmp_path / "wds_x", "test")


def test_unknown_split_lists_those_there_are(tmp_path, write_wds):
    folder = write_wds(tmp_path, "x", [[0]])
    with pytest.raises(DataNotFound, match=r"no split 'val'.*It has: test"):
        open_webdataset(folder, "val")


def test_index_is_kept_beside_the_shards_and_spares_the_second_scan(tmp_path, write_wds, monkeypatch):
    folder = write_wds(tmp_path, "x", [[0, 1]])
    first = open_webdataset(folder, "test")
    assert (folder / "test" / INDEX_NAME).is_file()
    monkeypatch.setattr(source, "_scan", lambda *a: pytest.fail("scanned again"))
    again = open_webdataset(folder, "test")
    assert (again.fingerprint, again.keys, again.labels.tolist()) == (first.fingerprint, first.keys, [0, 1])


def test_index_is_made_anew_when_a_shard_was_touched(tmp_path, write_wds):
    folder = write_wds(tmp_path, "x", [[0, 1]])
    before = open_webdataset(folder, "test")
    write_wds(tmp_path, "x", [[1, 1]])
    os.utime(folder / "test" / "0.tar", ns=(1, 12345))
    after = open_webdataset(folder, "test")
    assert after.labels.tolist() == [1, 1]
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize("content", [b"", b"PAR1 half an index", None])
def test_half_written_index_is_not_used(tmp_path, write_wds, content):
    folder = write_wds(tmp_path, "x", [[0, 1]])
    open_webdataset(folder, "test")
    index = folder / "test" / INDEX_NAME
    index.write_bytes(index.read_bytes()[:-40] if content is None else content)
    assert open_webdataset(folder, "test").labels.tolist() == [0, 1]
    (folder / "test" / f".{INDEX_NAME}.rest-of-a-kill.tmp").write_bytes(b"x")
    assert open_webdataset(folder, "test").keys == ["s0000", "s0001"]


def test_kill_while_the_index_is_written_leaves_none(tmp_path, write_wds):
    folder = write_wds(tmp_path, "x", [[0, 1]])
    code = (
        "import os, pathlib, signal, sys\n"
        "import pyarrow.parquet as pq\n"
        "from rwkvclip_eval.data.webdataset import open_webdataset\n"
        "def half(table, file):\n"
        "    file.write(b'PAR1 half')\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "pq.write_table = half\n"
        "open_webdataset(pathlib.Path(sys.argv[1]), 'test')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(folder)], env={"PYTHONPATH": ":".join(sys.path)})
    assert ended.returncode == -signal.SIGKILL
    assert not (folder / "test" / INDEX_NAME).exists()
    assert open_webdataset(folder, "test").labels.tolist() == [0, 1]


def test_relative_folders_work(tmp_path, write_wds, monkeypatch, png):
    folder = write_wds(tmp_path, "x", [[0, 1]])
    monkeypatch.chdir(folder)
    opened = open_webdataset(Path(), "test")
    monkeypatch.chdir(tmp_path)
    assert opened.images.read(1) == png(1)
    assert opened.source == "webdataset wds_x/test"


def test_index_goes_to_the_cache_when_the_folder_is_read_only(tmp_path, write_wds, monkeypatch):
    folder, cache = write_wds(tmp_path, "x", [[0, 1]]), tmp_path / "cache"
    (folder / "test").chmod(0o555)
    try:
        first = open_webdataset(folder, "test", cache)
        assert not (folder / "test" / INDEX_NAME).exists()
        assert len(list(cache.rglob("*.parquet"))) == 1
        monkeypatch.setattr(source, "_scan", lambda *a: pytest.fail("scanned again"))
        assert open_webdataset(folder, "test", cache).fingerprint == first.fingerprint
    finally:
        (folder / "test").chmod(0o755)


def test_split_pickles_and_holds_no_image(tmp_path, write_wds, png):
    folder = write_wds(tmp_path, "x", [[0, 1], [1]])
    opened = pickle.loads(pickle.dumps(open_webdataset(folder, "test")))
    assert opened.images.read(2) == png(2)


@pytest.mark.parametrize(
    "file", ["classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt"]
)
def test_files_beside_the_shards_that_are_not_utf8_are_named(tmp_path, write_wds, file):
    folder = write_wds(tmp_path, "x", [[0]], classnames="a")
    (folder / file).write_bytes("café {c}".encode("latin-1"))
    with pytest.raises(DamagedData, match=f"{file} is not UTF-8"):
        open_webdataset(folder, "test")


def test_a_byte_order_mark_is_no_part_of_the_first_class_name(tmp_path, write_wds):
    folder = write_wds(tmp_path, "x", [[0]])
    (folder / "classnames.txt").write_text("a\nb\n", encoding="utf-8-sig")
    assert open_webdataset(folder, "test").class_names == ("a", "b")
