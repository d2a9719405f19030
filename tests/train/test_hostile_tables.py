"""Token arrays, tables and lists of keys, as somebody may have changed them or never meant them."""

import os
import struct

import numpy as np
import pytest
from pair_files import as_npy, as_parquet, as_tar, jpeg, pairs, write_tar

from rwkvclip_eval.errors import DamagedData, DataWarning, UserError
from rwkvclip_train.data import bench
from rwkvclip_train.data.bench import measure
from rwkvclip_train.data.build import Settings, build_index
from rwkvclip_train.data.formats import table
from rwkvclip_train.data.open import open_pairs
from rwkvclip_train.recipe import AugmentationRecipe

# Token arrays.


def header(shape):
    said = f"{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said)) + said + b"\0" * 5 * 154 * 4


@pytest.mark.parametrize("shape", ["(-5, 154)", "(True, 154)", "(5, -154)", f"({10**30}, 154)", "(5.0, 154)"])
def test_an_array_of_an_odd_shape_is_refused(shape, tmp_path):
    as_tar(tmp_path, pairs(), texts="")
    (tmp_path / "tokens.npy").write_bytes(header(shape))
    with pytest.raises(DamagedData, match=r"tokens\.npy is no NumPy array that can be mapped: .*shape"):
        build_index(tmp_path)


@pytest.mark.parametrize("name", ["tokens.npy", "0.npy"])
def test_an_array_of_more_rows_than_the_shards_have_bytes_is_not_read(name, tmp_path):
    as_tar(tmp_path, pairs(), texts="")
    path, rows = tmp_path / name, (2**40) // (154 * 4)
    path.write_bytes(header(f"({rows}, 154)"))
    os.truncate(path, len(header(f"({rows}, 154)")) - 5 * 154 * 4 + rows * 154 * 4)
    with pytest.raises(DamagedData, match=rf"{name} has {rows} rows of texts; the shards it belongs to are"):
        build_index(tmp_path)


@pytest.mark.parametrize(("dtype", "value"), [("float32", np.nan), ("int32", 49408), ("int32", -1)])
def test_ids_that_changed_since_are_refused_when_they_are_read(dtype, value, tmp_path):
    as_npy(tmp_path, pairs(), dtype=dtype)
    build_index(tmp_path)
    path = tmp_path / "tokens.npy"
    state = path.stat()
    rows = np.load(path)
    rows[3, 5] = value
    np.save(path, rows)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    source = open_pairs(tmp_path)
    with pytest.raises(DamagedData, match=r"tokens\.npy, row 3: expected ids from 0 to 49407"):
        source.texts(3)["raw"]


# Tables.


def parquet(folder, **columns):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), folder / "0.parquet")


@pytest.mark.parametrize("image", [[1, 2], [{"bytes": 1, "path": 2}] * 2, [["a.jpg"], ["b.jpg"]], [1.5, 2]])
def test_a_column_of_images_of_another_type_is_refused(image, tmp_path):
    parquet(tmp_path, image=image, raw=["x", "y"])
    with pytest.raises(UserError, match=r"0\.parquet: the column image holds .*; expected paths, bytes"):
        build_index(tmp_path)


def test_captions_may_be_categories_or_views(tmp_path):
    import pyarrow as pa

    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    (tmp_path / "b.jpg").write_bytes(jpeg(1))
    parquet(
        tmp_path,
        image=pa.array(["a.jpg", "b.jpg"]).dictionary_encode(),
        raw=pa.array(["x", "y"]).dictionary_encode(),
        said=pa.array(["s", "t"], pa.string_view()),
    )
    build_index(tmp_path)
    source = open_pairs(tmp_path)
    assert [dict(source.texts(i)) for i in range(2)] == [
        {"raw": ["x"], "said": ["s"]},
        {"raw": ["y"], "said": ["t"]},
    ]


def test_images_as_bytes_alone_are_read(tmp_path):
    parquet(tmp_path, image=[pair.jpeg for pair in pairs()[:2]], raw=["x", "y"])
    build_index(tmp_path)
    assert open_pairs(tmp_path).content(1) == pairs()[1].jpeg


@pytest.mark.parametrize("limit", ["MOST_ROWS", "MOST_LETTERS"])
def test_rows_of_one_image_have_a_limit_in_the_message(limit, tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    (tmp_path / "pairs.csv").write_text("image,raw\n" + "a.jpg,one text\n" * 30)
    assert build_index(tmp_path).num_pairs == 1
    monkeypatch.setattr(table, limit, 20)
    with pytest.raises(DamagedData, match=r"pairs\.csv, row \d+: the rows of one image \('a\.jpg'\).* 20"):
        build_index(tmp_path, None, Settings(longest=99))


def test_rows_without_an_image_are_samples_of_their_own(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    (tmp_path / "pairs.csv").write_text("image,raw\na.jpg,x\n" + ",y\n" * 3)
    assert build_index(tmp_path).left_out == {"no image": 3}


# What passed in silence.


def test_keys_to_leave_out_that_no_pair_has_are_counted(tmp_path):
    as_tar(tmp_path, pairs())
    with pytest.warns(DataWarning, match="2 of the 3 keys in the list of --without are of no pair here"):
        build_index(tmp_path, None, Settings(without=frozenset(["0.tar:p1", "p2", "1.tar:p3"])))


def test_json_that_holds_a_key_twice_is_no_text(tmp_path):
    image = jpeg(0)
    write_tar(
        tmp_path / "0.tar",
        [
            ("a.jpg", image),
            ("a.json", b'{"raw": "one", "raw": "two"}'),
            ("b.jpg", image),
            ("b.json", b'{"raw": "one"}'),
        ],
    )
    about = build_index(tmp_path)
    assert about.not_drawn == {"json: JSON that holds a key twice": 1}
    assert about.num_pairs == 1


def test_a_clock_that_is_too_coarse_for_a_round_divides_by_no_zero(tmp_path, monkeypatch):
    as_parquet(tmp_path, pairs())
    build_index(tmp_path)
    monkeypatch.setattr(bench.time, "process_time", lambda: 1.0)
    speed = measure(
        open_pairs(tmp_path), size_px=(16, 16), augmentation=AugmentationRecipe(), images=2, rounds=1
    )
    assert np.isfinite([speed.ratio, speed.images_per_s, speed.plain_images_per_s]).all()
