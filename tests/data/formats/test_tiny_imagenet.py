import miniatures
import pytest

from rwkvclip_eval.data.formats import reader_of
from rwkvclip_eval.errors import DamagedData, DataNotFound

# Three of the 200, in the file's order, which is none.
WNIDS = ["n02124075", "n01443537", "n01629819"]


@pytest.fixture
def tiny(tmp_path):
    miniatures.tiny_imagenet(tmp_path, WNIDS, WNIDS)
    return tmp_path


def test_labels_follow_the_sorted_wordnet_ids(tiny):
    test = reader_of("tiny_imagenet")(tiny, "test", "default", tiny)
    assert test.keys == [f"val/images/val_{i}.JPEG" for i in range(3)]
    assert test.labels.tolist() == [2, 0, 1]
    assert test.class_names == ("goldfish", "fire salamander", "Egyptian Mau")
    train = reader_of("tiny_imagenet")(tiny / "tiny-imagenet-200", "train", "default", tiny)
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert train.keys[0] == "train/n01443537/images/n01443537_0.JPEG"


def test_the_shared_shards_have_the_same_classes(shared_data):
    listed = (shared_data / "wds_tiny_imagenet" / "wnids.txt").read_text().split()
    names = (shared_data / "wds_tiny_imagenet" / "classnames.txt").read_text().strip().split("\n")
    from rwkvclip_eval.data.formats.robustness import imagenet_names

    assert listed == sorted(listed)
    assert list(imagenet_names(listed, "tiny_imagenet")) == names


def test_what_is_missing_is_named(tiny):
    read, base = reader_of("tiny_imagenet"), tiny / "tiny-imagenet-200"
    (base / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn09999999\t0\t0\t1\t1\n")
    with pytest.raises(DamagedData, match=r"unknown classes: n09999999"):
        read(tiny, "test", "default", tiny)
    (base / "val" / "val_annotations.txt").unlink()
    with pytest.raises(DataNotFound, match=r"no .*val_annotations\.txt"):
        read(tiny, "test", "default", tiny)
    (base / "wnids.txt").unlink()
    with pytest.raises(DataNotFound, match=r"no wnids\.txt"):
        read(tiny, "train", "default", tiny)
