import hashlib

import miniatures
import pytest
import torchvision

from rwkvclip_eval.data.formats.mat_files import read_cars, read_flowers
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.errors import DamagedData, DataNotFound


@pytest.fixture
def cars(tmp_path):
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"]
    train = [(39, 116, 569, 375, 3, "00001.jpg"), (36, 116, 868, 587, 1, "00002.jpg")]
    test = [
        (30, 52, 246, 147, 2, "00001.jpg"),
        (100, 19, 576, 203, 3, "00002.jpg"),
        (1, 2, 3, 4, 1, "00003.jpg"),
    ]
    miniatures.cars(tmp_path, names, train, test)
    return tmp_path


def test_cars_are_read_from_the_development_kit(cars, as_clip_benchmark):
    train = read_cars(cars, "train", "default", cars)
    assert (train.keys, train.labels.tolist()) == (["cars_train/00001.jpg", "cars_train/00002.jpg"], [2, 0])
    assert train.class_names[1] == "Acura RL Sedan 2012"
    test = read_cars(cars, "test", "default", cars)
    assert test.labels.tolist() == [1, 2, 0]
    as_clip_benchmark(train, "cars", cars, "train")
    as_clip_benchmark(test, "cars", cars, "test")


def test_cars_in_kaggles_nested_folders_are_found(cars):
    base = cars / "stanford_cars"
    (base / "cars_test").rename(base / "inner")
    (base / "cars_test").mkdir()
    (base / "inner").rename(base / "cars_test" / "cars_test")
    test = read_cars(base, "test", "default", cars)
    assert test.keys[0] == "cars_test/cars_test/00001.jpg"
    assert test.labels.tolist() == [1, 2, 0]


def test_cars_test_list_without_labels_is_refused_and_a_missing_one_named(cars):
    base = cars / "stanford_cars"
    labelled = base / "cars_test_annos_withlabels.mat"
    labelled.unlink()
    with pytest.raises(DataNotFound, match=r"there is no .*cars_test_annos_withlabels\.mat"):
        read_cars(cars, "test", "default", cars)
    (base / "devkit" / "cars_test_annos.mat").rename(labelled)
    with pytest.raises(DamagedData, match="comes without classes"):
        read_cars(cars, "test", "default", cars)
    labelled.write_bytes(b"<html>404</html>" * 20)
    with pytest.raises(DamagedData, match=r"cars_test_annos_withlabels\.mat cannot be read"):
        read_cars(cars, "test", "default", cars)
    (base / "devkit" / "cars_meta.mat").unlink()
    with pytest.raises(DataNotFound, match=r"there is no .*cars_meta\.mat"):
        read_cars(cars, "train", "default", cars)


@pytest.fixture
def flowers(tmp_path):
    """Seven images of the classes 1, 77 and 102."""
    splits = {"trnid": [6, 3, 1], "valid": [2, 5], "tstid": [7, 4]}
    miniatures.flowers(tmp_path / "flowers", [77, 77, 1, 102, 1, 102, 77], splits)
    return tmp_path


def test_flowers_have_the_authors_splits(flowers, as_clip_benchmark, monkeypatch):
    root = flowers / "flowers"
    files = dict(torchvision.datasets.Flowers102._file_dict)
    for kind, file in (("label", "imagelabels.mat"), ("setid", "setid.mat")):
        files[kind] = (file, hashlib.md5((root / "flowers-102" / file).read_bytes()).hexdigest())
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_file_dict", files)
    for split, labels in (("train", [101, 0, 76]), ("val", [76, 0]), ("test", [76, 101])):
        opened = read_flowers(root, split, "default", flowers)
        assert opened.labels.tolist() == labels
        as_clip_benchmark(opened, "flowers", root, split)
    assert opened.keys == ["jpg/image_00007.jpg", "jpg/image_00004.jpg"]


def test_flowers_open_under_the_data_root_without_preparation(flowers):
    dataset = open_dataset(DatasetRef(name="flowers", split="val"), data_root=flowers, cache_dir=flowers)
    assert dataset.info.source == "published files of flowers"
    assert dataset.info.class_names[76] == "passion flower"
    assert dataset.labels.tolist() == [76, 0] and dataset.info.expected_samples == 1020
    assert dataset.image(0).mode == "RGB"


def test_flowers_name_a_missing_or_wrong_file(flowers):
    base = flowers / "flowers" / "flowers-102"
    (base / "setid.mat").rename(base / "kept.mat")
    with pytest.raises(DataNotFound, match=r"there is no .*setid\.mat"):
        read_flowers(flowers / "flowers", "train", "default", flowers)
    (base / "imagelabels.mat").rename(base / "setid.mat")
    (base / "kept.mat").rename(base / "imagelabels.mat")
    with pytest.raises(DamagedData, match=r"imagelabels\.mat has no variable 'labels'"):
        read_flowers(flowers / "flowers", "train", "default", flowers)
