import pickle
import socket

import numpy as np
import pytest

from rwkvclip_eval.data.open import DATASETS, limit_dataset, open_dataset
from rwkvclip_eval.data.types import Dataset, DatasetRef, EmbeddedSource, FolderSource
from rwkvclip_eval.errors import DamagedData, DataNotFound, UserError

NAMES = "\n".join(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])


def ref(name: str, **fields) -> DatasetRef:
    return DatasetRef(name=name, **fields)


def test_catalogue_dataset_below_its_count_is_an_unverified_subset(tmp_path, write_wds):
    write_wds(tmp_path, "mnist", [list(range(10))], classnames=NAMES)
    dataset = open_dataset(ref("MNIST"), data_root=tmp_path)
    info = dataset.info
    assert isinstance(dataset, Dataset)
    assert (info.name, info.variant, info.split) == ("mnist", "default", "test")
    assert (info.num_samples, info.expected_samples, info.verified, info.subset) == (10, 10000, False, True)
    assert info.class_names == tuple(NAMES.split())
    assert info.templates == ('a photo of the number: "{c}".',)


def test_any_wds_folder_runs_unverified(tmp_path, write_wds):
    write_wds(
        tmp_path,
        "my-birds",
        [[0, 1]],
        classnames="wren\nrobin",
        zeroshot_classification_templates="a photo of a {c}.\n{}, a bird.\n",
    )
    for name in ("my-birds", "wds_my-birds", "wds/my/birds"):
        info = open_dataset(ref(name), data_root=tmp_path).info
        assert (info.verified, info.subset, info.expected_samples) == (False, False, None)
        assert info.templates == ("a photo of a {c}.", "{c}, a bird.")


def test_unknown_name_lists_near_matches_from_catalogue_and_folders(tmp_path, write_wds):
    write_wds(tmp_path, "my_birds", [[0]])
    with pytest.raises(DataNotFound, match="Did you mean 'cifar10' or 'cifar100'"):
        open_dataset(ref("cifar"), data_root=tmp_path)
    with pytest.raises(DataNotFound, match="Did you mean 'my_birds'"):
        open_dataset(ref("my_bird"), data_root=tmp_path)


def test_absent_data_name_every_place_and_how_to_get_them(tmp_path):
    with pytest.raises(DataNotFound) as caught:
        open_dataset(ref("fgvc_aircraft"), data_root=tmp_path)
    text = str(caught.value)
    for place in ("wds_fgvc_aircraft", "wds_aircraft", "fgvc_aircraft", "aircraft"):
        assert str(tmp_path / place) in text
    assert "rwkvclip-eval data download aircraft" in text
    with pytest.raises(
        DataNotFound, match=r"from published files: rwkvclip-eval data download voc2007 --data-root \S+$"
    ):
        open_dataset(ref("voc2007"), data_root=tmp_path)
    with pytest.raises(DataNotFound, match="--data-root"):
        open_dataset(ref("aircraft"), data_root=None)
    with pytest.raises(DataNotFound, match="nowhere does not exist"):
        open_dataset(ref("aircraft"), data_root=tmp_path / "nowhere")


def test_variant_comes_from_the_name_then_the_reference_then_the_protocol(tmp_path):
    def variant_missing(reference: DatasetRef, protocol: str | None) -> str:
        with pytest.raises(DataNotFound) as caught:
            open_dataset(reference, data_root=tmp_path, variant=protocol)
        return str(caught.value).split(",")[0]

    assert variant_missing(ref("caltech101"), None).endswith("caltech101@clip-benchmark")
    assert variant_missing(ref("caltech101"), "seed3072").endswith("@seed3072")
    assert variant_missing(ref("caltech101", variant="clip-benchmark"), "seed3072").endswith(
        "@clip-benchmark"
    )
    assert variant_missing(ref("sun397@full"), "partition1").endswith("sun397@full")
    with pytest.raises(UserError, match=r"Unknown variant of sun397 'whole'. Known: full, partition1"):
        open_dataset(ref("sun397@whole"), data_root=tmp_path)
    with pytest.raises(UserError, match="the name says variant"):
        open_dataset(ref("sun397@full", variant="partition1"), data_root=tmp_path)


def test_more_images_than_the_catalogue_knows_are_refused(tmp_path, write_wds):
    write_wds(tmp_path, "twemoji", [["a"] * 497], dataset_type="retrieval")
    with pytest.raises(DamagedData, match=r"knows 496 images, webdataset wds_twemoji/test holds 497"):
        open_dataset(ref("twemoji"), data_root=tmp_path)


def test_wrong_class_count_names_both_counts(tmp_path, write_wds):
    write_wds(tmp_path, "mnist", [[0, 10]], classnames=NAMES)
    with pytest.raises(DamagedData, match="10 class names, but the labels go up to 10, so at least 11"):
        open_dataset(ref("mnist"), data_root=tmp_path)
    write_wds(tmp_path, "mnist", [[0, 1]], classnames="zero\none\ntwo")
    with pytest.raises(DamagedData, match="knows 10 classes, 3 class names"):
        open_dataset(ref("mnist"), data_root=tmp_path)
    with pytest.raises(DamagedData, match=r"2 class names given, but .* has 3 classes"):
        open_dataset(ref("mnist", class_names=("a", "b")), data_root=tmp_path)


def test_retrieval_shards_under_a_classification_name_are_refused(tmp_path, write_wds):
    write_wds(tmp_path, "mnist", [["a seven"]], dataset_type="retrieval")
    with pytest.raises(DamagedData, match="the catalogue says classification"):
        open_dataset(ref("mnist"), data_root=tmp_path)


def test_damaged_image_is_named_with_its_shard_only_when_asked_for(tmp_path, write_shard, png):
    whole = png(5, 64, "JPEG")
    members = [("a.jpg", whole), ("a.cls", b"0"), ("b.jpg", whole[: len(whole) // 2]), ("b.cls", b"1")]
    write_shard(tmp_path / "wds_x" / "test" / "0.tar", [*members, ("c.jpg", b"<html>"), ("c.cls", b"1")])
    given = ref("x", class_names=("u", "v"), templates=("{c}",))
    dataset = pickle.loads(pickle.dumps(open_dataset(given, data_root=tmp_path)))
    assert dataset.image(0).size == (64, 64)
    with pytest.raises(DamagedData, match=r"sample 'b' of x .*0\.tar, member b\.jpg.*bytes"):
        dataset.image(1)
    with pytest.raises(DamagedData, match="sample 'c'"):
        dataset.image(2)


def test_images_come_as_rgb(tmp_path, write_shard):
    import io

    from PIL import Image

    members = []
    for i, mode in enumerate(["L", "RGBA", "P", "1"]):
        stream = io.BytesIO()
        Image.new(mode, (4, 6)).save(stream, "PNG")
        members += [(f"{i}.png", stream.getvalue()), (f"{i}.cls", b"0")]
    write_shard(tmp_path / "wds_x" / "test" / "0.tar", members)
    dataset = open_dataset(ref("x", class_names=("u",), templates=("{c}",)), data_root=tmp_path)
    assert {(dataset.image(i).mode, dataset.image(i).size) for i in range(4)} == {("RGB", (4, 6))}


def test_explicit_sources_are_relative_to_the_suite_file(tmp_path, write_wds):
    write_wds(tmp_path / "suite", "x", [[0, 1]], classnames="a\nb")
    given = ref("mine", source=FolderSource(kind="webdataset", path="wds_x"), templates=("{c}",))
    assert open_dataset(given, data_root=None, base_dir=tmp_path / "suite").info.name == "mine"


def test_registered_dataset_is_opened_by_name_but_cannot_take_a_catalogue_name(monkeypatch):
    digits = open_dataset(ref("digits"), data_root=None)
    monkeypatch.setattr(DATASETS, "_entries", {"mine": lambda split: digits, "mnist": lambda split: digits})
    assert open_dataset(ref("mine"), data_root=None) is digits
    monkeypatch.setattr(DATASETS, "_entries", {"broken": lambda split: [1, 2], "mnist": lambda split: digits})
    with pytest.raises(UserError, match="'broken' gave a list; expected an object with info"):
        open_dataset(ref("broken"), data_root=None)
    with pytest.raises(UserError, match="belongs to the catalogue"):
        open_dataset(ref("mnist"), data_root=None)


def test_embedded_digits_open_without_data_root_and_without_a_socket(monkeypatch):
    monkeypatch.setattr(socket, "socket", lambda *a, **k: pytest.fail("a socket was opened"))
    digits = open_dataset(ref("digits"), data_root=None, offline=True)
    scenes = open_dataset(ref("digits_scenes", source=EmbeddedSource(kind="embedded")), data_root=None)
    assert digits.info.verified and scenes.info.verified
    assert digits.labels.dtype == np.int64
    assert scenes.info.primary_metric == "image_retrieval_recall@1"


def test_metric_of_the_reference_wins():
    assert open_dataset(
        ref("digits", metric="mean_per_class_accuracy"), data_root=None
    ).info.primary_metric == ("mean_per_class_accuracy")


def test_a_disk_that_cannot_be_read_is_not_a_damaged_image(tmp_path, write_wds):
    folder = write_wds(tmp_path, "x", [[0]], classnames="a", zeroshot_classification_templates="{c}")
    dataset = open_dataset(DatasetRef(name="wds_x"), data_root=tmp_path)
    (folder / "test" / "0.tar").unlink()
    with pytest.raises(DataNotFound, match=r"Cannot read sample 's0000'.*No such file"):
        dataset.image(0)


def test_without_a_data_root_that_is_what_is_said(tmp_path):
    with pytest.raises(DataNotFound, match="There is no data root"):
        open_dataset(DatasetRef(name="wds_x"), data_root=None)
    with pytest.raises(DataNotFound, match="has no folder wds_x"):
        open_dataset(DatasetRef(name="wds_x"), data_root=tmp_path)


def test_what_is_left_of_a_set_that_the_web_loses_is_a_copy_of_its_own_and_no_subset(tmp_path, write_wds):
    names = "\n".join(f"bird {i}" for i in range(500))
    write_wds(tmp_path, "birdsnap", [[i % 500 for i in range(1222)]], classnames=names)
    dataset = open_dataset(ref("birdsnap"), data_root=tmp_path)
    info = dataset.info
    assert (info.own_copy, info.subset, info.verified, info.expected_samples) == (True, False, False, 2443)
    limited = limit_dataset(dataset, 500).info
    assert (limited.own_copy, limited.subset) == (False, True)
    write_wds(tmp_path, "birdsnap", [[i % 500 for i in range(1221)]], classnames=names)
    less_than_half = open_dataset(ref("birdsnap"), data_root=tmp_path).info
    assert (less_than_half.own_copy, less_than_half.subset) == (False, True)
