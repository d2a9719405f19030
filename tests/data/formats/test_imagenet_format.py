import miniatures
import pytest
import torchvision
from miniatures import IMAGENET_VAL as VAL
from miniatures import SYNSETS as WNIDS

from rwkvclip_eval.data.formats.imagenet import read_imagenet
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.errors import DamagedData, DataNotFound


@pytest.fixture
def devkit(tmp_path):
    """Unpacks the development kit; its three validation images are of the classes 999, 0 and 5."""
    miniatures.imagenet_devkit(tmp_path / "imagenet")
    return tmp_path


def test_flat_validation_images_take_their_labels_from_the_development_kit(devkit, jpegs):
    root = devkit / "imagenet"
    jpegs(root / "val", VAL)
    test = read_imagenet(root, "test", "default", devkit)
    assert test.keys == [f"val/{name}" for name in VAL]
    assert test.labels.tolist() == [999, 0, 5]
    assert test.class_names[0] == "tench" and len(test.class_names) == 1000
    (root / "val" / VAL[0]).unlink()
    assert read_imagenet(root, "test", "default", devkit).labels.tolist() == [0, 5]


def test_class_folders_are_labelled_in_sorted_order(devkit, jpegs):
    root = devkit / "imagenet"
    jpegs(root / "train", [f"{WNIDS[7]}/{WNIDS[7]}_18.JPEG", f"{WNIDS[3]}/{WNIDS[3]}_9.JPEG"])
    jpegs(root / "val", [f"{WNIDS[999]}/{VAL[0]}"])
    train = read_imagenet(root, "train", "default", devkit)
    assert train.labels.tolist() == [3, 7]
    assert read_imagenet(root, "test", "default", devkit).labels.tolist() == [999]


def test_a_thousand_folders_need_no_development_kit(tmp_path, jpegs):
    jpegs(tmp_path / "train", [f"{wnid}/{wnid}_1.JPEG" for wnid in WNIDS])
    train = read_imagenet(tmp_path, "train", "default", tmp_path)
    theirs = torchvision.datasets.ImageFolder(tmp_path / "train")
    assert train.labels.tolist() == theirs.targets
    assert [key.split("/")[1] for key in train.keys] == theirs.classes
    (tmp_path / "train" / WNIDS[4] / f"{WNIDS[4]}_1.JPEG").unlink()
    (tmp_path / "train" / WNIDS[4]).rmdir()
    with pytest.raises(DamagedData, match=r"999 classes in .*expected 1000: labels follow their order"):
        read_imagenet(tmp_path, "train", "default", tmp_path)


def test_kaggles_tree_is_read_with_its_own_lists(tmp_path, jpegs):
    jpegs(tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "val", VAL)
    mapping = "".join(f"{wnid} thing, another thing\n" for wnid in WNIDS)
    (tmp_path / "LOC_synset_mapping.txt").write_text(mapping)
    boxes = [(2, 42), (0, 7), (1, 999)]
    rows = [f"{VAL[i][:-5]},{WNIDS[c]} 85 1 499 272 {WNIDS[c]} 3 4 5 6 \n" for i, c in boxes]
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "".join(rows))
    test = read_imagenet(tmp_path, "test", "default", tmp_path)
    assert test.labels.tolist() == [7, 999, 42]
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + rows[0])
    with pytest.raises(DamagedData, match=r"no label for 2 images, such as ILSVRC2012_val_00000001\.JPEG"):
        read_imagenet(tmp_path, "test", "default", tmp_path)


def test_it_opens_under_either_name_of_its_folder(devkit, jpegs):
    root = devkit / "imagenet"
    jpegs(root / "val", VAL)
    opened = open_dataset(DatasetRef(name="imagenet"), data_root=devkit, cache_dir=devkit)
    assert opened.info.subset and opened.info.expected_samples == 50000
    root.rename(devkit / "imagenet1k")
    moved = open_dataset(DatasetRef(name="imagenet1k"), data_root=devkit, cache_dir=devkit)
    assert moved.info == opened.info


def test_what_is_missing_is_named(devkit, jpegs):
    root = devkit / "imagenet"
    (root / "train").mkdir()
    (root / "train" / f"{WNIDS[0]}.tar").write_bytes(b"")
    with pytest.raises(DataNotFound, match=r"no folder per class; unpack each nXXXXXXXX\.tar"):
        read_imagenet(root, "train", "default", devkit)
    with pytest.raises(DataNotFound, match=r"(?s)there is no val in .*tar -xf ILSVRC2012_img_val\.tar -C"):
        read_imagenet(root, "test", "default", devkit)
    with pytest.raises(DataNotFound, match="the validation images are the test split"):
        read_imagenet(root, "val", "default", devkit)
    jpegs(root / "val", [*VAL, "ILSVRC2012_val_00000004.JPEG"])
    with pytest.raises(DamagedData, match="has 3 labels, none for 1 images"):
        read_imagenet(root, "test", "default", devkit)
    data = root / "ILSVRC2012_devkit_t12" / "data"
    (data / "ILSVRC2012_validation_ground_truth.txt").unlink()
    with pytest.raises(DataNotFound, match=r"there is no .*validation_ground_truth\.txt"):
        read_imagenet(root, "test", "default", devkit)
    (data / "meta.mat").unlink()
    with pytest.raises(DataNotFound, match=r"there is no .*meta\.mat"):
        read_imagenet(root, "test", "default", devkit)
    data.rename(root / "kept")
    with pytest.raises(DataNotFound, match=r"unpack ILSVRC2012_devkit_t12\.tar\.gz"):
        read_imagenet(root, "test", "default", devkit)
