import json

import miniatures
import pytest
from clip_benchmark.datasets.builder import all_imagenet_wordnet_ids as WNIDS

from rwkvclip_eval.data.formats import reader_of
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.prompts import shipped
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.errors import DamagedData, DataNotFound


@pytest.mark.parametrize(
    ("variant", "folder"),
    [
        ("matched-frequency", "imagenetv2-matched-frequency-format-val"),
        ("matched-frequency", "ImageNetV2-matched-frequency"),
        ("threshold-0.7", "imagenetv2-threshold0.7-format-val"),
        ("top-images", "imagenetv2-top-images-format-val"),
    ],
)
def test_imagenet_v2_labels_are_the_folders_numbers(tmp_path, jpegs, variant, folder):
    jpegs(tmp_path / "imagenet_v2" / folder, ["0/b.jpeg", "0/a.jpeg", "10/c.jpeg", "2/d.jpeg", "999/e.jpeg"])
    ref = DatasetRef(name="imagenet_v2", variant=variant)
    dataset = open_dataset(ref, data_root=tmp_path, cache_dir=tmp_path)
    assert dataset.keys == ["0/a.jpeg", "0/b.jpeg", "10/c.jpeg", "2/d.jpeg", "999/e.jpeg"]
    assert dataset.labels.tolist() == [0, 0, 10, 2, 999]
    assert dataset.info.class_names == shipped("labels", "imagenet1k")
    assert len(dataset.info.templates) == 80
    assert dataset.info.subset and dataset.info.expected_samples == 10000


def test_imagenet_v2_names_the_folder_it_misses(tmp_path, jpegs):
    jpegs(tmp_path / "imagenetv2-matched-frequency-format-val", ["0/a.jpeg"])
    read = reader_of("imagenet_v2")
    with pytest.raises(DataNotFound, match="no imagenetv2-top-images-format-val"):
        read(tmp_path, "test", "top-images", tmp_path)
    with pytest.raises(DataNotFound, match="no official split 'train'"):
        read(tmp_path, "train", "matched-frequency", tmp_path)


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_imagenet_a_and_r_choose_among_the_200_classes_of_clip_benchmark(
    tmp_path, jpegs, as_clip_benchmark, name
):
    wnids = miniatures.wnids_of(name)
    hyphened = name.replace("_", "-")
    jpegs(tmp_path / hyphened, [f"{wnid}/0.1_{wnid}.jpg" for wnid in wnids])
    (tmp_path / hyphened / "README.txt").write_text("read me")
    split = reader_of(name)(tmp_path, "test", "default", tmp_path)
    assert split.keys == [f"{wnid}/0.1_{wnid}.jpg" for wnid in wnids]
    assert split.labels.tolist() == list(range(200))
    as_clip_benchmark(split, hyphened, tmp_path / hyphened, "test")
    directly = reader_of(name)(tmp_path / hyphened, "test", "default", tmp_path)
    assert directly.keys == split.keys


def test_a_copy_without_all_class_folders_is_refused(tmp_path, jpegs):
    jpegs(tmp_path / "imagenet-r", [f"{wnid}/a.jpg" for wnid in ["n01443537", "n01484850"]])
    with pytest.raises(DamagedData, match=r"2 class folders in .*imagenet-r, expected 200"):
        reader_of("imagenet_r")(tmp_path, "test", "default", tmp_path)
    with pytest.raises(DataNotFound, match="no n01440764"):
        reader_of("imagenet_sketch")(tmp_path, "test", "default", tmp_path)


def test_imagenet_sketch_is_read_as_clip_benchmark_reads_it(tmp_path, jpegs, as_clip_benchmark):
    jpegs(tmp_path / "sketch", [f"{wnid}/sketch_0.JPEG" for wnid in WNIDS])
    split = reader_of("imagenet_sketch")(tmp_path, "test", "default", tmp_path)
    assert split.labels.tolist() == list(range(1000))
    as_clip_benchmark(split, "imagenet_sketch", tmp_path / "sketch", "test")


@pytest.fixture
def objectnet(tmp_path):
    """Two classes that ImageNet has and one that it has not, with the other mappings of the archive."""
    folders = {"zipper_bag": "Zipper bag", "alarm_clock": "Alarm clock", "full_sized_towel": "Bath towel"}
    shared = {"Alarm clock": "analog clock; digital clock", "Bath towel": "bath towel"}
    miniatures.objectnet(tmp_path / "objectnet", folders, shared)
    mappings = tmp_path / "objectnet" / "objectnet-1.0" / "mappings"
    (mappings / "pytorch_to_imagenet_2012_id.json").write_text(json.dumps({str(i): i for i in range(12)}))
    names = "x\n" * 5 + "digital clock\nx\nbath towel\nx\nx\nx\nanalog clock\n"
    (mappings / "imagenet_to_label_2012_v2").write_text(names)
    return tmp_path


def test_objectnet_keeps_the_classes_imagenet_has(objectnet):
    split = reader_of("objectnet")(objectnet / "objectnet", "test", "default", objectnet)
    assert split.keys == [f"images/{f}/{j}.png" for f in ("alarm_clock", "full_sized_towel") for j in (0, 1)]
    assert split.labels.tolist() == [0, 0, 1, 1]
    assert split.class_names == ("alarm clock", "bath towel")


def test_objectnet_is_read_as_clip_benchmark_reads_it(objectnet):
    from clip_benchmark.datasets.objectnet import ObjectNetDataset

    root = objectnet / "objectnet"
    for path in (root / "objectnet-1.0" / "mappings").iterdir():
        (root / path.name).write_bytes(path.read_bytes())  # It wants them copied there.
    theirs = ObjectNetDataset(str(root), transform=None)
    split = reader_of("objectnet")(root, "test", "default", objectnet)
    assert list(split.class_names) == theirs.classes
    assert split.labels.tolist() == [theirs[i][1] for i in range(len(theirs))]
    # clip-benchmark leaves the border on.
    assert theirs[0][0].size == (10, 12)
    assert theirs[0][0].getpixel((0, 0)) == (255, 0, 0)


def test_the_cropped_variant_takes_two_pixels_off_each_side(objectnet):
    read = reader_of("objectnet")
    whole = read(objectnet / "objectnet", "test", "default", objectnet)
    cropped = read(objectnet / "objectnet", "test", "cropped", objectnet)
    image = cropped.images.read(1)
    assert image.size == (6, 8)
    assert image.convert("RGB").getcolors() == [(48, (10, 20, 200))]
    assert whole.keys == cropped.keys
    assert whole.fingerprint != cropped.fingerprint


def test_objectnet_names_the_mapping_it_misses(objectnet):
    mapping = objectnet / "objectnet" / "objectnet-1.0" / "mappings" / "objectnet_to_imagenet_1k.json"
    mapping.unlink()
    with pytest.raises(DataNotFound, match=r"no .*objectnet_to_imagenet_1k\.json"):
        reader_of("objectnet")(objectnet / "objectnet", "test", "default", objectnet)
