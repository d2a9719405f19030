import io
import pickle

import numpy as np
import pytest
from PIL import Image

from rwkvclip_eval.data.catalogue import catalogue
from rwkvclip_eval.data.formats.robustness import imagenet_names
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.prompts import shipped
from rwkvclip_eval.data.types import DatasetRef, HuggingFaceSource
from rwkvclip_eval.errors import DamagedData, DataNotFound, UserError

datasets = pytest.importorskip("datasets", reason="datasets is not installed")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    datasets.disable_progress_bars()


def open_hf(base_dir, offline=True, **fields):
    source = HuggingFaceSource(kind="hugging_face", **fields)
    reference = DatasetRef(name="birds", source=source, templates=("a {c}",))
    return open_dataset(reference, data_root=None, base_dir=base_dir, offline=offline, cache_dir=base_dir)


@pytest.fixture
def parquet(tmp_path, png):
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["robin", "wren"]),
            "texts": datasets.List(datasets.Value("string")),
            "id": datasets.Value("string"),
            "hidden": datasets.Value("int64"),
        }
    )
    rows = {
        "image": [{"bytes": png(i), "path": None} for i in range(3)],
        "label": [1, 0, 1],
        "texts": [["a wren"], ["a robin", "red"], ["w"]],
        "id": ["x", "y", "z"],
        "hidden": [-1, 0, 1],
    }
    (tmp_path / "files").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "files" / "part-0.parquet")
    return tmp_path


def test_parquet_files_give_labels_and_names_and_undecoded_images(parquet, png):
    dataset = open_hf(parquet, path="parquet", data_files="files/*.parquet", key="id")
    assert dataset.info.class_names == ("robin", "wren")
    assert dataset.labels.tolist() == [1, 0, 1]
    assert list(dataset.keys) == ["x", "y", "z"]
    assert dataset.images.read(2) == png(2)
    dataset = pickle.loads(pickle.dumps(dataset))
    assert dataset.image(1).getpixel((0, 0)) == (1, 0, 7)
    assert dataset.info.source == "Hugging Face parquet"


def test_caption_column_makes_it_a_retrieval_set(parquet):
    dataset = open_hf(parquet, path="parquet", data_files="files/*.parquet", captions="texts")
    assert dataset.info.kind == "retrieval"
    assert list(map(list, dataset.captions)) == [["a wren"], ["a robin", "red"], ["w"]]
    assert list(dataset.keys) == ["0000000", "0000001", "0000002"]


def test_fingerprint_is_that_of_the_content(parquet):
    first = open_hf(parquet, path="parquet", data_files="files/*.parquet").info.fingerprint
    for file in parquet.glob("data/*.fingerprint"):
        file.unlink()
    again = open_hf(parquet, path="parquet", data_files="files/*.parquet").info.fingerprint
    other = open_hf(parquet, path="parquet", data_files="files/*.parquet", split="test[:2]").info.fingerprint
    assert first == again != other


def test_local_image_folder_is_loaded_by_its_path(tmp_path, png):
    for split, label, shade in [("train", "wren", 1), ("test", "wren", 2), ("test", "robin", 3)]:
        path = tmp_path / "birds" / split / label / f"{shade}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(shade))
    dataset = open_hf(tmp_path, path="birds")
    assert dataset.info.class_names == ("robin", "wren")
    assert dataset.labels.tolist() == [0, 1]
    assert [dataset.image(i).getpixel((0, 0))[0] for i in range(2)] == [3, 2]
    assert str(tmp_path) not in dataset.info.source


@pytest.mark.parametrize("name", ["validation", "val"])
def test_the_validation_split_is_found_under_either_of_its_names(tmp_path, png, name):
    rows = {"image": [{"bytes": png(7), "path": None}], "label": [0]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["wren"])})
    (tmp_path / "birds").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "birds" / "val-0.parquet")
    (tmp_path / "birds" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        f"  - {{split: {name}, path: val-0.parquet}}\n---\n"
    )
    source = HuggingFaceSource(kind="hugging_face", path="birds")
    reference = DatasetRef(name="birds", source=source, split="val", templates=("a {c}",))
    opened = open_dataset(reference, data_root=None, base_dir=tmp_path, offline=True, cache_dir=tmp_path)
    assert (opened.info.split, len(opened)) == ("val", 1)
    absent = reference.model_copy(update={"split": "train"})
    with pytest.raises(DataNotFound, match="split train, is not in"):
        open_dataset(absent, data_root=None, base_dir=tmp_path, offline=True, cache_dir=tmp_path)


def test_unknown_columns_suggest_near_ones(parquet):
    with pytest.raises(UserError, match=r"Unknown column 'imag'. Did you mean 'image'"):
        open_hf(parquet, path="parquet", data_files="files/*.parquet", image="imag")


def labelled(folder, png, labels):
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(len(labels))], "label": labels}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "text.parquet")
    source = HuggingFaceSource(kind="hugging_face", path="parquet", data_files="text.parquet")
    names = tuple(f"class {i}" for i in range(12))
    reference = DatasetRef(name="birds", source=source, templates=("a {c}",), class_names=names)
    return open_dataset(reference, data_root=None, base_dir=folder, offline=True, cache_dir=folder)


def test_class_ids_written_as_text_are_ids(tmp_path, png):
    ids = [str(i) for i in range(11, -1, -1)]
    assert labelled(tmp_path, png, ids).labels.tolist() == [int(text) for text in ids]


@pytest.mark.parametrize("odd", ["-1", "1.0"])
def test_numbers_as_text_that_are_no_ids_are_refused(odd, tmp_path, png):
    with pytest.raises(DamagedData, match=f"label '{odd}' in column 'label' is a number, but class ids are"):
        labelled(tmp_path, png, ["0", odd, "2"])


def test_folders_that_are_numbers_are_labels_in_their_order(tmp_path, png):
    for number in range(12):
        (tmp_path / "num" / str(number)).mkdir(parents=True)
        (tmp_path / "num" / str(number) / "a.png").write_bytes(png(number))
    dataset = open_hf(tmp_path, path="num", split="train")
    order = [dataset.image(row).getpixel((0, 0)) for row in np.argsort(dataset.labels)]
    assert dataset.info.class_names == tuple(map(str, range(12)))
    assert order == [Image.open(tmp_path / "num" / str(i) / "a.png").getpixel((0, 0)) for i in range(12)]


@pytest.mark.parametrize("split", ["train+train", "train[:2] + train[1:]"])
def test_a_split_twice_is_refused(parquet, split):
    with pytest.raises(UserError, match="names a split twice: an image could count twice"):
        open_hf(parquet, path="parquet", data_files="files/*.parquet", split=split)


@pytest.mark.parametrize("odd", ["a\nb", "\x1b[31mred"])
def test_labels_that_are_no_line_of_text_are_refused(odd, tmp_path, png):
    with pytest.raises(DamagedData, match="is no line of text"):
        labelled(tmp_path, png, ["owl", odd])


def test_a_slice_without_rows_is_said(parquet):
    with pytest.raises(DamagedData, match=r"the split 'train\[50%:10%\]' has no rows"):
        open_hf(parquet, path="parquet", data_files="files/*.parquet", split="train[50%:10%]")


def test_hidden_labels_are_refused(parquet):
    with pytest.raises(DamagedData, match="1 rows have no class id from 0 in column 'hidden'"):
        open_hf(parquet, path="parquet", data_files="files/*.parquet", label="hidden")


def test_what_is_not_cached_is_reported_missing_when_offline(tmp_path, monkeypatch):
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *a: pytest.fail("a socket was opened"))
    with pytest.raises(
        DataNotFound, match=r"owner/absent, split test, is not in the local cache \(offline\)"
    ):
        open_hf(tmp_path, path="owner/absent")
    assert not datasets.config.HF_HUB_OFFLINE


def test_a_suite_need_not_name_the_copy_that_the_catalogue_knows(tmp_path, png, monkeypatch):
    names = [f"apple_pie_{i}" for i in range(1000)]
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(2)], "label": [99, 3]}
    asked = []

    def load(path, config, *, split, data_files):
        asked.append((path, split))
        kept = names[: {"ILSVRC/imagenet-1k": 1000, "ethz/food101": 101}.get(path, 100)]
        columns = ("img", "fine_label") if "cifar" in path else ("image", "label")
        features = dict(zip(columns, (datasets.Image(), datasets.ClassLabel(names=kept)), strict=True))
        return datasets.Dataset.from_dict(
            dict(zip(columns, rows.values(), strict=True)), features=datasets.Features(features)
        )

    monkeypatch.setattr(datasets, "load_dataset", load)

    def opened(name, split):
        source = HuggingFaceSource(kind="hugging_face")
        reference = DatasetRef(name=name, split=split, source=source)
        return open_dataset(reference, data_root=None, base_dir=tmp_path, cache_dir=tmp_path)

    food = opened("food101", "test")
    assert opened("food101", "train").labels.tolist() == food.labels.tolist() == [99, 3]
    assert food.info.source == "Hugging Face ethz/food101"
    # Class names are those of the other sources, not as the hub spells them.
    assert food.info.class_names[1] == "apple pie 1"
    assert opened("imagenet", "test").info.class_names == shipped("labels", "imagenet")
    assert asked == [
        ("ethz/food101", "validation"),
        ("ethz/food101", "train"),
        ("ILSVRC/imagenet-1k", "validation"),
    ]
    for name in ("cars", "birds"):
        with pytest.raises(UserError, match=rf"no Hugging Face copy of {name}, only of food101, dtd"):
            opened(name, "test")


def write_copy(folder, split, label, names, config="default"):
    """A repository of the hub as its card describes it, with one image of each class, the last first."""
    order = range(len(names))[::-1]
    kind = datasets.Value("string") if label == "wnid" else datasets.ClassLabel(names=names)
    features = datasets.Features({"image": datasets.Image(), label: kind})
    image = io.BytesIO()
    Image.new("RGB", (2, 2)).save(image, "PNG")
    labels = [names[i] for i in order] if label == "wnid" else list(order)
    rows = {"image": [{"bytes": image.getvalue(), "path": None}] * len(names), label: labels}
    (folder / "data").mkdir(parents=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "data" / f"{split}-0.parquet")
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {config}\n  default: true\n  data_files:\n"
        f"  - {{split: {split}, path: data/{split}-*}}\n---\n"
    )


def wnids():
    from clip_benchmark.datasets.builder import all_imagenet_wordnet_ids

    return sorted(all_imagenet_wordnet_ids[::5])


@pytest.mark.parametrize(
    ("name", "split", "path", "theirs"),
    [
        ("dtd", "val", "mcimpoi/dtd_split_1", "validation"),
        ("pets", "test", "timm/oxford-iiit-pet", "test"),
        ("flowers", "val", "dpdl-benchmark/oxford_flowers102", "validation"),
        ("gtsrb", "test", "tanganke/gtsrb", "test"),
        ("pcam", "val", "dpdl-benchmark/patch_camelyon", "validation"),
        ("rendered_sst2", "val", "nateraw/rendered-sst2", "validation"),
        ("tiny_imagenet", "test", "zh-plus/tiny-imagenet", "valid"),
        ("imagenet_r", "test", "axiong/imagenet-r", "test"),
    ],
)
def test_copies_open_by_their_cards_with_the_names_and_numbers_of_other_sources(
    tmp_path, name, split, path, theirs
):
    count = catalogue()[name].num_classes
    spelt = shipped("labels", name) or tuple(f"class {i:03d}" for i in range(count))
    names = list(spelt)
    if name == "pets":
        names = [text.lower().replace(" ", "_") for text in spelt]
    elif name == "pcam":
        names = ["0", "1"]
    elif "imagenet" in name:
        names, spelt = wnids(), imagenet_names(wnids(), name)
    of_test = name == "imagenet_r"
    write_copy(
        tmp_path / path, theirs, "wnid" if of_test else "label", names, "test" if of_test else "default"
    )
    reference = DatasetRef(name=name, split=split, source=HuggingFaceSource(kind="hugging_face"))
    opened = open_dataset(reference, data_root=None, base_dir=tmp_path, offline=True, cache_dir=tmp_path)
    assert opened.labels.tolist() == list(range(count))[::-1]
    assert opened.info.class_names == spelt
    assert opened.info.expected_samples == catalogue()[name].variant("default").counts[split]


@pytest.mark.parametrize("name", ["pets", "tiny_imagenet"])
def test_a_copy_that_numbers_its_classes_otherwise_is_refused(tmp_path, name):
    copy = catalogue()[name].variant("default").hugging_face
    names = wnids() if name == "tiny_imagenet" else [*shipped("labels", name)]
    write_copy(tmp_path / copy.path, copy.splits.get("test", "test"), "label", names[::-1])
    reference = DatasetRef(name=name, source=HuggingFaceSource(kind="hugging_face"))
    with pytest.raises(DamagedData, match=rf"{copy.path} numbers its classes otherwise .* is its label 0"):
        open_dataset(reference, data_root=None, base_dir=tmp_path, offline=True, cache_dir=tmp_path)


def test_data_that_are_absent_name_the_copy_on_the_hub(tmp_path):
    with pytest.raises(DataNotFound, match=r"source: \{kind: hugging_face\} takes uoft-cs/cifar10"):
        open_dataset(DatasetRef(name="cifar10"), data_root=tmp_path)
