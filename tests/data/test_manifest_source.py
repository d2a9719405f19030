import pickle
import re
from pathlib import Path

import pytest
from PIL import Image
from toy import COLOURS, ColourEncoder

import rwkvclip_eval as rc
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import DatasetRef, ManifestSource
from rwkvclip_eval.errors import DamagedData, DataNotFound, UserError

SPLIT_CSV = """image,label,split,key
a.png,owl,train,k1
b.png,wren,train,k2
b.png,owl,test,k3
c.png,eagle,test,k4
"""


@pytest.fixture
def opened(tmp_path, png):
    """Opens the images a to d by the manifest given as text."""
    (tmp_path / "images").mkdir()
    for i, name in enumerate("abcd"):
        (tmp_path / "images" / f"{name}.png").write_bytes(png(i))

    def open_(text, split=None, **more):
        (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
        source = ManifestSource(kind="manifest", path="labels.csv", root="images")
        ref = DatasetRef(name="mine", source=source, split=split, templates=("a {c}.",), **more)
        return open_dataset(ref, data_root=None, base_dir=tmp_path, cache_dir=tmp_path / "cache")

    return open_


def test_class_names_are_numbered_over_all_splits(opened):
    test = pickle.loads(pickle.dumps(opened(SPLIT_CSV)))
    assert test.keys == ["k3", "k4"]
    assert test.labels.tolist() == [1, 0]
    assert test.info.class_names == ("eagle", "owl", "wren")
    assert test.info.source == "manifest labels.csv"
    assert test.image(0).getpixel((0, 0)) == (1, 0, 7)
    train = opened(SPLIT_CSV, split="train")
    assert (train.keys, train.labels.tolist()) == (["k1", "k2"], [1, 2])
    assert train.info.fingerprint != test.info.fingerprint


def test_the_suites_class_names_give_the_order(opened):
    test = opened(SPLIT_CSV, class_names=("wren", "owl", "eagle"))
    assert test.labels.tolist() == [1, 2]
    with pytest.raises(UserError, match=r"line 5: Unknown class name 'eagle'"):
        opened(SPLIT_CSV, class_names=("wren", "owl", "eagles"))


def test_whole_numbers_are_class_ids(opened):
    text = "image,label\na.png,2\nb.png,0\n"
    test = opened(text, class_names=("x", "y", "z"))
    assert test.keys == ["a.png", "b.png"]
    assert test.labels.tolist() == [2, 0]
    with pytest.raises(UserError, match="line 2: label 2 for 2 class names"):
        opened(text, class_names=("x", "y"))
    with pytest.raises(UserError, match="no class names"):
        opened(text)


def test_class_names_that_are_digits_are_names_where_the_suite_lists_them(opened):
    assert opened("image,label\na.png,7\nb.png,3\n", class_names=("3", "7")).labels.tolist() == [1, 0]


def test_several_labels_make_it_a_multilabel_set(opened):
    dataset = opened("image,label\na.png,cat; dog\nb.png,dog\nc.png,bird\n")
    assert dataset.info.kind == "multilabel"
    assert dataset.info.class_names == ("bird", "cat", "dog")
    assert dataset.labels.tolist() == [[0, 1, 1], [0, 0, 1], [1, 0, 0]]
    by_id = opened("image,label\na.png,0;2\nb.png,1\n", class_names=("x", "y", "z"))
    assert by_id.labels.tolist() == [[1, 0, 1], [0, 1, 0]]


def test_rows_of_one_image_are_its_captions(opened):
    text = '\ufeffimage,caption\na.png,"One, with a comma"\nb.png,Two\na.png,Thrée\n'
    dataset = opened(text)
    assert dataset.info.kind == "retrieval"
    assert dataset.keys == ["a.png", "b.png"]
    assert dataset.captions == [["One, with a comma", "Thrée"], ["Two"]]


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        ("image,label\na.png,x\nmissing.png,x\n", DamagedData, r"line 3: there is no image .*missing\.png"),
        (
            "image,label,split\na.png,x,test\nb.png,x,tset\n",
            DamagedData,
            "line 3: Unknown split 'tset'.*test",
        ),
        ("image,label\na.png,x\nb.png,\n", DamagedData, "line 3: the label is empty"),
        ("image,label\na.png,x\nb.png,x;;y\n", DamagedData, "line 3: in 'x;;y', a label is empty"),
        ("image,caption\na.png, \n", DamagedData, "line 2: the caption is empty"),
        (
            "image,label\na.png,x\nb.png,x\na.png,y\n",
            DamagedData,
            r"line 4: the key 'a\.png' is that of line 2",
        ),
        (
            "image,caption,key\na.png,x,k\nb.png,x,k\n",
            DamagedData,
            "line 3: the key 'k' is that of another image in line 2",
        ),
        ("image,label\na.png,x,y\n", DamagedData, "line 2: more fields than the header"),
        ("image,label\na.png\n", DamagedData, "line 2: fewer fields than the header"),
        ("image,labels\na.png,x\n", UserError, "Unknown column 'labels'.*label"),
        ("image\na.png\n", UserError, "one of label and caption, found image"),
        ("image,label,caption\na.png,x,y\n", UserError, "one of label and caption"),
        ("image,label\n", DataNotFound, "a header but no rows"),
        ("image,label,split\na.png,x,train\n", DataNotFound, "no rows of split 'test'; it has: train"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(opened, text, error, told):
    with pytest.raises(error, match=told):
        opened(text)


def test_missing_files_are_named(opened, tmp_path):
    opened(SPLIT_CSV)
    source = ManifestSource(kind="manifest", path="labels.csv", root="nowhere")
    with pytest.raises(DataNotFound, match=r"no folder .*nowhere for the images"):
        open_dataset(DatasetRef(name="mine", source=source), data_root=None, base_dir=tmp_path)
    source = ManifestSource(kind="manifest", path="no.csv")
    with pytest.raises(DataNotFound, match=r"no manifest .*no\.csv"):
        open_dataset(DatasetRef(name="mine", source=source), data_root=None, base_dir=tmp_path)


def test_the_documented_suite_with_a_manifest_runs(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "bring-your-own.md").read_text(encoding="utf-8")
    suite = re.search(r"<!-- test: own manifest -->\n```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "marked.yaml").write_text(suite[1])
    (tmp_path / "images").mkdir()
    rows = ["image,label"]
    for i, (name, colour) in enumerate(COLOURS.items()):
        Image.new("RGB", (8, 8), colour).save(tmp_path / "images" / f"{i}.png")
        rows.append(f"{i}.png,{name} one")
    (tmp_path / "labels.csv").write_text("\n".join([*rows, "0.png"]))
    broken = rc.evaluate(ColourEncoder(), tmp_path / "marked.yaml", allow_missing=1)
    assert "labels.csv, line 5: fewer fields" in str(broken.to_frame().to_dict())
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    results = rc.evaluate(ColourEncoder(), tmp_path / "marked.yaml")
    found = results.to_frame().set_index("metric")
    assert found.loc["top1_accuracy", ["value", "n"]].tolist() == [1.0, 3]
