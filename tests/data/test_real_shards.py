"""The real image sets; their folder stays as it is, indices go to a temporary cache."""

import pickle

import numpy as np
import pytest
import webdataset

from rwkvclip_eval.data.open import limit_dataset, open_dataset
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.data.verify import verify_dataset

pytestmark = pytest.mark.data

SETS = {
    "cifar10": (2000, False),
    "mnist": (10000, True),
    "tiny_imagenet": (2000, False),
    "flickr8k": (1000, True),
    "twemoji": (496, True),
}


@pytest.fixture(scope="module")
def opened(shared_data, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    before = sorted(shared_data.rglob("*"))
    yield {n: open_dataset(DatasetRef(name=n), data_root=shared_data, cache_dir=cache) for n in SETS}
    if not shared_data.stat().st_mode & 0o222:
        assert sorted(shared_data.rglob("*")) == before


@pytest.mark.parametrize("name", SETS)
def test_counts_are_those_of_the_shards(opened, name):
    info = opened[name].info
    assert (info.num_samples, info.verified) == SETS[name]
    assert info.subset != info.verified


def test_flickr8k_has_five_captions_an_image(opened):
    assert {len(c) for c in opened["flickr8k"].captions} == {5}


@pytest.mark.parametrize("name", ["cifar10", "mnist", "tiny_imagenet"])
def test_labels_and_pixels_are_what_the_webdataset_library_reads(opened, shared_data, name):
    dataset = opened[name]
    shard = str(shared_data / f"wds_{name}" / "test" / "0.tar")
    pairs = webdataset.WebDataset(shard, shardshuffle=False).to_tuple("__key__", "jpg;png", "cls")
    keys, images, labels = zip(*pairs, strict=True)
    assert list(dataset.keys) == list(keys)
    assert dataset.labels.tolist() == [int(label) for label in labels]
    decode = webdataset.autodecode.ImageHandler("pil")
    for i in range(0, len(keys), len(keys) // 20):
        assert dataset.images.read(i) == images[i]
        other = decode("png", images[i]) or decode(".png", images[i])
        assert (np.asarray(dataset.image(i)) == np.asarray(other)).all()


def test_captions_are_what_the_webdataset_library_reads(opened, shared_data):
    shard = str(shared_data / "wds_flickr8k" / "test" / "0.tar")
    texts = [t[0].decode() for t in webdataset.WebDataset(shard, shardshuffle=False).to_tuple("txt")]
    assert opened["flickr8k"].captions == [t.splitlines() for t in texts]


@pytest.mark.parametrize("name", SETS)
def test_every_image_decodes(opened, name, data_limit):
    dataset = opened[name] if data_limit is None else limit_dataset(opened[name], data_limit)
    report = verify_dataset(pickle.loads(pickle.dumps(dataset)))
    assert report.ok, report.problems


def test_limited_tiny_imagenet_has_every_class_once(opened):
    limited = limit_dataset(opened["tiny_imagenet"], 200)
    assert sorted(limited.labels.tolist()) == list(range(200))
    assert limited.info.subset


def test_train_split_lies_in_a_folder_of_its_own(shared_data, tmp_path):
    train = open_dataset(
        DatasetRef(name="flickr8k", split="train"), data_root=shared_data, cache_dir=tmp_path
    )
    assert (train.info.num_samples, train.info.verified) == (6000, True)
    assert train.info.source == "webdataset wds_flickr8k_train/train"
