import json

import captioned_miniatures as miniatures
import pytest
from captioned_miniatures import karpathy_row as image

from rwkvclip_eval.data.formats import reader_of
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.errors import DamagedData, DataNotFound


@pytest.mark.parametrize("name", miniatures.FLICKR_FOLDERS)
def test_flickr_splits_are_karpathys(tmp_path, name):
    miniatures.flickr(tmp_path / name, name)
    test = open_dataset(DatasetRef(name=name), data_root=tmp_path, cache_dir=tmp_path)
    assert test.keys == ["2.jpg", "1.jpg"]
    assert test.captions == [["A dog , runs .", "Two dogs ."], ["A café ."]]
    assert test.info.expected_samples == 1000 and test.info.subset
    for split, key in (("train", "0.jpg"), ("val", "3.jpg")):
        assert reader_of(name)(tmp_path / name, split, "default", tmp_path).keys == [key]


@pytest.fixture
def coco(tmp_path):
    """Three of the four splits."""
    miniatures.coco(tmp_path, ["test", "train", "restval"])
    return tmp_path, miniatures.COCO_IMAGES


def test_restval_joins_cocos_train_only_where_asked_for(coco):
    root, names = coco
    read = reader_of("mscoco_captions")
    assert read(root, "test", "default", root).keys == [names[1]]
    assert read(root, "test", "restval", root).keys == [names[1]]
    assert read(root, "train", "default", root).keys == [names[2]]
    joined = read(root, "train", "restval", root)
    assert joined.keys == [names[2], names[3]]
    assert joined.captions == [["Caption 2. ", "x"], ["Caption 3. ", "x"]]
    with pytest.raises(DataNotFound, match=r"dataset_coco\.json has no images of split val"):
        read(root, "val", "default", root)


def test_clip_benchmarks_annotation_file_gives_the_same_sample(coco):
    root, _ = coco
    read = reader_of("mscoco_captions")
    ours = read(root, "test", "default", root)
    annotations = [{"id": i, "image_id": 1, "caption": c} for i, c in enumerate(ours.captions[0])]
    images = [{"id": 1, "file_name": ours.keys[0].split("/")[1]}]
    text = json.dumps({"images": images, "annotations": annotations})
    (root / "coco_test_karpathy.json").write_text(text)
    theirs = read(root, "test", "default", root)
    assert theirs.source == "clip-benchmark mscoco_captions"
    assert (theirs.keys, theirs.captions, theirs.fingerprint) == (ours.keys, ours.captions, ours.fingerprint)


def test_what_is_missing_is_named(tmp_path, jpegs):
    read = reader_of("flickr8k")
    (tmp_path / "f").mkdir()
    with pytest.raises(DataNotFound, match=r"no dataset_flickr8k\.json nor flickr8k_test_karpathy\.txt"):
        read(tmp_path / "f", "test", "default", tmp_path)
    rows = [image("a.jpg", "test", "One."), image("b.jpg", "test", "Two.")]
    miniatures.karpathy(tmp_path / "f", "flickr8k", rows)
    with pytest.raises(DataNotFound, match=r"there is no a\.jpg in .*Flicker8k_Dataset"):
        read(tmp_path / "f", "test", "default", tmp_path)
    jpegs(tmp_path / "f" / "Flicker8k_Dataset", ["a.jpg"])
    with pytest.raises(DamagedData, match=r"1 of 2 images are not in .*: b\.jpg"):
        read(tmp_path / "f", "test", "default", tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[]", "expected flickr30k in Karpathy's form"),
        ('{"images": [{"filename": "a.jpg"}]}', r"in Karpathy's form; \['images'\]\[0\]\['split'\]"),
        ("{", r"dataset_flickr30k\.json cannot be read"),
        (json.dumps({"images": [image("a.jpg", "test")]}), "cannot be read: a.jpg \\(it is empty"),
        (
            json.dumps({"images": [image("a.jpg", "test", " ")]}),
            r"cannot be read: a.jpg \(it shows nothing but U\+0020",
        ),
        (json.dumps({"images": [image("a.jpg", "test", "x")] * 2}), "occur more than once"),
    ],
)
def test_damaged_files_are_told(tmp_path, jpegs, content, told):
    jpegs(tmp_path, ["flickr30k-images/a.jpg"])
    (tmp_path / "dataset_flickr30k.json").write_text(content)
    with pytest.raises(DamagedData, match=told):
        reader_of("flickr30k")(tmp_path, "test", "default", tmp_path)
