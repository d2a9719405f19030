import miniatures
import numpy as np
import pytest
from miniatures import kitti_line as line

from rwkvclip_eval.data.formats import reader_of
from rwkvclip_eval.data.formats.kitti import nearest_vehicle
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.errors import DamagedData, DataNotFound


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (line("Car", "3.17"), 0),
        (line("Car", "8.00"), 0),
        (line("Van", "8.01") + line("Car", "30.5"), 1),
        (line("Truck", "20.00"), 1),
        (line("Car", "20.01"), 2),
        (line("Tram", "5.00") + line("Cyclist", "4.00"), 3),
        ("DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10\n", 3),
        ("", 3),
    ],
)
def test_the_nearest_car_van_or_truck_gives_the_class(tmp_path, text, label):
    (tmp_path / "000000.txt").write_text(text)
    assert nearest_vehicle(tmp_path / "000000.txt") == label


@pytest.fixture
def kitti(tmp_path):
    miniatures.kitti(tmp_path / "kitti")
    return tmp_path


def test_splits_are_drawn_by_drive_with_numpys_seed_123(kitti):
    names = sorted(f"2011_09_26_drive_{d:04d}_sync" for d in range(10))
    np.random.seed(123)
    test = np.random.choice(names, 1, replace=False)[0]
    val = np.random.choice(sorted(set(names) - {test}), 1, replace=False)[0]
    expected = {"test": [int(test[-9:-5])], "val": [int(val[-9:-5])]}
    expected["train"] = [d for d in range(10) if d not in expected["test"] + expected["val"]]
    for split, drives in expected.items():
        ref = DatasetRef(name="KITTI", split=split)
        dataset = open_dataset(ref, data_root=kitti, cache_dir=kitti)
        images = [i for i in range(30) if i % 10 in drives]
        assert dataset.keys == [f"training/image_2/{i:06d}.png" for i in images]
        assert dataset.labels.tolist() == [0 if i < 8 else 1 if i < 20 else 2 for i in images]
        assert dataset.info.class_names[3] == "a photo i took with no car."
        assert dataset.info.templates == ("{c}",)


def test_what_kitti_lacks_is_named(kitti):
    read, base = reader_of("kitti"), kitti / "kitti"
    (base / "training" / "label_2" / "000003.txt").unlink()
    with pytest.raises(DataNotFound, match=r"no .*label_2/\d+\.txt"):
        for split in ("train", "val", "test"):
            read(base, split, "default", kitti)
    (base / "mapping" / "train_rand.txt").write_text("31")
    with pytest.raises(DamagedData, match="do not fit each other"):
        read(base, "test", "default", kitti)
    (base / "mapping" / "train_mapping.txt").unlink()
    with pytest.raises(DataNotFound, match=r"no mapping/train_mapping\.txt .*devkit_object\.zip"):
        read(base, "test", "default", kitti)
    with pytest.raises(DataNotFound, match="no training/image_2"):
        read(base / "mapping", "test", "default", kitti)


def test_a_broken_label_line_is_named(tmp_path):
    (tmp_path / "000000.txt").write_text(line("Car", "3.0") + "Car 1 2\n")
    with pytest.raises(DamagedData, match="line 2: expected a type and 14 numbers"):
        nearest_vehicle(tmp_path / "000000.txt")
