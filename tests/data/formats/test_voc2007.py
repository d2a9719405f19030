import miniatures
import numpy as np
import pytest

from rwkvclip_eval.data.formats.voc2007 import CLASSES, read_voc2007
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.errors import DamagedData, DataNotFound


@pytest.fixture
def voc(tmp_path):
    miniatures.voc2007(tmp_path / "voc2007")
    return tmp_path


def present(split):
    return [[CLASSES[i] for i in np.flatnonzero(row == 1)] for row in split.labels]


def test_a_class_is_present_where_an_object_of_it_is_not_difficult(voc):
    root = voc / "voc2007"
    test = read_voc2007(root, "test", "default", voc)
    assert test.kind == "multilabel" and test.labels.shape == (3, 20)
    assert present(test) == [["dog", "person"], [], []]
    assert present(read_voc2007(root, "train", "default", voc)) == [["car"], ["horse"]]
    assert present(read_voc2007(root, "val", "default", voc)) == [["chair"]]
    assert test.keys == ["JPEGImages/000001.jpg", "JPEGImages/000002.jpg", "JPEGImages/000003.jpg"]


def test_a_class_whose_objects_are_all_difficult_is_left_open(voc):
    left_open = lambda split: [[CLASSES[i] for i in np.flatnonzero(row < 0)] for row in split.labels]  # noqa: E731  (local shorthand)
    root = voc / "voc2007"
    assert left_open(read_voc2007(root, "test", "default", voc)) == [[], ["train"], []]
    assert left_open(read_voc2007(root, "train", "default", voc)) == [[], ["person"]]
    assert left_open(read_voc2007(root, "test", "with-difficult", voc)) == [[], [], []]


def test_with_difficult_has_clip_benchmarks_labels(voc, as_clip_benchmark):
    root = voc / "voc2007"
    for split in ("train", "test"):
        opened = read_voc2007(root, split, "with-difficult", voc)
        as_clip_benchmark(opened, "voc2007_multilabel", root, split)
    assert present(opened) == [["dog", "person"], ["train"], []]


def test_crops_are_clip_benchmarks(voc, as_clip_benchmark):
    from clip_benchmark.datasets.voc2007 import PASCALVoc2007Cropped

    root = voc / "voc2007"
    crops = read_voc2007(root, "test", "crops", voc)
    as_clip_benchmark(crops, "voc2007", root, "test")
    assert crops.keys == ["JPEGImages/000001-0", "JPEGImages/000001-1", "JPEGImages/000002-0"]
    assert [CLASSES[i] for i in crops.labels] == ["dog", "person", "train"]
    theirs = PASCALVoc2007Cropped(root=str(root), set="test")
    for i in range(3):
        assert np.array_equal(np.asarray(crops.images.read(i)), np.asarray(theirs[i][0]))
    assert np.asarray(crops.images.read(0)).shape == (5, 6, 3)
    again = read_voc2007(root, "test", "crops", voc / "elsewhere")
    assert again.fingerprint == crops.fingerprint
    box = root / "VOCdevkit" / "VOC2007" / "Annotations" / "000002.xml"
    box.write_text(box.read_text().replace("<xmin>3<", "<xmin>2<"))
    assert read_voc2007(root, "test", "crops", voc).fingerprint != crops.fingerprint


def test_the_variants_open_under_the_data_root_with_their_metrics(voc):
    whole = open_dataset(DatasetRef(name="voc2007"), data_root=voc, cache_dir=voc)
    assert (whole.info.kind, whole.info.primary_metric) == ("multilabel", "mean_average_precision_11_point")
    assert whole.info.expected_samples == 4952 and whole.info.subset
    crops = open_dataset(DatasetRef(name="voc2007@crops"), data_root=voc, cache_dir=voc)
    assert (crops.info.kind, crops.info.primary_metric) == ("classification", "top1_accuracy")
    assert crops.info.expected_samples == 14976 and crops.image(2).mode == "RGB"


def test_missing_and_damaged_files_are_named(voc):
    root = voc / "voc2007"
    base = root / "VOCdevkit" / "VOC2007"
    lists = base / "ImageSets" / "Main"
    (lists / "boat_test.txt").write_text("000001 -1\n000002 -1\n")
    with pytest.raises(DamagedData, match=r"boat_test\.txt lists other images than aeroplane_test\.txt"):
        read_voc2007(root, "test", "default", voc)
    (lists / "boat_test.txt").unlink()
    with pytest.raises(DataNotFound, match=r"there is no .*boat_test\.txt"):
        read_voc2007(root, "test", "default", voc)
    (base / "Annotations" / "000001.xml").write_text("<annotation><object>")
    with pytest.raises(DamagedData, match=r"000001\.xml is no VOC annotation"):
        read_voc2007(root, "test", "with-difficult", voc)
    (base / "Annotations" / "000001.xml").unlink()
    with pytest.raises(DataNotFound, match=r"there is no .*000001\.xml"):
        read_voc2007(root, "test", "crops", voc)
    (base / "JPEGImages" / "000012.jpg").unlink()
    for variant in ("default", "crops"):
        with pytest.raises(DamagedData, match=r"1 (of 2 )?images are not .*000012"):
            read_voc2007(root, "train", variant, voc)
