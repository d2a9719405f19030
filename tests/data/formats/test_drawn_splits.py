import hashlib

import miniatures
import pytest
import torch
import torchvision

from rwkvclip_eval.data.clip_benchmark import open_clip_benchmark
from rwkvclip_eval.data.formats import drawn_splits
from rwkvclip_eval.data.formats.drawn_splits import random_split, read_caltech101, read_sun397
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.errors import DamagedData, DataNotFound


def test_random_split_is_torchs():
    parts = torch.utils.data.random_split(range(20), [5, 8, 7], generator=torch.Generator().manual_seed(3))
    assert random_split((5, 8, 7), 3) == [sorted(part.indices) for part in parts]


@pytest.fixture
def sun397(tmp_path):
    images = [f"{c}/sun_{n}.jpg" for c in ("c/church/outdoor", "a/abbey", "z/zoo") for n in "bac"]
    lists = {
        "Training_01.txt": ["a/abbey/sun_b.jpg", "c/church/outdoor/sun_a.jpg"],
        "Testing_01.txt": ["z/zoo/sun_c.jpg", "a/abbey/sun_a.jpg"],
        "Training_02.txt": ["z/zoo/sun_a.jpg"],
    }
    miniatures.sun397(tmp_path / "sun397", ["a/abbey", "c/church/outdoor", "z/zoo"], images, lists)
    return tmp_path


def test_sun397_partition_one(sun397):
    root = sun397 / "sun397"
    train = read_sun397(root, "train", "partition1", sun397)
    assert train.keys == ["a/abbey/sun_b.jpg", "c/church/outdoor/sun_a.jpg"]
    test = read_sun397(root, "test", "partition1", sun397)
    assert (test.keys, test.labels.tolist()) == (["a/abbey/sun_a.jpg", "z/zoo/sun_c.jpg"], [0, 2])
    assert test.class_names == ("abbey", "church outdoor", "zoo")


def test_sun397_whole(sun397, as_clip_benchmark):
    root = sun397 / "sun397"
    whole = read_sun397(root, "test", "full", sun397)
    assert whole.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    as_clip_benchmark(whole, "sun397", root, "test")
    with pytest.raises(DataNotFound, match=r"no official split 'train' \(every image is scored\)"):
        read_sun397(root, "train", "full", sun397)


def test_sun397_by_seed_is_drawn_like_the_released_scripts(sun397, monkeypatch):
    root = sun397 / "sun397"
    monkeypatch.setattr(drawn_splits, "SUN397_DRAW", (3, 2, 4))
    files = sorted(p.relative_to(root / "SUN397").as_posix() for p in root.rglob("*.jpg"))
    generator = torch.Generator().manual_seed(5)
    train, test, _ = torch.utils.data.random_split(files, [3, 2, 4], generator=generator)
    opened = {split: read_sun397(root, split, "seed5", sun397) for split in ("train", "test")}
    assert opened["train"].keys == sorted(train)
    assert opened["test"].keys == sorted(test)
    assert opened["train"].keys != read_sun397(root, "train", "seed6", sun397).keys
    monkeypatch.setattr(drawn_splits, "SUN397_DRAW", (3, 2, 5))
    with pytest.raises(DamagedData, match="drawn from 10 images, 9 are there"):
        read_sun397(root, "train", "seed5", sun397)


def test_sun397_names_the_missing_list(sun397):
    root = sun397 / "sun397"
    (root / "Partitions" / "Training_01.txt").unlink()
    with pytest.raises(DataNotFound, match=r"needs Training_01\.txt in .*Partitions"):
        read_sun397(root, "train", "partition1", sun397)
    (root / "SUN397" / "ClassName.txt").unlink()
    with pytest.raises(DataNotFound, match=r"there is no ClassName\.txt"):
        read_sun397(root, "test", "full", sun397)


@pytest.fixture
def caltech101(tmp_path):
    """All folders with two images each; leopards have 33, and the background a file without ending."""
    miniatures.caltech101(tmp_path / "caltech101")
    return tmp_path


def test_caltech101_by_seed_is_torchs_split_of_torchvisions_set(caltech101, monkeypatch):
    root = caltech101 / "caltech101"
    monkeypatch.setattr(drawn_splits, "CALTECH101_DRAW", (100, 133))
    (root / "101_ObjectCategories" / "BACKGROUND_Google" / "tmp").unlink()
    theirs = torchvision.datasets.Caltech101(caltech101)
    generator = torch.Generator().manual_seed(3072)
    parts = torch.utils.data.random_split(theirs, [100, 133], generator=generator)
    for split, part in zip(("train", "test"), parts, strict=True):
        opened = read_caltech101(root, split, "seed3072", caltech101)
        rows = sorted(part.indices)
        assert opened.labels.tolist() == [theirs.y[i] for i in rows]
        pairs = [(theirs.categories[theirs.y[i]], theirs.index[i]) for i in rows]
        assert opened.keys == [f"{folder}/image_{number:04d}.jpg" for folder, number in pairs]
    assert opened.class_names[:4] == ("off-center face", "centered face", "leopard", "motorbike")
    assert not any(key.startswith("BACKGROUND") for key in opened.keys)
    other = read_caltech101(root, "test", "seed1", caltech101)
    assert other.keys != opened.keys


def test_caltech101_has_clip_benchmarks_names_in_the_order_of_its_labels(caltech101):
    theirs = open_clip_benchmark("caltech101", caltech101, "test", cache_dir=caltech101)
    opened = read_caltech101(caltech101 / "caltech101", "train", "30-per-class", caltech101)
    assert opened.class_names == theirs.class_names
    number = {
        key.partition("101_ObjectCategories/")[2]: i
        for key, i in zip(theirs.keys, theirs.labels, strict=True)
    }
    assert opened.labels.tolist() == [number[key] for key in opened.keys]


def test_caltech101_takes_thirty_of_each_class_by_their_names(caltech101):
    dataset = open_dataset(
        DatasetRef(name="caltech101@30-per-class"), data_root=caltech101, cache_dir=caltech101
    )
    names = [f"Leopards/image_{n:04d}.jpg" for n in range(1, 34)]
    left = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[30:]
    assert dataset.keys == sorted(left)
    assert set(dataset.labels.tolist()) == {3} and dataset.info.class_names[3] == "leopard"
    train = read_caltech101(caltech101 / "caltech101", "train", "30-per-class", caltech101)
    assert len(train.keys) == 101 * 2 + 30 and train.labels.max() == 101
    assert train.class_names[0] == "background" and train.class_names[101] == "yin and yang symbol"


def test_caltech101_needs_a_variant_and_all_its_folders(caltech101):
    root = caltech101 / "caltech101"
    with pytest.raises(DataNotFound, match="which images VTAB tests on cannot be told"):
        open_dataset(DatasetRef(name="caltech101"), data_root=caltech101, cache_dir=caltech101)
    with pytest.raises(DamagedData, match="drawn from 8677 images, 233 are there"):
        read_caltech101(root, "test", "seed3072", caltech101)
    (root / "101_ObjectCategories" / "wrench").rename(root / "wrench")
    with pytest.raises(DamagedData, match="has 101 folders; expected 102"):
        read_caltech101(root, "test", "seed3072", caltech101)
    with pytest.raises(DataNotFound, match="there is no 101_ObjectCategories"):
        read_caltech101(root / "elsewhere", "test", "seed3072", caltech101)
