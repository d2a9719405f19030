"""Random damage to each kind of data file: one message or the genuine content, never anything else.

Seeded, and slow: `pytest -m slow tests/hostile/test_fuzz_data.py`.
"""

from __future__ import annotations

import gzip
import io
import pickle
import shutil
import struct
import time
import warnings
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from data_files import npy, png, wds
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from toy import ColourDataset, ColourEncoder, engine

from rwkvclip_eval.data.array_files import WrongArray, small_array
from rwkvclip_eval.data.formats.array_pickle import load_pickle
from rwkvclip_eval.data.formats.arrays import IDX_IMAGES, _read_idx
from rwkvclip_eval.data.manifest import open_manifest
from rwkvclip_eval.data.reading import damage_named
from rwkvclip_eval.data.shard_index import INDEX_NAME
from rwkvclip_eval.data.webdataset import open_webdataset
from rwkvclip_eval.errors import DamagedData, DataNotFound, UserError
from rwkvclip_eval.features.store import FeatureStore
from rwkvclip_eval.features.upkeep import entries

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("little_memory")]
MOST_S = 10
"""What one damaged file of some KB may take."""

fuzz = settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),
)

INTERESTING = st.sampled_from(
    [
        *(b"", b"\0", b"\xff", b"\0" * 8, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"),
        *(struct.pack(order + "Q", n) for n in (1 << 31, 1 << 40, 1 << 62) for order in "<>"),
        *(b"9" * 30, b"-1", b"2000000000", b"../", b"/", b"\xed\xa0\x80", b"\r\n", b'"', b",", b"nan"),
    ]
)
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.one_of(INTERESTING, st.binary(max_size=12)), st.integers(0, 16)),
    min_size=1,
    max_size=5,
)


def edited(content: bytes, edits: list[tuple[float, bytes, int]]) -> bytes:
    """Replace, at a share of the length each, some bytes by others."""
    for share, new, length in edits:
        place = int(share * len(content))
        content = content[:place] + new + content[place + length :]
    return content


def outcome(call: Callable[[], Any]) -> Any:
    """Return what a call gives, None where it says in one message that the data are damaged."""
    clock = time.monotonic()
    try:
        return call()
    except (UserError, WrongArray) as error:
        assert len(str(error)) < 2000
        assert (
            isinstance(error, DamagedData | DataNotFound | WrongArray)
            or "Unknown column" in str(error)
            or ("expected a header" in str(error))
        )
        return None
    finally:
        assert time.monotonic() - clock < MOST_S


@pytest.fixture(scope="module")
def place() -> Any:
    made = Path(mkdtemp(prefix="rwkvclip-fuzz-"))
    yield made
    shutil.rmtree(made)


@fuzz
@given(edits=EDITS)
def test_a_damaged_index_changes_no_label(place: Path, edits: list[tuple[float, bytes, int]]) -> None:
    folder = place / "index" / "wds_x"
    if not folder.exists():
        wds(place / "index", 2, 0, 1)
    index = folder / "test" / INDEX_NAME
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        genuine = open_webdataset(folder, "test", place).fingerprint
        whole = index.read_bytes()
        index.write_bytes(edited(whole, edits))
        found = open_webdataset(folder, "test", place)
    assert (found.fingerprint, found.keys) == (genuine, ["s0", "s1", "s2"])
    assert found.labels.tolist() == [2, 0, 1]


@fuzz
@given(edits=EDITS)
def test_a_damaged_tar_opens_or_is_said(place: Path, edits: list[tuple[float, bytes, int]]) -> None:
    folder = place / "tar" / "wds_x"
    whole = place / "whole.tar"
    if not folder.exists():
        shutil.copy(wds(place / "tar", 2, 0, 1) / "test" / "0.tar", whole)
    (folder / "test" / INDEX_NAME).unlink(missing_ok=True)
    (folder / "test" / "0.tar").write_bytes(edited(whole.read_bytes(), edits))
    found = outcome(lambda: open_webdataset(folder, "test", place))
    if found is not None:
        for i in range(len(found.keys)):
            assert isinstance(found.images.read(i), bytes)


@fuzz
@given(
    edits=EDITS,
    rows=st.lists(
        st.lists(
            st.one_of(st.text(max_size=8), st.sampled_from(["owl/a.png", "x", "1", "1;2", "../x", "/x"])),
            max_size=4,
        ),
        max_size=4,
    ),
    columns=st.permutations(["image", "label", "split", "key"]),
    damage=st.booleans(),
)
def test_a_damaged_manifest_opens_or_is_said(
    place: Path,
    edits: list[tuple[float, bytes, int]],
    rows: list[list[str]],
    columns: list[str],
    damage: bool,
) -> None:
    root = place / "manifest"
    (root / "owl").mkdir(parents=True, exist_ok=True)
    (root / "owl" / "a.png").write_bytes(png())
    lines = [",".join(columns), "owl/a.png,1,test,k"] if damage else [",".join(columns)]
    text = "\n".join([*lines, *(",".join(row) for row in rows)]) + "\n"
    content = text.encode(errors="surrogatepass")
    (root / "labels.csv").write_bytes(edited(content, edits) if damage else content)
    found = outcome(lambda: open_manifest(root / "labels.csv", None, "test", cache_dir=place))
    if found is not None:
        assert {found.images.read(i) for i in range(len(found.keys))} == {png()}


OPCODES = st.sampled_from([bytes([code]) for code in range(256)])
CALLS = (
    *(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n"),
    *(b"cos\nsystem\n", b"U\x02id", b"K\x01", b"(", b"tR", b"}", b"b"),
)
PIECES = st.one_of(OPCODES, INTERESTING, st.sampled_from(CALLS))


@fuzz
@given(edits=EDITS, pieces=st.lists(PIECES, max_size=30), protocol=st.integers(0, 5), damage=st.booleans())
def test_a_damaged_pickle_of_arrays_is_read_or_said(
    place: Path, edits: list[tuple[float, bytes, int]], pieces: list[bytes], protocol: int, damage: bool
) -> None:
    whole = pickle.dumps({"data": np.arange(12, dtype=np.uint8).reshape(2, 6), "labels": [0, 1]}, protocol)
    path = place / "batch"
    path.write_bytes(edited(whole, edits) if damage else b"".join(pieces) + b".")
    found = outcome(lambda: load_pickle(path))
    for value in (found or {}).values():
        assert not isinstance(value, np.ndarray) or value.dtype.kind in "biuf"


@fuzz
@given(edits=EDITS, packed=st.booleans())
def test_damaged_arrays_are_read_or_said(
    place: Path, edits: list[tuple[float, bytes, int]], packed: bool
) -> None:
    read = outcome(lambda: small_array(edited(npy(np.arange(6.0).reshape(2, 3)), edits)))
    assert read is None or read.dtype.kind in "biuf"
    idx = struct.pack(">IIII", IDX_IMAGES, 2, 2, 3) + bytes(12)
    path = place / ("images.gz" if packed else "images")
    path.write_bytes(edited(gzip.compress(idx) if packed else idx, edits))

    def read_idx() -> Any:
        with damage_named("mnist"):
            return _read_idx(path, IDX_IMAGES)

    found = outcome(read_idx)
    assert found is None or found.dtype == np.uint8


@settings(fuzz, max_examples=200)
@given(edits=EDITS, which=st.integers(0, 4))
def test_a_damaged_entry_of_the_store_gives_what_it_gave(
    place: Path, edits: list[tuple[float, bytes, int]], which: int
) -> None:
    root = place / "store"
    store, dataset, encoder = FeatureStore(root), ColourDataset(12), ColourEncoder()
    genuine = store.images(encoder, dataset, engine())
    expected = np.array(genuine.embedding), np.array(genuine.probe)
    (entry,) = [e for e in entries(root) if e["complete"]]
    files = sorted(path for path in entry["path"].iterdir() if path.is_file())
    path = files[which % len(files)]
    path.write_bytes(edited(path.read_bytes(), edits))
    entries(root)
    messages: list[str] = []
    again = store.images(encoder, dataset, engine(on_message=messages.append))
    np.testing.assert_array_equal(again.embedding, expected[0])
    np.testing.assert_array_equal(again.probe, expected[1])
    assert len(messages) <= 1
    assert not again.missing


DIGITS = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from([b"0", b"4", b"8", b"12"]), st.just(1)), min_size=1, max_size=2
)


@settings(fuzz, max_examples=150)
@given(edits=st.one_of(EDITS, DIGITS), batches=st.integers(1, 3))
def test_a_damaged_journal_gives_what_an_undamaged_one_gives(
    place: Path, edits: list[tuple[float, bytes, int]], batches: int
) -> None:
    class Stop(Exception):
        pass

    def progress(done: int, total: int, what: str) -> None:
        if done >= 4 * batches:
            raise Stop

    root = place / "journal"
    shutil.rmtree(root, ignore_errors=True)
    dataset = ColourDataset(14)
    with pytest.raises(Stop):
        FeatureStore(root).images(ColourEncoder(), dataset, engine(batch_size=4, on_progress=progress))
    journal = next(root.rglob("journal.jsonl"))
    journal.write_bytes(edited(journal.read_bytes(), edits))
    stored = FeatureStore(root).images(ColourEncoder(), dataset, engine(batch_size=4))
    np.testing.assert_allclose(np.linalg.norm(stored.embedding, axis=1), 1, rtol=1e-5)


def test_an_edit_changes_what_it_should() -> None:
    assert edited(b"abcdef", [(0.5, b"XY", 1)]) == b"abcXYef"
    assert edited(b"abc", [(1.0, b"", 4)]) == b"abc"
    assert io.BytesIO(edited(b"", [(0.3, b"x", 2)])).read() == b"x"
