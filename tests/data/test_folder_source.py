import json
import os
import pickle
import time
from pathlib import Path

import pytest

from rwkvclip_eval.data.folder import open_folder
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.samples import remembered_fingerprint
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.errors import DamagedData, DataNotFound, DataWarning, UserError


@pytest.fixture
def birds(tmp_path, png):
    for i, (folder, name) in enumerate([("wren", "2.png"), ("wren", "1.PNG"), ("robin", "sub/1.png")]):
        path = tmp_path / "birds" / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    (tmp_path / "birds" / "wren" / "notes.txt").write_text("no image")
    return tmp_path


def open_birds(base_dir, **fields):
    fields = {"templates": ("a {c}",), "folder": "birds"} | fields
    return open_dataset(
        DatasetRef(name="birds", **fields), data_root=None, base_dir=base_dir, cache_dir=base_dir
    )


def test_folders_are_classes_in_sorted_order(birds):
    dataset = pickle.loads(pickle.dumps(open_birds(birds)))
    assert dataset.info.class_names == ("robin", "wren")
    assert list(dataset.keys) == ["robin/sub/1.png", "wren/1.PNG", "wren/2.png"]
    assert dataset.labels.tolist() == [0, 1, 1]
    assert dataset.image(1).getpixel((0, 0)) == (1, 0, 7)
    assert dataset.info.source == "folder birds"


def test_class_names_that_are_the_folders_give_the_label_order(birds):
    dataset = open_birds(birds, class_names=("wren", "robin"))
    assert dataset.info.class_names == ("wren", "robin")
    assert dataset.labels.tolist() == [0, 0, 1]


def test_other_class_names_name_the_sorted_folders(birds):
    dataset = open_birds(birds, class_names=("European robin", "Eurasian wren"))
    assert dataset.info.class_names == ("European robin", "Eurasian wren")
    assert dataset.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("first", [0, 1])
def test_folders_that_are_numbers_are_labels_in_their_order(first, tmp_path, png):
    for number in range(12):
        (tmp_path / "birds" / str(first + number)).mkdir(parents=True)
        (tmp_path / "birds" / str(first + number) / "a.png").write_bytes(png(number))
    dataset = open_birds(tmp_path, class_names=tuple(f"class {i}" for i in range(12)))
    told = {Path(key).parent.name: label for key, label in zip(dataset.keys, dataset.labels, strict=True)}
    assert told == {str(first + number): number for number in range(12)}
    assert open_birds(tmp_path).info.class_names == tuple(str(first + number) for number in range(12))


def test_files_of_one_size_and_time_that_change_places_are_noticed(birds, png):
    for folder, name in (("wren", "2.png"), ("wren", "1.PNG")):
        os.utime(birds / "birds" / folder / name, ns=(10**18, 10**18))
    one, two = birds / "birds" / "wren" / "1.PNG", birds / "birds" / "wren" / "2.png"
    assert one.stat().st_size == two.stat().st_size
    before = open_birds(birds).info.fingerprint
    assert open_birds(birds).info.fingerprint == before
    time.sleep(0.01)
    one.rename(birds / "aside")
    two.rename(one)
    (birds / "aside").rename(two)
    assert open_birds(birds).info.fingerprint != before


def test_hidden_files_are_no_images(birds):
    for name in ("._1.png", ".tmp.png"):
        (birds / "birds" / "wren" / name).write_bytes(b"of a file manager")
    assert len(open_birds(birds)) == 3


def test_captions_in_two_files_are_refused(tmp_path, png):
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "a.png").write_bytes(png(1))
    (tmp_path / "birds" / "captions.csv").write_text("image,caption\na.png,a robin\n")
    (tmp_path / "birds" / "captions.json").write_text('{"a.png": "a wren"}')
    with pytest.raises(DamagedData, match=r"captions\.csv and captions\.json: which is it"):
        open_birds(tmp_path)


def test_class_names_that_fit_in_part_or_in_number_are_refused(birds):
    with pytest.raises(UserError, match="without a folder: robbin; folders without a class name: robin"):
        open_birds(birds, class_names=("wren", "robbin"))
    with pytest.raises(UserError, match="3 class names given, but folder birds has 2 classes"):
        open_birds(birds, class_names=("a", "b", "c"))


def test_split_folder_is_used_and_a_missing_one_reported(birds):
    (birds / "birds").rename(birds / "test")
    (birds / "birds").mkdir()
    (birds / "test").rename(birds / "birds" / "test")
    assert open_birds(birds).info.source == "folder birds/test"
    with pytest.raises(DataNotFound, match=r"no split 'train'; it has: test"):
        open_birds(birds, split="train")


def test_fingerprint_is_remembered_until_a_file_changes(birds, png):
    first = open_birds(birds).info.fingerprint
    assert open_birds(birds).info.fingerprint == first
    assert len(list((birds / "data").glob("*.fingerprint"))) == 1
    file = birds / "birds" / "wren" / "2.png"
    file.write_bytes(png(99))
    os.utime(file, ns=(5, 5))
    assert open_birds(birds).info.fingerprint != first


@pytest.mark.parametrize("form", ["csv", "json"])
def test_captions_beside_the_images_make_it_a_retrieval_set(tmp_path, png, form):
    folder = tmp_path / "birds"
    folder.mkdir()
    for i in range(2):
        (folder / f"{i}.png").write_bytes(png(i))
    if form == "csv":
        (folder / "captions.csv").write_text(
            'image,caption\n1.png,"a wren, singing"\n0.png,x\n1.png,second\n'
        )
    else:
        (folder / "captions.json").write_text(
            json.dumps({"1.png": ["a wren, singing", "second"], "0.png": "x"})
        )
    dataset = open_birds(tmp_path)
    assert dataset.info.kind == "retrieval"
    assert list(dataset.keys) == ["1.png", "0.png"]
    assert list(map(list, dataset.captions)) == [["a wren, singing", "second"], ["x"]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("captions.csv", "file,text\n1.png,x\n", "expected columns image and caption"),
        ("captions.csv", "image,caption\n1.png,x\n", r"names 1 images that are not there: 1\.png"),
        ("captions.csv", "image,caption\n1.png,\n", "1 images have a caption that cannot be read"),
        ("captions.json", "[1]", "expected a mapping"),
        ("captions.json", "{", "cannot be read"),
        ("captions.json", '{"1.png": []}', r"1 images have a caption .*: 1\.png \(it is empty"),
        ("captions.csv", "image,caption\n", "captions.csv holds no captions"),
        ("captions.json", "{}", "captions.json holds no captions"),
    ],
)
def test_captions_that_do_not_fit_are_refused(tmp_path, name, text, message):
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / name).write_text(text)
    with pytest.raises(DamagedData, match=message):
        open_birds(tmp_path)


def test_missing_or_empty_folders_are_reported(tmp_path):
    with pytest.raises(DataNotFound, match="There is no folder"):
        open_birds(tmp_path)
    (tmp_path / "birds").mkdir()
    with pytest.raises(DamagedData, match="neither one folder per class nor captions"):
        open_birds(tmp_path)
    (tmp_path / "birds" / "wren").mkdir()
    with pytest.raises(DamagedData, match=r"wren holds no images .* Remove it or complete it"):
        open_birds(tmp_path)


def test_a_class_that_one_split_lacks_does_not_move_the_labels_of_the_others(tmp_path, png):
    for split, folders in (("train", ("auk", "owl", "wren")), ("test", ("auk", "wren"))):
        for i, folder in enumerate(folders):
            (tmp_path / split / folder).mkdir(parents=True)
            (tmp_path / split / folder / "1.png").write_bytes(png(i))
    test = open_folder(tmp_path, "test", cache_dir=tmp_path)
    assert (test.keys, test.labels.tolist()) == (["auk/1.png", "wren/1.png"], [0, 2])
    assert test.class_names == open_folder(tmp_path, "train", cache_dir=tmp_path).class_names
    named = open_folder(tmp_path, "test", ["wren", "owl", "auk"], tmp_path)
    assert named.labels.tolist() == [0, 2] and named.keys == ["wren/1.png", "auk/1.png"]


def test_a_remembered_fingerprint_that_was_damaged_is_computed_again(tmp_path):
    cut = tmp_path / "data" / "signature.fingerprint"
    cut.parent.mkdir()
    cut.write_text("")
    assert remembered_fingerprint("signature", tmp_path, lambda: "f" * 64) == "f" * 64
    assert cut.read_text().split()[0] == "f" * 64


@pytest.mark.parametrize("form", ["csv", "json"])
def test_captions_of_a_part_of_the_images_are_said_and_counted_beside_the_number(tmp_path, png, form):
    root = tmp_path / "birds"
    (root / "more").mkdir(parents=True)
    for i in range(3):
        (root / f"{i}.png").write_bytes(png(i))
    (root / "more" / "3.png").write_bytes(png(3))
    text = "image,caption\n0.png,a\n1.png,b\n" if form == "csv" else json.dumps({"0.png": "a", "1.png": "b"})
    (root / f"captions.{form}").write_text(text)
    part = f"2 of the 4 images there, those that captions.{form} names"
    with pytest.warns(DataWarning, match=part):
        dataset = open_birds(tmp_path)
    assert len(dataset) == 2
    assert dataset.info.source == f"folder birds: {part}"


@pytest.mark.parametrize("caption", ["\u200b", " \u2060", ""])
def test_a_caption_that_shows_nothing_is_none(tmp_path, png, caption):
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "1.png").write_bytes(png(1))
    (tmp_path / "birds" / "captions.json").write_text(json.dumps({"1.png": caption}))
    with pytest.raises(DamagedData, match="1 images have a caption that cannot be read"):
        open_birds(tmp_path)
