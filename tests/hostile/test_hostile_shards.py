"""Shards and their index that somebody else made: one message, no flood, no wrong label taken."""

from __future__ import annotations

import io
import json
import os
import tarfile
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import TIB, huge_png, npy, npy_header, png, shard, sparse_tar, wds
from PIL import EpsImagePlugin, Image

from rwkvclip_eval.data import shard_index
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.reading import bounded_pillow
from rwkvclip_eval.data.shard_index import INDEX_NAME
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.data.webdataset import open_webdataset
from rwkvclip_eval.errors import DamagedData, DataWarning, UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("little_memory")]


@pytest.mark.parametrize("text", ["1000000000", "9" * 30, "9" * 5000, "0", "-1", "two", "", "1e9", "٣"])
def test_a_count_of_shards_that_is_none_is_said(tmp_path: Path, text: str) -> None:
    folder = wds(tmp_path, 0, 1)
    (folder / "test" / "nshards.txt").write_text(text)
    with pytest.raises(DamagedData, match=r"nshards\.txt") as caught:
        open_webdataset(folder, "test", tmp_path)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        ("classification", b"9" * 30, "class id from 0"),
        ("classification", b"9" * 5000, "class id from 0"),
        ("classification", b"2000000000", "at most 999999"),
        ("classification", b"", "class id from 0"),
        ("classification", b"\xff", "class id from 0"),
        ("classification", b"0x3", "class id from 0"),
        ("classification", b"1_0", "class id from 0"),
        ("multilabel", npy_header((1 << 41,)), "0 bytes follow"),
        ("multilabel", npy(np.array([None, 1])), "plain numbers"),
        ("multilabel", npy(np.zeros(1_000_001, np.int8)), "expected a vector"),
        ("multilabel", npy(np.full(3, np.nan)), "expected a vector"),
        ("multilabel", npy(np.zeros((2, 2))), "expected a vector"),
        ("retrieval", b"\xed\xa0\x80", "UTF-8"),
    ],
)
def test_a_target_that_is_none_is_said_with_its_member(
    tmp_path: Path, kind: str, content: bytes, said: str
) -> None:
    folder = wds(tmp_path, content, kind=kind)
    with pytest.raises(DamagedData, match=f"0.tar, member s0.*{said}") as caught:
        open_webdataset(folder, "test", tmp_path)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.REGTYPE, "at most"),
        (tarfile.XHDTYPE, "a header of"),
        (tarfile.GNUTYPE_LONGNAME, "a header of"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
    ],
)
def test_a_member_of_a_tebibyte_is_not_read(tmp_path: Path, kind: bytes, said: str) -> None:
    folder = wds(tmp_path, 0)
    sparse_tar(folder / "test" / "0.tar", "a.png", TIB, kind)
    if kind == tarfile.REGTYPE:
        with (folder / "test" / "0.tar").open("rb+") as stream:
            stream.seek(512 + TIB)
            stream.write(bytes_of_label())
    with pytest.raises(DamagedData, match=said):
        open_webdataset(folder, "test", tmp_path)


def bytes_of_label() -> bytes:
    info = tarfile.TarInfo("a.cls")
    info.size = 1
    return info.tobuf(tarfile.GNU_FORMAT) + b"0".ljust(512, b"\0") + bytes(1024)


def test_a_member_of_negative_size_ends_the_scan(tmp_path: Path) -> None:
    folder = wds(tmp_path, 0)
    info = tarfile.TarInfo("a.png")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 4 + (-1024).to_bytes(8, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    (folder / "test" / "0.tar").write_bytes(bytes(header) * 3 + bytes(1024))
    with pytest.raises(DamagedData, match=r"0\.tar"):
        open_webdataset(folder, "test", tmp_path)


def test_names_of_members_that_are_no_text_are_said(tmp_path: Path) -> None:
    folder = wds(tmp_path, 0)
    members = [(f"odd\udce9{end}", content) for end, content in ((".png", png()), (".cls", b"0"))]
    shard(folder / "test" / "0.tar", members)
    with pytest.raises(DamagedData, match="not UTF-8"):
        open_webdataset(folder, "test", tmp_path)


@pytest.mark.parametrize("count", [True, False])
@pytest.mark.parametrize("what", ["pipe", "device", "folder"])
def test_what_is_no_file_is_not_opened_as_a_shard(tmp_path: Path, what: str, count: bool) -> None:
    folder = wds(tmp_path, 0)
    place = folder / "test" / "0.tar"
    place.unlink()
    if what == "pipe":
        os.mkfifo(place)
    elif what == "device":
        place.symlink_to("/dev/zero")
    else:
        place.mkdir()
    if count:
        (folder / "test" / "nshards.txt").write_text("1")
    with pytest.raises(DamagedData, match=f"expected a file, found a (named )?{what}"):
        open_webdataset(folder, "test", tmp_path)


def test_a_picture_of_ten_thousand_million_pixels_is_damage_and_not_decoded(tmp_path: Path) -> None:
    folder = wds(tmp_path, 0)
    shard(folder / "test" / "0.tar", [("a.png", huge_png()), ("a.cls", b"0")])
    dataset = open_dataset(DatasetRef(name="x"), data_root=tmp_path, cache_dir=tmp_path)
    with warnings.catch_warnings(), pytest.raises(DamagedData, match=r"at most 178956970"):
        warnings.simplefilter("error")
        dataset.image(0)
    shard(folder / "test" / "0.tar", [("a.png", huge_png(10_000)), ("a.cls", b"0")])
    dataset = open_dataset(DatasetRef(name="x"), data_root=tmp_path, cache_dir=tmp_path)
    with pytest.raises(DamagedData, match="Cannot decode"):
        dataset.image(0)


def test_an_image_that_another_program_would_have_to_draw_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess

    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("started a program"))
    wds(tmp_path, 0)
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    shard(tmp_path / "wds_x" / "test" / "0.tar", [("a.png", drawing), ("a.cls", b"0")])
    dataset = open_dataset(DatasetRef(name="x"), data_root=tmp_path, cache_dir=tmp_path)
    with pytest.raises(DamagedData, match="not an image"):
        dataset.image(0)
    # Nor where another package opens it.
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    bounded_pillow.cache_clear()
    open_dataset(DatasetRef(name="x"), data_root=tmp_path, cache_dir=tmp_path)
    with pytest.raises(OSError, match="Ghostscript"):
        Image.open(io.BytesIO(drawing)).load()


# The hidden index.


def change(path: Path, make: Callable[[pa.Table], pa.Table], *, digest: bool = True) -> None:
    """Write the index anew with other columns, and with what it said of itself."""
    table = pq.ParquetFile(path).read()
    about = json.loads(table.schema.metadata[b"rwkvclip"])
    if not digest:
        about.pop("digest")
    made = make(table.replace_schema_metadata(None))
    pq.write_table(made.replace_schema_metadata({"rwkvclip": json.dumps(about)}), path)


def column(name: str, values: list[Any], kind: Any = None) -> Callable[[pa.Table], pa.Table]:
    def make(table: pa.Table) -> pa.Table:
        place = table.column_names.index(name)
        return table.set_column(place, name, pa.array(values, kind or table.schema.field(name).type))

    return make


WRONG: dict[str, Callable[[pa.Table], pa.Table]] = {
    "labels changed": column("target", [1, 0, 2]),
    "labels of 2e9": column("target", [2_000_000_000, 0, 1]),
    "labels as texts": column("target", ["0", "1", "2"], pa.string()),
    "labels missing": column("target", [0, None, 1]),
    "other keys": column("key", ["s0", "s2", "s1"]),
    "a shard that is not there": column("shard", [0, 7, 0]),
    "a negative shard": column("shard", [0, -1, 0]),
    "places outside": column("offset", [512, 1 << 50, 512]),
    "negative places": column("offset", [512, -1, 512]),
    "sizes of a tebibyte": column("size", [1, TIB, 1]),
    "places that overflow": column("offset", [512, (1 << 63) - 1, 512]),
    "a column less": lambda table: table.drop_columns(["size"]),
    "no rows": lambda table: table.slice(0, 0),
    "rows twice": lambda table: pa.concat_tables([table, table]),
}


@pytest.mark.parametrize("digest", [True, False])
@pytest.mark.parametrize("how", WRONG)
def test_an_index_that_does_not_fit_is_made_anew_with_a_warning(
    tmp_path: Path, how: str, digest: bool
) -> None:
    folder = wds(tmp_path, 0, 1, 2)
    genuine = open_webdataset(folder, "test", tmp_path)
    index = folder / "test" / INDEX_NAME
    change(index, WRONG[how], digest=digest)
    if not digest and how in ("labels changed", "other keys", "rows twice", "labels of 2e9"):
        return  # `data verify` finds these in an index of before; see below.
    with pytest.warns(DataWarning, match="does not fit its shards"):
        again = open_webdataset(folder, "test", tmp_path)
    assert (again.keys, again.labels.tolist()) == (genuine.keys, [0, 1, 2])
    assert again.fingerprint == genuine.fingerprint
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_webdataset(folder, "test", tmp_path)


@pytest.mark.parametrize("how", ["labels changed", "other keys", "rows twice"])
def test_verify_finds_what_an_index_of_before_says_wrongly(tmp_path: Path, run: Any, how: str) -> None:
    folder = wds(tmp_path, 0, 1, 2)
    genuine = open_webdataset(folder, "test", tmp_path).fingerprint
    index = folder / "test" / INDEX_NAME
    change(index, WRONG[how], digest=False)
    code, said, _ = run("data", "verify", "x", "--data-root", tmp_path)
    assert code == 1
    assert "NOT fine" in said
    assert "said something else than its shards" in said
    code, said, _ = run("data", "verify", "x", "--data-root", tmp_path)
    assert code == 0
    assert genuine in said
    assert open_webdataset(folder, "test", tmp_path).labels.tolist() == [0, 1, 2]


def test_an_index_of_before_is_read_and_verify_gives_it_a_digest(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = wds(tmp_path, 0, 1, 2)
    open_webdataset(folder, "test", tmp_path)
    index = folder / "test" / INDEX_NAME
    change(index, lambda table: table, digest=False)
    scanned: list[object] = []
    scan = shard_index.index_of.__globals__["_write"]
    monkeypatch.setattr(shard_index, "_write", lambda *a: (scanned.append(a), scan(*a)))
    open_webdataset(folder, "test", tmp_path)
    assert not scanned
    assert run("data", "verify", "x", "--data-root", tmp_path)[0] == 0
    change(index, WRONG["labels changed"])
    with pytest.warns(DataWarning, match="changed since it was written"):
        open_webdataset(folder, "test", tmp_path)


@pytest.mark.parametrize("kind", ["multilabel", "retrieval"])
def test_indices_of_other_kinds_have_digests_too(tmp_path: Path, kind: str) -> None:
    given = [npy(np.array([0, 1, -1])), npy(np.array([1, 0, 0]))] if kind == "multilabel" else ["a\nb", "c"]
    folder = wds(tmp_path, *given, kind=kind)
    genuine = open_webdataset(folder, "test", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_webdataset(folder, "test", tmp_path)
    other = [[1, 1, 1], [1, 0, 0]] if kind == "multilabel" else [["x"], ["c"]]
    change(folder / "test" / INDEX_NAME, column("target", other))
    with pytest.warns(DataWarning):
        again = open_webdataset(folder, "test", tmp_path)
    assert again.captions == genuine.captions
    np.testing.assert_array_equal(again.labels, genuine.labels)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 500 + b"PAR1", b"\xff" * 10_000])
def test_an_index_that_is_no_table_is_made_anew(tmp_path: Path, content: bytes) -> None:
    folder = wds(tmp_path, 0, 1)
    open_webdataset(folder, "test", tmp_path)
    (folder / "test" / INDEX_NAME).write_bytes(content)
    with pytest.warns(DataWarning):
        assert open_webdataset(folder, "test", tmp_path).keys == ["s0", "s1"]


def test_the_warning_of_the_command_is_its_text_alone(tmp_path: Path, run: Any) -> None:
    folder = wds(tmp_path, 0, 1, 2)
    open_webdataset(folder, "test", tmp_path)
    (folder / "test" / INDEX_NAME).write_bytes(b"PAR1")
    code, _, said = run("data", "verify", "x", "--data-root", tmp_path)
    assert code == 0
    assert said.startswith("Warning: ")
    assert "DataWarning" not in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("split", ["../../wds_x/test", "/", "..", "", "a/b", "a\0b", "a\nb"])
def test_a_split_that_leads_elsewhere_is_refused(tmp_path: Path, split: str) -> None:
    folder = wds(tmp_path, 0)
    with pytest.raises(UserError, match="is no split"):
        open_webdataset(folder, split, tmp_path)
