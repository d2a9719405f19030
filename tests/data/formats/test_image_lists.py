import miniatures
import pytest

from rwkvclip_eval.data.formats.image_lists import (
    read_aircraft,
    read_birdsnap,
    read_dtd,
    read_food101,
    read_pets,
)
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import DatasetRef, FolderSource
from rwkvclip_eval.errors import DamagedData, DataNotFound


@pytest.fixture
def food101(tmp_path):
    lists = {
        "train": {"waffles": ["waffles/9", "waffles/10"], "apple_pie": ["apple_pie/1005649"]},
        "test": {"apple_pie": ["apple_pie/1011328"], "waffles": ["waffles/1"]},
    }
    miniatures.food101(tmp_path, lists)
    return tmp_path


def test_food101_is_read_from_its_json_lists(food101, as_clip_benchmark):
    train = read_food101(food101, "train", "default", food101)
    assert train.keys == ["images/waffles/9.jpg", "images/waffles/10.jpg", "images/apple_pie/1005649.jpg"]
    assert train.labels.tolist() == [1, 1, 0]
    assert train.class_names == ("apple pie", "waffles")
    test = read_food101(food101, "test", "default", food101)
    for split, name in ((train, "train"), (test, "test")):
        as_clip_benchmark(split, "food101", food101, name)
    assert train.fingerprint != test.fingerprint
    inside = read_food101(food101 / "food-101", "test", "default", food101)
    assert (inside.keys, inside.fingerprint) == (test.keys, test.fingerprint)


def test_a_missing_list_is_named(food101):
    (food101 / "food-101" / "meta" / "test.json").unlink()
    with pytest.raises(DataNotFound, match=r"there is no .*test\.json"):
        read_food101(food101, "test", "default", food101)
    with pytest.raises(DataNotFound, match=r"no official split 'val'; it has: train, test"):
        read_food101(food101, "val", "default", food101)
    with pytest.raises(DataNotFound, match=r"there is no images in .*It is in .*: give that folder"):
        read_food101(food101 / "elsewhere", "train", "default", food101)


def test_lists_and_images_that_disagree_are_damage(food101):
    listed = food101 / "food-101" / "meta" / "train.json"
    whole = listed.read_text()
    listed.write_text(whole[:20])
    with pytest.raises(DamagedData, match=r"train\.json cannot be read: Invalid JSON"):
        read_food101(food101, "train", "default", food101)
    listed.write_text(whole.replace("waffles/10", "waffles/11"))
    with pytest.raises(DamagedData, match=r"1 of 3 images are not below .*images/waffles/11\.jpg"):
        read_food101(food101, "train", "default", food101)
    listed.write_text(whole.replace("waffles/10", "waffles/9"))
    with pytest.raises(DamagedData, match="1 sample keys occur more than once"):
        read_food101(food101, "train", "default", food101)


@pytest.fixture
def birdsnap(tmp_path):
    """Release 1.1 with three species; one image of each split could not be fetched."""
    species = [(1, "Acadian Flycatcher"), (10, "Cooper's Hawk"), (2, "Acorn Woodpecker")]
    images = [("Coopers_Hawk/0561.jpg", 10), ("Coopers_Hawk/0562.jpg", 10), ("Acadian_Flycatcher/7.jpg", 1)]
    images += [("Acorn_Woodpecker/3.jpg", 2), ("Acorn_Woodpecker/4.jpg", 2), ("Acadian_Flycatcher/8.jpg", 1)]
    test = ["Coopers_Hawk/0561.jpg", "Acorn_Woodpecker/3.jpg"]
    miniatures.birdsnap(
        tmp_path, species, images, test, ["Acorn_Woodpecker/3.jpg", "Acadian_Flycatcher/8.jpg"]
    )
    return tmp_path


def test_birdsnap_leaves_out_what_could_not_be_fetched(birdsnap):
    train = read_birdsnap(birdsnap, "train", "default", birdsnap)
    assert train.keys == [
        "download/images/Coopers_Hawk/0562.jpg",
        "download/images/Acadian_Flycatcher/7.jpg",
        "download/images/Acorn_Woodpecker/4.jpg",
    ]
    assert train.labels.tolist() == [2, 0, 1]
    assert train.class_names == ("Acadian Flycatcher", "Acorn Woodpecker", "Cooper's Hawk")
    assert train.templates == ("a photo of a {c}, a type of bird.",)
    test = read_birdsnap(birdsnap, "test", "default", birdsnap)
    assert (test.keys, test.labels.tolist()) == (["download/images/Coopers_Hawk/0561.jpg"], [2])


def test_birdsnap_with_all_its_species_opens_as_a_subset(birdsnap):
    species = [f"{i}\tBird {i}\tAvis {i}\tBird_{i}\n" for i in range(1, 501)]
    header = "id\tcommon\tscientific\tdir\n"
    (birdsnap / "birdsnap" / "species.txt").write_text(header + "".join(species))
    source = FolderSource(kind="published", path=str(birdsnap))
    ref = DatasetRef(name="birdsnap", split="train", source=source)
    dataset = open_dataset(ref, data_root=None, cache_dir=birdsnap)
    assert dataset.labels.tolist() == [9, 0, 1]
    assert dataset.info.subset and dataset.info.expected_samples == 47386


def test_birdsnap_names_the_missing_list(birdsnap):
    base = birdsnap / "birdsnap"
    (base / "test_images.txt").write_text("path\nCoopers_Hawk/9999.jpg\n")
    with pytest.raises(DamagedData, match=r"lists 1 images that images\.txt has not"):
        read_birdsnap(birdsnap, "test", "default", birdsnap)
    (base / "test_images.txt").unlink()
    with pytest.raises(DataNotFound, match=r"there is no .*test_images\.txt"):
        read_birdsnap(birdsnap, "test", "default", birdsnap)
    (base / "images.txt").write_text("url\tpath\nu\tp\n")
    with pytest.raises(
        DamagedData, match=r"images\.txt has the columns \['url', 'path'\]; expected path, species"
    ):
        read_birdsnap(birdsnap, "train", "default", birdsnap)


@pytest.fixture
def aircraft(tmp_path):
    lists = {
        "train": [("1025794", "707-320"), ("0481847", "A300B4")],
        "val": [("1340192", "727-200")],
        "test": [("0056978", "A300B4"), ("0698580", "707-320")],
    }
    miniatures.aircraft(tmp_path, ["707-320", "727-200", "A300B4"], lists)
    return tmp_path


def test_aircraft_has_its_three_splits(aircraft, as_clip_benchmark):
    for split, labels in (("train", [0, 2]), ("val", [1]), ("test", [2, 0])):
        opened = read_aircraft(aircraft, split, "default", aircraft)
        assert opened.labels.tolist() == labels
        as_clip_benchmark(opened, "fgvc_aircraft", aircraft, split)
    assert opened.keys == ["images/0056978.jpg", "images/0698580.jpg"]
    assert opened.class_names == ("707-320", "727-200", "A300B4")


def test_aircraft_names_the_missing_list_and_unknown_variants(aircraft):
    data = aircraft / "fgvc-aircraft-2013b" / "data"
    (data / "images_variant_val.txt").write_text("1340192 737-300\n")
    with pytest.raises(DamagedData, match=r"images_variant_val\.txt names 1 unknown classes: 737-300"):
        read_aircraft(aircraft, "val", "default", aircraft)
    (data / "images_variant_val.txt").unlink()
    with pytest.raises(DataNotFound, match=r"there is no .*images_variant_val\.txt"):
        read_aircraft(aircraft, "val", "default", aircraft)
    (data / "variants.txt").unlink()
    with pytest.raises(DataNotFound, match=r"there is no .*variants\.txt"):
        read_aircraft(aircraft, "test", "default", aircraft)


@pytest.fixture
def dtd(tmp_path):
    miniatures.dtd(tmp_path, ["zigzagged", "banded", "polka-dotted"])
    return tmp_path


def test_dtd_is_partition_one(dtd, as_clip_benchmark):
    seen = []
    for split in ("train", "val", "test"):
        opened = read_dtd(dtd, split, "default", dtd)
        assert opened.class_names == ("banded", "polka-dotted", "zigzagged")
        assert opened.labels.tolist() == [2, 0, 1]
        as_clip_benchmark(opened, "dtd", dtd, split)
        seen += opened.keys
    assert len(set(seen)) == 9
    assert opened.keys[0] == "images/zigzagged/zigzagged_0005.jpg"


def test_dtd_as_the_authors_archive_unpacks_it_gives_the_same(dtd):
    inner = read_dtd(dtd / "dtd", "val", "default", dtd)
    assert inner.fingerprint == read_dtd(dtd, "val", "default", dtd).fingerprint
    (dtd / "dtd" / "dtd" / "labels" / "val1.txt").unlink()
    with pytest.raises(DataNotFound, match=r"there is no .*val1\.txt"):
        read_dtd(dtd, "val", "default", dtd)


@pytest.fixture
def pets(tmp_path):
    """Three of the 37 breeds with the class numbers they have."""
    trainval = ["Abyssinian_100 1 1 1", "american_bulldog_100 2 2 1", "yorkshire_terrier_9 37 2 25"]
    miniatures.pets(tmp_path, trainval, ["Abyssinian_201 1 1 1", "yorkshire_terrier_10 37 2 25"])
    return tmp_path


def test_pets_have_clip_benchmarks_names_in_the_authors_order(pets):
    train = read_pets(pets, "train", "default", pets)
    assert train.keys[1] == "images/american_bulldog_100.jpg"
    assert train.labels.tolist() == [0, 1, 36]
    assert [train.class_names[i] for i in (0, 1, 36)] == [
        "Abyssinian",
        "American Bulldog",
        "Yorkshire Terrier",
    ]
    test = open_dataset(
        DatasetRef(name="pets", source=FolderSource(kind="published", path=str(pets))),
        data_root=None,
        cache_dir=pets,
    )
    assert test.labels.tolist() == [0, 36]
    assert test.info.subset and len(test.info.class_names) == 37


def test_pets_names_the_missing_list_and_a_line_of_another_form(pets):
    lists = pets / "oxford-iiit-pet" / "annotations"
    (lists / "trainval.txt").write_text("Abyssinian_100.jpg 1\n")
    with pytest.raises(
        DamagedData, match=r"expected IMAGE CLASS SPECIES BREED, found 'Abyssinian_100\.jpg 1'"
    ):
        read_pets(pets, "train", "default", pets)
    (lists / "trainval.txt").unlink()
    with pytest.raises(DataNotFound, match=r"there is no .*trainval\.txt"):
        read_pets(pets, "train", "default", pets)
    with pytest.raises(DataNotFound, match="no official split 'val'"):
        read_pets(pets, "val", "default", pets)
