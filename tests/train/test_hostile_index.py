"""Files of an index, of a build that was stopped, and shards, as somebody may have changed them."""

import json
import os
import struct

import numpy as np
import pytest
from pair_files import MAGIC, as_csv, as_npy, as_parquet, as_rec, as_tar, jpeg, pairs, write_tar

from rwkvclip_eval.errors import DamagedData, DataNotFound, DataWarning, OutputError, UserError
from rwkvclip_train.data import build
from rwkvclip_train.data.about import read_about
from rwkvclip_train.data.build import build_index
from rwkvclip_train.data.formats import record_io
from rwkvclip_train.data.open import open_pairs
from rwkvclip_train.data.rows import PAIR, SPAN

# Pipes and devices.


@pytest.mark.parametrize("name", ["0.tar", "0.rec", "0.parquet", "0.csv"])
def test_a_pipe_in_place_of_a_shard_is_refused_unopened(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}: expected a file, found a named pipe"):
        build_index(tmp_path)


def test_a_device_in_place_of_a_shard_is_refused_unread(tmp_path):
    (tmp_path / "0.tar").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"0\.tar: expected a file, found a device"):
        build_index(tmp_path)


@pytest.mark.parametrize("name", ["tokens.npy", "0.npy"])
def test_a_pipe_in_place_of_a_token_array_is_refused_unopened(name, tmp_path):
    as_tar(tmp_path, pairs())
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}: expected a file, found a named pipe"):
        build_index(tmp_path)


def test_a_pipe_in_place_of_the_list_of_records_is_refused_unopened(tmp_path):
    as_rec(tmp_path, pairs(), idx=False)
    os.mkfifo(tmp_path / "train.idx")
    with pytest.raises(DamagedData, match=r"train\.idx: expected a file, found a named pipe"):
        build_index(tmp_path)


def test_a_shard_that_became_a_pipe_is_refused_by_whatever_opens_the_index(tmp_path):
    as_tar(tmp_path, pairs())
    build_index(tmp_path)
    (tmp_path / "0.tar").unlink()
    os.mkfifo(tmp_path / "0.tar")
    with pytest.raises(DataNotFound, match="found a named pipe"):
        open_pairs(tmp_path)


def test_an_image_of_a_table_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "pairs.csv").write_text("image,raw\n.,x\n")
    with pytest.raises(DamagedData, match=r"pairs\.csv, row 2: .* is no file"):
        build_index(tmp_path)


def test_the_start_of_a_record_of_many_parts_is_kept_no_longer_than_its_labels(tmp_path):
    parts = 100_000
    path = tmp_path / "0.rec"
    middle = MAGIC + struct.pack("<I", 2 << 29)
    path.write_bytes(MAGIC + struct.pack("<I", 1 << 29) + middle * parts + MAGIC + struct.pack("<I", 3 << 29))
    with path.open("rb") as stream:
        found = record_io._look(path, stream.fileno(), "0", 0, path.stat().st_size)
    assert found.length == path.stat().st_size
    assert len(found.start) < 2 * record_io.LABELS_END


def test_records_that_overlap_are_refused_before_each_is_read(tmp_path):
    as_rec(tmp_path, pairs())
    (tmp_path / "train.idx").write_text("".join(f"{i}\t0\n" for i in range(1000)))
    with pytest.raises(DamagedData, match=r"train\.idx names records that overlap"):
        build_index(tmp_path)


# Links.


def test_a_link_in_place_of_the_folder_that_is_written_is_refused(tmp_path):
    as_tar(tmp_path / "data", pairs())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / ".index.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="is a symbolic link"):
        build_index(tmp_path / "data")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", ["keys.bin", "journal.jsonl", ".lock", "about.json"])
@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_link_in_place_of_a_file_that_is_written_is_refused(link, name, tmp_path):
    as_tar(tmp_path / "data", pairs())
    other = tmp_path / "precious"
    other.write_bytes(b"precious")
    (tmp_path / "data" / ".index.partial").mkdir()
    getattr(tmp_path / "data" / ".index.partial" / name, link)(other)
    with pytest.raises(OutputError, match="is no file of an index, or a link"):
        build_index(tmp_path / "data")
    assert other.read_bytes() == b"precious"


def test_a_folder_that_holds_other_things_is_not_replaced_by_an_index(tmp_path):
    as_tar(tmp_path / "data", pairs())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"mine\.jpg' in .*photos is no file of an index"):
        build_index(tmp_path / "data", tmp_path / "photos")
    assert (tmp_path / "photos" / "mine.jpg").read_bytes() == b"precious"


# The journal.


def stopped(folder, monkeypatch, *, shards=3):
    """Leave what a build leaves that was stopped at its last shard."""
    for number in range(shards):
        write_tar(folder / f"{number}.tar", [(f"{number}.jpg", jpeg(number)), (f"{number}.txt", b"a text")])
    scan = build.scan_tar

    def failing(path, *others):
        if path.name == f"{shards - 1}.tar":
            raise KeyboardInterrupt
        scan(path, *others)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build, "scan_tar", failing)
        build_index(folder)
    return folder / ".index.partial" / "journal.jsonl"


def edited(line, **changes):
    return json.dumps({**json.loads(line), **changes}).encode()


BAD_LINES = {
    "not UTF-8": lambda line: b"\xff" + line,
    "deep lists": lambda line: b"[" * 100_000,
    "deep mappings": lambda line: b'{"a":' * 100_000,
    "a key twice": lambda line: line[:-1] + b', "num_pairs": 2}',
    "no sizes": lambda line: edited(line, sizes={}),
    "negative sizes": lambda line: edited(line, sizes={**json.loads(line)["sizes"], "pairs.bin": -5}),
    "half a row": lambda line: edited(line, sizes={**json.loads(line)["sizes"], "spans.bin": 15}),
    "more pairs": lambda line: edited(line, num_pairs=10**9),
    "more pairs of no bytes": lambda line: edited(
        line, num_pairs=10**9, sizes=dict.fromkeys(json.loads(line)["sizes"], 0)
    ),
    "another shard": lambda line: edited(line, shard={**json.loads(line)["shard"], "name": "/etc/passwd"}),
    "a shard of another time": lambda line: edited(line, shard={**json.loads(line)["shard"], "mtime_ns": 1}),
    "a shard of more pairs": lambda line: edited(line, shard={**json.loads(line)["shard"], "num_pairs": 2}),
    "other columns": lambda line: edited(line, columns=[]),
    "fewer bytes": lambda line: edited(line, sizes={**json.loads(line)["sizes"], "keys.bin": 0}),
}


@pytest.mark.parametrize("change", BAD_LINES.values(), ids=BAD_LINES)
def test_a_journal_that_does_not_fit_is_gone_back_behind_with_one_note(change, tmp_path, monkeypatch):
    journal = stopped(tmp_path, monkeypatch)
    settings, first, second, _ = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join([settings, first, change(second), b""]))
    with pytest.warns(DataWarning, match=r"journal\.jsonl, line 3 does not fit .* from number 2 on") as said:
        about = build_index(tmp_path)
    assert len(said) == 1
    assert about.num_pairs == 3
    assert [open_pairs(tmp_path).key(i) for i in range(3)] == ["0.tar:0", "1.tar:1", "2.tar:2"]


def test_files_that_changed_while_a_build_was_stopped_are_found_when_it_is_whole(tmp_path, monkeypatch):
    journal = stopped(tmp_path, monkeypatch)
    path = journal.parent / "pairs.bin"
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(DamagedData, match=r"pairs\.bin: .* make the index again"):
        build_index(tmp_path)
    assert build_index(tmp_path).num_pairs == 3


# about.json and the files beside it.


def rewritten(folder, change):
    path = folder / "index" / "about.json"
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


ABOUTS = {
    "fewer pairs": lambda said: said.update(num_pairs=4),
    "more pairs": lambda said: said.update(num_pairs=10**15),
    "no columns": lambda said: said.update(columns=[]),
    "no shards": lambda said: said.update(shards=[]),
    "no kinds": lambda said: said.update(kinds=[]),
    "100 kinds": lambda said: said.update(kinds=[f"k{i}" for i in range(100)]),
    "other kinds": lambda said: said.update(kinds=["a", "b"]),
    "another fingerprint": lambda said: said.update(fingerprint="0" * 64),
    "escapes": lambda said: said.update(fingerprint="\x1b[31m"),
    "negative counts": lambda said: said.update(left_out={"no image": -5}),
    "a shard elsewhere": lambda said: said["shards"][0].update(name="/etc/passwd"),
    "a shard above": lambda said: said["shards"][0].update(name="a/../../b"),
    "a shard of NUL": lambda said: said["shards"][0].update(name="a\0b"),
    "a shard of escapes": lambda said: said["shards"][0].update(name="\x1b[31m"),
    "a negative size": lambda said: said["shards"][0].update(size_bytes=-1),
    "a digest of letters": lambda said: said["files"]["keys.bin"].update(sha256="x"),
    "another layout": lambda said: said.update(layout="rec"),
}


@pytest.mark.parametrize("change", ABOUTS.values(), ids=ABOUTS)
def test_an_index_that_says_other_things_of_itself_is_refused(change, tmp_path):
    as_tar(tmp_path, pairs())
    whole = build_index(tmp_path)
    rewritten(tmp_path, change)
    with pytest.raises(DamagedData, match=r"about\.json") as refused:
        read_about(tmp_path / "index")
    assert "\x1b" not in str(refused.value)
    # `data index` does not pass it on, but makes it anew.
    assert build_index(tmp_path) == whole


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/etc/passwd", "expected a path below the folder"),
        ("a/../../b", "expected a path below the folder"),
        ("a\0b", "expected a name without control characters"),
        ("\x1b[31m", "expected a name without control characters"),
    ],
)
def test_a_shard_of_a_name_that_no_shard_has_is_refused(name, said, tmp_path):
    as_tar(tmp_path, pairs())
    build_index(tmp_path)
    rewritten(tmp_path, lambda about: about["shards"][0].update(name=name))
    with pytest.raises(DamagedData, match=rf"shards\.0\.name: {said}"):
        open_pairs(tmp_path)


def test_a_key_twice_in_about_json_is_refused(tmp_path):
    as_tar(tmp_path, pairs())
    build_index(tmp_path)
    path = tmp_path / "index" / "about.json"
    path.write_text(path.read_text().rstrip()[:-1] + ', "num_pairs": 5}')
    with pytest.raises(DamagedData, match="the key 'num_pairs' twice"):
        open_pairs(tmp_path)


def fitting(folder, name, change, also=lambda said: None):
    """Change a file of an index, and what about.json says, and let the rest of about.json fit it."""
    import hashlib

    from rwkvclip_train.data.about import Column, FileEntry, ShardEntry, fingerprint

    path = folder / "index" / name
    path.write_bytes(change(path.read_bytes()))

    def follow(said):
        also(said)
        said["files"][name] = {
            "size_bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        said["fingerprint"] = fingerprint(
            said["kinds"],
            map(Column.model_validate, said["columns"]),
            map(ShardEntry.model_validate, [*said["shards"], *said["arrays"]]),
            {key: FileEntry.model_validate(entry) for key, entry in said["files"].items()},
        )

    rewritten(folder, follow)


def row(dtype, number, **values):
    """Return a change of one row."""

    def change(content):
        rows = np.frombuffer(content, dtype=dtype).copy()
        for field, value in values.items():
            rows[field][number] = value
        return rows.tobytes()

    return change


BINARIES = {
    "no pairs": ("pairs.bin", lambda old: b"", "no whole rows"),
    "a byte more": ("pairs.bin", lambda old: old + b"\0", "no whole rows"),
    "one row": ("pairs.bin", lambda old: old[: PAIR.itemsize], "no whole rows"),
    "all ones": ("pairs.bin", lambda old: b"\xff" * len(old), "row 0 does not begin"),
    "a shard more": ("pairs.bin", row(PAIR, 1, shard=7), "row 1: shard out of bounds"),
    "an offset beyond": ("pairs.bin", row(PAIR, 2, offset=1 << 63), "row 2: offset out of bounds"),
    "a length beyond": ("pairs.bin", row(PAIR, 2, length=(1 << 32) - 1), "row 2: offset out of bounds"),
    "no length": ("pairs.bin", row(PAIR, 2, length=0), "row 2: length out of bounds"),
    "a kind more": ("pairs.bin", row(PAIR, 3, kinds=4), "row 3: kinds out of bounds"),
    "no kind": ("pairs.bin", row(PAIR, 3, kinds=0), "row 3: kinds out of bounds"),
    "names backwards": ("pairs.bin", row(PAIR, 2, key=0), "row 1: key out of bounds"),
    "texts beyond": ("pairs.bin", row(PAIR, 2, span=1 << 63), "row 1: span out of bounds"),
    "fewer texts": ("pairs.bin", row(PAIR, 5, span=4), "the last row ends at 4 of 5"),
    "half a text": ("spans.bin", lambda old: old[:13], "no whole rows"),
    "a column more": ("spans.bin", row(SPAN, 1, column=99), "row 1: column out of bounds"),
    "a text beyond": ("spans.bin", row(SPAN, 2, offset=(1 << 64) - 1), "row 2: offset out of bounds"),
    "a text over the end": ("spans.bin", row(SPAN, 2, length=1 << 31), "row 2: offset out of bounds"),
}


@pytest.mark.parametrize(("name", "change", "said"), BINARIES.values(), ids=BINARIES)
def test_a_row_that_leads_elsewhere_is_refused_when_the_index_is_opened(name, change, said, tmp_path):
    as_tar(tmp_path, pairs())
    build_index(tmp_path)
    fitting(tmp_path, name, change)
    for digests in (True, False):
        with pytest.raises(DamagedData, match=rf"{said}.*make the index again"):
            open_pairs(tmp_path, digests=digests)


@pytest.mark.parametrize("write", [as_rec, as_parquet, as_npy])
def test_ids_that_are_not_whole_texts_are_refused(write, tmp_path):
    write(tmp_path, pairs())
    build_index(tmp_path)
    fitting(tmp_path, "spans.bin", row(SPAN, 3, length=76))
    with pytest.raises(DamagedData, match=r"spans\.bin: row 3: length out of bounds"):
        open_pairs(tmp_path)


def test_a_pair_that_moved_to_another_shard_is_refused(tmp_path):
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", [(f"{number}.jpg", jpeg(number)), (f"{number}.txt", b"a")])
    build_index(tmp_path)
    fitting(tmp_path, "pairs.bin", row(PAIR, 0, shard=1))
    with pytest.raises(DamagedData, match=r"pairs\.bin: its rows are of other shards"):
        open_pairs(tmp_path)


def test_bounds_are_looked_at_in_every_piece(tmp_path, monkeypatch):
    as_tar(tmp_path, pairs())
    build_index(tmp_path)
    monkeypatch.setattr("rwkvclip_train.data.index_check._ROWS_AT_ONCE", 2)
    assert len(open_pairs(tmp_path)) == 5
    fitting(tmp_path, "spans.bin", row(SPAN, 4, column=99))
    with pytest.raises(DamagedData, match="row 4: column out of bounds"):
        open_pairs(tmp_path)


def test_texts_of_a_table_that_changed_in_the_index_do_not_train(tmp_path):
    as_csv(tmp_path, pairs())
    build_index(tmp_path)
    path = tmp_path / "index" / "texts.bin"
    path.write_bytes(path.read_bytes().replace(b"raw text 3", b"lie text 3"))
    with pytest.raises(DamagedData, match=r"changed since it was written: texts\.bin; make the index again"):
        open_pairs(tmp_path)


@pytest.mark.parametrize("texts", [b"[1,2,3]", b'{"a": 1}', b"[" * 5000])
def test_texts_of_the_index_that_are_none_are_refused_with_the_pair(texts, tmp_path):
    as_csv(tmp_path, pairs())
    build_index(tmp_path)
    fitting(tmp_path, "texts.bin", lambda old: old + texts)
    size = (tmp_path / "index" / "texts.bin").stat().st_size
    fitting(tmp_path, "spans.bin", row(SPAN, 0, offset=size - len(texts), length=len(texts)))
    with pytest.raises(DamagedData, match=r"pairs\.csv:images/p0\.jpg: the text of kind raw cannot be read"):
        open_pairs(tmp_path).texts(0)["raw"]


def test_a_text_that_no_row_of_an_array_has_is_refused_with_the_row(tmp_path):
    as_npy(tmp_path, pairs())
    build_index(tmp_path)
    fitting(tmp_path, "pairs.bin", lambda old: old, also=lambda said: said["columns"][0].update(place=2))
    with pytest.raises(DamagedData, match="has 5 rows of 2 texts; the index asks for text 2 of row 1"):
        open_pairs(tmp_path).texts(1)["raw"]
