import pickle
import struct

import numpy as np
import pytest
import torch
from pair_files import LAYOUTS, MAGIC, as_npy, as_parquet, as_rec, as_tar, pairs, record, write_tar

from rwkvclip_eval.errors import DamagedData, DataNotFound, UserError
from rwkvclip_models import tokenize
from rwkvclip_train.data.build import Settings, build_index
from rwkvclip_train.data.formats.record_io import parse_record
from rwkvclip_train.data.open import open_pairs
from rwkvclip_train.data.pairs import Pairs, Part
from rwkvclip_train.recipe import AugmentationRecipe


def opened(folder, **settings):
    build_index(folder, None, Settings(**settings))
    return open_pairs(folder)


def trained_on(source, kind, size_px=(16, 16)):
    return Pairs(
        [Part(source, {kind: 1.0})],
        image_size_px=size_px,
        tokenize=tokenize,
        augmentation=AugmentationRecipe(),
        seed=3,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_ids_and_pixels(layout, tmp_path):
    made = pairs()
    LAYOUTS[layout](tmp_path, made)
    source = opened(tmp_path)
    assert len(source) == len(made)
    assert set(source.kinds) == {"raw", "synthetic"}
    assert len({source.key(i) for i in range(len(source))}) == len(made)
    for kind, first in (("raw", 0), ("synthetic", 77)):
        some = trained_on(source, kind)
        batch = some.collate([some[2, i] for i in range(len(made))])
        ids = np.stack([pair.ids[first : first + 77] for pair in made])
        assert torch.equal(batch.tokens, torch.from_numpy(ids))
        assert batch.kinds == (kind,) * len(made)
        as_tar(tmp_path / "reference", made)
        expected = trained_on(opened(tmp_path / "reference"), kind)
        assert torch.equal(batch.pixels, expected.collate([expected[2, i] for i in range(5)]).pixels)
    assert [source.content(i) for i in range(len(made))] == [pair.jpeg for pair in made]


def test_a_record_is_split_at_an_aligned_magic_alone():
    content = [struct.pack("<IfQQ", 0, 0, 0, 0) + pair.jpeg for pair in pairs()]
    parts = [record(part) for part in content]
    # The magic stands before each part, and once more where it is not split.
    assert [part.count(MAGIC) for part in parts] == [1, 2, 2, 1, 1]
    kinds = [struct.unpack("<I", part[4:8])[0] >> 29 for part in parts]
    assert kinds == [0, 1, 0, 0, 0]
    assert [parse_record(part, "x").image for part in parts] == [pair.jpeg for pair in pairs()]


def test_records_split_among_their_labels_are_read():
    # As float32 no id has these bytes; a magic in the header's id does.
    labels = np.arange(77, dtype="<f4")
    content = struct.pack("<IfQQ", 77, 0, 0xCED7230A, 0) + labels.tobytes() + b"image"
    found = parse_record(record(content), "x")
    assert found.labels.tolist() == labels.tolist()
    assert found.image == b"image"


def test_a_source_goes_to_workers_without_open_files(tmp_path):
    as_rec(tmp_path, pairs())
    source = opened(tmp_path)
    before = source.content(1)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.content(1) == before
    assert copy.texts(1)["raw"][0].tolist() == source.texts(1)["raw"][0].tolist()
    assert len(pickle.dumps(source)) < 10_000


def test_lines_of_a_txt_are_texts_of_kind_txt(tmp_path):
    write_tar(tmp_path / "0.tar", [("a/b.jpg", pairs()[0].jpeg), ("a/b.txt", b"one\n\n two \n")])
    source = opened(tmp_path)
    assert dict(source.texts(0)) == {"txt": ["one", " two "]}
    assert source.key(0) == "0.tar:a/b"


def test_shards_are_ordered_by_number_and_rows_of_one_array_run_through_them(tmp_path):
    made = pairs()
    for shard, part in (("10.tar", made[3:]), ("2.tar", made[:3])):
        write_tar(tmp_path / shard, [(f"{pair.name}.jpg", pair.jpeg) for pair in part])
    np.save(tmp_path / "tokens.npy", np.stack([pair.ids for pair in made]))
    source = opened(tmp_path)
    assert [source.key(i) for i in (0, 3)] == ["2.tar:p0", "10.tar:p3"]
    assert [source.texts(i)["synthetic"][0].tolist() for i in range(5)] == [m.ids[77:].tolist() for m in made]


def test_rows_of_an_array_count_samples_that_are_left_out(tmp_path):
    made = pairs()
    as_npy(tmp_path, made)
    source = opened(tmp_path, without=frozenset(["0.tar:p1"]))
    assert [source.key(i) for i in range(4)] == [f"0.tar:p{i}" for i in (0, 2, 3, 4)]
    assert source.texts(1)["raw"][0].tolist() == made[2].ids[:77].tolist()


def test_rows_of_one_image_are_one_pair(tmp_path):
    made = pairs()[0]
    (tmp_path / "a.jpg").write_bytes(made.jpeg)
    (tmp_path / "b.jpg").write_bytes(made.jpeg)
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,one\na.jpg,two\nb.jpg,three\n")
    source = opened(tmp_path)
    assert [source.texts(i)["caption"] for i in range(2)] == [["one", "two"], ["three"]]


def test_texts_of_a_parquet_may_be_strings_and_lists(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pairs()[:2]
    for pair in made:
        (tmp_path / f"{pair.name}.jpg").write_bytes(pair.jpeg)
    table = {"path": ["p0.jpg", "p1.jpg"], "raw": ["x", None], "said": [["a", "b"], ["c"]], "n": [1, 2]}
    pq.write_table(pa.table(table), tmp_path / "pairs.parquet")
    source = opened(tmp_path)
    assert [dict(source.texts(i)) for i in range(2)] == [{"raw": ["x"], "said": ["a", "b"]}, {"said": ["c"]}]
    assert source.content(1) == made[1].jpeg


def test_token_kinds_are_named_by_the_user_and_a_wrong_number_is_refused(tmp_path):
    as_rec(tmp_path, pairs())
    assert set(opened(tmp_path, token_kinds=("a", "b")).kinds) == {"a", "b"}
    with pytest.raises(UserError, match="has 2 texts a row, --token-kinds names 1"):
        build_index(tmp_path, None, Settings(token_kinds=("a",)))


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def damage_tar(folder):
    as_tar(folder, pairs())
    cut(folder / "0.tar", 3000)


def damage_rec(folder):
    as_rec(folder, pairs())
    cut(folder / "train.rec", 2500)


def damage_chain(folder):
    as_rec(folder, pairs())
    content = bytearray((folder / "train.rec").read_bytes())
    content[int((folder / "train.idx").read_text().split()[3])] ^= 1
    (folder / "train.rec").write_bytes(content)


def damage_idx(folder):
    as_rec(folder, pairs())
    (folder / "train.idx").write_text("0\t0\n1\t99999999\n")


def listed(folder, *places):
    """A .idx that has only some lines of the whole."""
    as_rec(folder, pairs())
    lines = (folder / "train.idx").read_text().splitlines(keepends=True)
    (folder / "train.idx").write_text("".join(lines[place] for place in places))


def cut_idx(folder):
    listed(folder, 0, 1, 2)


def gap_in_idx(folder):
    listed(folder, 4, 0, 1, 3)


def no_first_in_idx(folder):
    listed(folder, 1, 2, 3, 4)


def damage_labels(folder):
    folder.mkdir(exist_ok=True)
    content = struct.pack("<IfQQ", 78, 0, 0, 0) + np.zeros(78, "<f4").tobytes() + pairs()[0].jpeg
    (folder / "train.rec").write_bytes(record(content))


def damage_parquet(folder):
    as_parquet(folder, pairs())
    cut(folder / "0.parquet", 2000)


def damage_rows(folder):
    as_npy(folder, pairs())
    np.save(folder / "tokens.npy", np.stack([pair.ids for pair in pairs()[:4]]))


def damage_more_rows(folder):
    as_npy(folder, pairs())
    np.save(folder / "tokens.npy", np.stack([pair.ids for pair in (*pairs(), pairs()[0])]))


def damage_ids(folder):
    as_npy(folder, pairs())
    rows = np.stack([pair.ids for pair in pairs()])
    rows[3, 5] = 50000
    np.save(folder / "tokens.npy", rows)


def damage_order(folder):
    as_npy(folder, pairs())
    np.save(folder / "tokens.npy", np.asfortranarray(np.stack([pair.ids for pair in pairs()])))


def damage_pickle(folder):
    as_npy(folder, pairs())
    np.save(folder / "tokens.npy", np.array([{"a": 1}], dtype=object))


def damage_twice(folder):
    image = pairs()[0].jpeg
    members = [(f"{name}.{end}", image if end == "jpg" else b"x") for name in "aba" for end in ("jpg", "txt")]
    write_tar(folder / "0.tar", members)


def damage_nothing(folder):
    write_tar(folder / "0.tar", [("a.jpg", pairs()[0].jpeg), ("b.txt", b"alone")])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_tar, r"0\.tar is cut off or damaged"),
        (damage_rec, r"train\.rec, record 1 at byte \d+ is cut off"),
        (damage_chain, r"train\.rec, record 1 at byte \d+: no RecordIO part begins"),
        (damage_idx, r"train\.idx, line 2: expected a key, a tab and a place in train\.rec"),
        (cut_idx, r"train\.idx lacks records of train\.rec .* ends at byte \d+ and the next begins at \d+"),
        (gap_in_idx, r"train\.idx lacks records of train\.rec"),
        (no_first_in_idx, r"train\.idx lacks records of train\.rec .* one ends at byte 0 and"),
        (damage_labels, r"train\.rec, record 0: expected a header and K · 77 labels.*found 78"),
        (damage_parquet, r"0\.parquet is cut off or damaged"),
        (damage_rows, r"tokens\.npy has 4 rows, but p4 is sample 5"),
        (damage_more_rows, r"tokens\.npy has 6 rows, the shards have 5 samples"),
        (damage_ids, r"tokens\.npy, row 3: expected ids from 0 to 49407, found 50000"),
        (damage_order, r"tokens\.npy: expected rows of 77 .* stored column by column"),
        (damage_pickle, r"tokens\.npy is no NumPy array that can be mapped"),
        (damage_twice, r"0\.tar: 1 samples have the key of another: a"),
        (damage_nothing, r"holds no pair of an image and a usable text.*no usable text \(0\.tar:a\)"),
    ],
)
def test_damaged_data_are_refused_with_the_place(damage, said, tmp_path):
    damage(tmp_path)
    with pytest.raises(DamagedData, match=said):
        build_index(tmp_path)
    assert not (tmp_path / "index").exists()


def test_an_image_that_a_table_names_and_is_not_there_is_refused(tmp_path):
    (tmp_path / "pairs.csv").write_text("image,raw\ngone.jpg,x\n")
    with pytest.raises(DataNotFound, match=r"pairs\.csv, row 2: cannot read .*gone\.jpg"):
        build_index(tmp_path)
    (tmp_path / "pairs.csv").write_text("image,raw\n../up.jpg,x\n")
    with pytest.raises(DamagedData, match="no path below"):
        build_index(tmp_path)


def test_a_record_named_twice_in_the_place_of_one_as_long_is_refused(tmp_path):
    one = pairs()[0]
    as_rec(tmp_path, [one, one, one])
    lines = (tmp_path / "train.idx").read_text().splitlines(keepends=True)
    again = lines[0].replace("0\t", "1\t", 1)
    (tmp_path / "train.idx").write_text("".join([lines[0], again, lines[2]]))
    with pytest.raises(DamagedData, match=r"train\.idx lacks records of train\.rec or names some twice"):
        build_index(tmp_path)


def test_records_may_stand_in_any_order_in_the_idx_and_the_last_padding_may_lack(tmp_path):
    as_rec(tmp_path, pairs())
    lines = (tmp_path / "train.idx").read_text().splitlines(keepends=True)
    (tmp_path / "train.idx").write_text("".join(reversed(lines)))
    rec = tmp_path / "train.rec"
    rec.write_bytes(rec.read_bytes().rstrip(b"\0"))
    build_index(tmp_path)
    assert len(open_pairs(tmp_path)) == len(pairs())


def write_parquet(folder, raw):
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pairs()[0].jpeg
    (folder / "a.jpg").write_bytes(image)
    table = pa.table({"image": ["a.jpg"] * len(raw), "raw": pa.array(raw, pa.list_(pa.int32()))})
    pq.write_table(table, folder / "0.parquet")


def test_an_image_whose_first_row_has_no_ids_keeps_those_of_the_next(tmp_path):
    ids = pairs()[0].ids[:77].tolist()
    write_parquet(tmp_path, [[], ids])
    build_index(tmp_path)
    [text] = open_pairs(tmp_path).texts(0)["raw"]
    assert text.tolist() == ids


@pytest.mark.parametrize("place", [0, 5])
def test_ids_with_one_left_out_are_counted_in_the_message(tmp_path, place):
    ids = pairs()[0].ids[:77].tolist()
    ids[place] = None
    write_parquet(tmp_path, [ids])
    said = r"row 0: expected 77 whole numbers in raw, found 76 among 77 values"
    with pytest.raises(DamagedData, match=said):
        build_index(tmp_path)
