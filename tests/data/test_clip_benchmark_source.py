import hashlib
import pickle

import numpy as np
import pytest
import torchvision

from rwkvclip_eval.data.clip_benchmark import open_clip_benchmark
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import ClipBenchmarkSource, DatasetRef
from rwkvclip_eval.errors import DamagedData, DataNotFound, UserError


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """CIFAR-10's own layout with 20 test pictures; torchvision's checksums are those of these files."""
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3072), dtype=np.uint8)
    labels = [i % 10 for i in range(20)]

    def dump(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    test = dump("test_batch", {"data": pixels, "labels": labels})
    meta = dump("batches.meta", {"label_names": names})
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [])
    monkeypatch.setattr(kind, "test_list", [["test_batch", test]])
    monkeypatch.setattr(kind, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta})
    return tmp_path, pixels.reshape(20, 3, 32, 32).transpose(0, 2, 3, 1), labels


def test_cifar10_layout_under_the_data_root_is_found(cifar10):
    root, pixels, labels = cifar10
    dataset = open_dataset(DatasetRef(name="cifar10"), data_root=root, cache_dir=root)
    dataset = pickle.loads(pickle.dumps(dataset))
    assert dataset.labels.tolist() == labels
    assert (np.asarray(dataset.image(7)) == pixels[7]).all()
    assert dataset.info.class_names[:2] == ("airplane", "automobile")
    assert len(dataset.info.templates) == 18
    assert dataset.info.subset and dataset.info.source == "published files of cifar10"


def test_webdataset_folder_comes_before_the_torchvision_layout(cifar10, write_wds):
    root, _, _ = cifar10
    write_wds(root, "vtab-cifar10", [[0]], classnames="\n".join("abcdefghij"))
    assert (
        open_dataset(DatasetRef(name="cifar10"), data_root=root).info.source
        == "webdataset wds_vtab-cifar10/test"
    )


def test_sun397_comes_whole_in_sorted_order(tmp_path, png):
    for i, name in enumerate(["a/abbey/sun_b.jpg", "a/abbey/sun_a.jpg", "z/zoo/sun_c.jpg"]):
        path = tmp_path / "SUN397" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i, format="JPEG"))
    (tmp_path / "SUN397" / "ClassName.txt").write_text("/a/abbey\n/z/zoo\n")
    whole = open_clip_benchmark("sun397", tmp_path, "test", cache_dir=tmp_path)
    assert [k.rpartition("/")[2] for k in whole.keys] == ["sun_a.jpg", "sun_b.jpg", "sun_c.jpg"]
    assert whole.labels.tolist() == [0, 0, 1]
    with pytest.raises(DataNotFound, match="no official split 'train'"):
        open_clip_benchmark("sun397", tmp_path, "train")


def test_a_split_that_package_does_not_know_is_refused(tmp_path):
    source = ClipBenchmarkSource(kind="clip_benchmark", name="sun397", root=".")
    for variant in ("partition1", "seed4"):
        with pytest.raises(UserError, match=f"clip-benchmark has no sun397@{variant}; take the published"):
            open_dataset(
                DatasetRef(name=f"sun397@{variant}", source=source), data_root=None, base_dir=tmp_path
            )


def test_flickr8k_captions_are_read_without_decoding(tmp_path, png):
    root = tmp_path / "flickr8k"
    root.mkdir()
    for name in "ab":
        (root / f"{name}.jpg").write_bytes(png(ord(name), format="JPEG"))
    lines = "image,caption\na.jpg,one, two\na.jpg,three\nb.jpg,four\n"
    (root / "flickr8k_test_karpathy.txt").write_text(lines)
    dataset = open_dataset(DatasetRef(name="flickr8k"), data_root=tmp_path, cache_dir=tmp_path)
    assert dataset.captions == [["one, two", "three"], ["four"]]
    assert dataset.keys == ["a.jpg", "b.jpg"]
    assert dataset.info.expected_samples == 1000
    (root / "b.jpg").write_bytes(b"<html>")
    with pytest.raises(DamagedData, match=r"sample 'b\.jpg'"):
        dataset.image(1)


def test_nothing_is_fetched_unless_asked_for(tmp_path):
    for name in ("flickr8k", "mscoco_captions", "imagenetv2", "mnist", "food101"):
        (tmp_path / name).mkdir()
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(DataNotFound, match=name):
            open_clip_benchmark(name, tmp_path / name, "test", cache_dir=tmp_path)
        assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(DataNotFound, match="There is no folder"):
        open_clip_benchmark("cars", tmp_path / "cars", "test")


def test_unknown_name_is_reported(tmp_path):
    source = ClipBenchmarkSource(kind="clip_benchmark", name="nonsense", root=".")
    with pytest.raises(UserError, match="Unknown dataset of clip-benchmark 'nonsense'"):
        open_dataset(DatasetRef(name="mine", source=source), data_root=None, base_dir=tmp_path)


def test_image_folder_sets_keep_their_files_as_keys(tmp_path, png):
    for i, folder in enumerate(["AnnualCrop", "Forest"]):
        path = tmp_path / "eurosat" / "2750" / folder / "1.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(png(i, format="JPEG"))
    opened = open_clip_benchmark("eurosat", tmp_path, "test", cache_dir=tmp_path)
    assert opened.keys == ["eurosat/2750/AnnualCrop/1.jpg", "eurosat/2750/Forest/1.jpg"]
    assert opened.labels.tolist() == [0, 1]
    assert len(opened.class_names) == 10
