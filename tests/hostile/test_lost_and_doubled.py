"""Files by which a sample, a name or a number would be lost or counted twice without a word."""

from __future__ import annotations

import json
import struct
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.io
from data_files import png, shard, wds

from rwkvclip_eval.data.folder import open_folder
from rwkvclip_eval.data.formats.mat_files import load_mat, whole_numbers
from rwkvclip_eval.data.manifest import open_manifest
from rwkvclip_eval.data.prompts import resolve_prompts
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.data.webdataset import open_webdataset
from rwkvclip_eval.errors import CheckpointError, ConfigError, DamagedData, OutputError, UserError
from rwkvclip_eval.records.metrics import Metric
from rwkvclip_eval.records.reading import parsed, read_records
from rwkvclip_eval.records.schema import Record
from rwkvclip_models import load_config
from rwkvclip_models.checkpoint import read_checkpoint, save_state_dict
from rwkvclip_models.files import parse_json

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(60)


def test_a_class_named_twice_does_not_count_its_folder_twice(birds: Path) -> None:
    with pytest.raises(UserError, match="owl is there more than once"):
        open_folder(birds, "test", ["owl", "owl", "wren"])
    assert len(open_folder(birds, "test", ["wren", "owl"]).keys) == 2


def test_other_words_for_the_folders_may_repeat(birds: Path) -> None:
    # ImageNet's published names have two cranes.
    assert len(open_folder(birds, "test", ["crane", "crane"]).keys) == 2


@pytest.mark.parametrize("quoted", ['"owl\nwren/b.png,wren\n', '"ow"l\n'])
def test_a_quote_that_is_not_closed_swallows_no_row(birds: Path, quoted: str) -> None:
    path = birds / "labels.csv"
    path.write_text(f"image,label\nowl/a.png,{quoted}")
    with pytest.raises(DamagedData, match="a quote that opens a field must close it"):
        open_manifest(path, None, "test")


def test_a_doubled_quote_and_one_inside_a_field_are_read(birds: Path) -> None:
    path = birds / "labels.csv"
    path.write_text('image,caption\nowl/a.png,"an ""owl"", at night"\nwren/b.png,a 5" wren\n')
    captions = open_manifest(path, None, "test").captions
    assert captions == [['an "owl", at night'], ['a 5" wren']]


@pytest.mark.parametrize("separator", ["\u2028", "\x0b", "\x85", "\x1c"])
def test_a_separator_of_unicode_splits_no_class_name_and_no_caption(tmp_path: Path, separator: str) -> None:
    folder = wds(tmp_path, 0, 1)
    (folder / "classnames.txt").write_text(f"snowy{separator}owl\r\nwren\n", encoding="utf-8")
    assert open_webdataset(folder, "test", tmp_path).class_names == (f"snowy{separator}owl", "wren")
    captions = f"an owl{separator}at night\ra wren".encode()
    (tmp_path / "b").mkdir()
    folder = wds(tmp_path / "b", captions, kind="retrieval")
    assert open_webdataset(folder, "test", tmp_path).captions == [[f"an owl{separator}at night", "a wren"]]


def test_a_tar_appended_to_another_is_not_ignored(tmp_path: Path) -> None:
    folder = wds(tmp_path, 0, 1)
    path = folder / "test" / "0.tar"
    whole = path.read_bytes()
    shard(tmp_path / "more.tar", [("x.png", png()), ("x.cls", b"1")])
    path.write_bytes(whole + (tmp_path / "more.tar").read_bytes())
    with pytest.raises(DamagedData, match="something stands behind its end mark"):
        open_webdataset(folder, "test", tmp_path)
    # Padding may be of any length.
    path.write_bytes(whole + bytes(1 << 21))
    assert len(open_webdataset(folder, "test", tmp_path).keys) == 2


def test_shards_beyond_their_number_are_not_ignored(tmp_path: Path) -> None:
    folder = wds(tmp_path, 0, 1)
    (folder / "test" / "nshards.txt").write_text("1")
    shard(folder / "test" / "1.tar", [("x.png", png()), ("x.cls", b"1")])
    with pytest.raises(
        DamagedData, match=r"nshards\.txt says 1 shards, 2 are there, the last of them 1\.tar"
    ):
        open_webdataset(folder, "test", tmp_path)


def test_an_image_twice_in_captions_json_loses_no_caption(birds: Path) -> None:
    (birds / "captions.json").write_text('{"owl/a.png": "an owl", "owl/a.png": "a bird"}')
    with pytest.raises(DamagedData, match=r"holds the key 'owl/a\.png' twice"):
        open_folder(birds, "test")


@pytest.mark.parametrize("names", [["owl", ""], ["owl", " \t"]])
def test_a_class_without_a_name_is_not_scored(names: list[str]) -> None:
    ref = DatasetRef(name="birds", class_names=tuple(names), templates=("{c}",))
    with pytest.raises(UserError, match=r"the class name of label 1 (is empty|shows nothing but U)"):
        resolve_prompts(ref, None, None)


def test_digits_of_another_script_are_named(birds: Path) -> None:
    path = birds / "labels.csv"
    path.write_text("image,label\nowl/a.png,0\nwren/b.png,١\n", encoding="utf-8")
    with pytest.raises(DamagedData, match="line 3: label '١' is written in other digits"):
        open_manifest(path, None, "test")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, 1.5])
def test_a_number_of_a_mat_file_that_is_not_whole_is_said_without_a_warning(
    tmp_path: Path, value: float
) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"labels": np.array([1.0, value])})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DamagedData, match="expected whole numbers"):
            whole_numbers("flowers", tmp_path / "a.mat", load_mat("flowers", tmp_path / "a.mat", "labels"))


# JSON that says something twice.


def test_a_key_twice_in_json_is_refused_wherever_it_stands(
    tmp_path: Path, nano_config: dict[str, int]
) -> None:
    with pytest.raises(UserError, match="The file a holds the key 'y' twice"):
        parse_json('{"x": [{"y": 1, "z": 2, "y": 3}]}', "file a")
    text = json.dumps(nano_config)[:-1] + ', "n_layer": 2}'
    (tmp_path / "nano.json").write_text(text)
    with pytest.raises(ConfigError, match="holds the key 'n_layer' twice"):
        load_config(tmp_path / "nano.json")
    line = b'{"unit": "a", "status": "ok", "model": "a", "model_info": {}, "task": "t", "task_version": 1,'
    line += b' "dataset": "x", "protocol": "standard"'
    assert parsed(Record, line + b"}", "line").dataset == "x"
    with pytest.raises(OutputError, match=r"line\. The file holds the key 'dataset' twice"):
        parsed(Record, line + b', "dataset": "y"}', "line")


def test_a_tensor_twice_in_the_header_of_safetensors_is_refused(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "a.safetensors"
    save_state_dict({"w": torch.zeros(2), "v": torch.ones(2)}, path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length].decode().rstrip().replace('"v"', '"w"')
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + content[8 + length :])
    with pytest.raises(CheckpointError, match="holds the key 'w' twice"):
        read_checkpoint(path)


# Numbers that cannot be right.

WRONG = [
    ({"value": 37.5}, "top1_accuracy is a fraction from 0 to 1, got 37.5"),
    ({"value": -0.1}, "top1_accuracy is a fraction from 0 to 1, got -0.1"),
    ({"ci_low": 0.9, "ci_high": 0.1}, "the interval of top1_accuracy (begins|does not fit)"),
    ({"n": 0}, "n is 0 beside a value"),
]

WRONG_NOW = [
    ({"ci_high": 7.0}, "the interval of top1_accuracy does not fit 0.5: 0.4 to 7"),
    ({"ci_low": -3.0}, "the interval of top1_accuracy does not fit"),
    ({"ci_low": 0.6, "ci_high": 0.9}, "the interval of top1_accuracy does not fit"),
    ({"ci_low": None}, "the interval of top1_accuracy has one end"),
    ({"metric": "top5_accuracy"}, "metric is 'top5_accuracy', metric_info of 'top1_accuracy'"),
]
"""In records of schema version 2; intervals over seeds of before could leave [0, 1]."""


@pytest.mark.parametrize(
    ("version", "changes", "said"),
    [*((v, *case) for v in (1, 2) for case in WRONG), *((2, *case) for case in WRONG_NOW)],
)
def test_a_number_that_its_metric_cannot_have_is_named_with_its_line(
    tmp_path: Path, changes: dict[str, object], said: str, version: int
) -> None:
    fields = {
        "unit": "a", "status": "ok", "model": "a", "model_info": {}, "task": "zero_shot_classification",
        "task_version": 1, "dataset": "x", "protocol": "standard", "metric": "top1_accuracy",
        "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "schema_version": version,
    }  # fmt: skip
    if version == 2:
        fields["metric_info"] = {"name": "top1_accuracy", "title": "top-1"}
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(fields) + "\n")
    assert len(read_records(path)) == 1
    path.write_text(json.dumps(fields | changes) + "\n")
    with pytest.raises(OutputError, match=f"1: not a result record: {said}"):
        read_records(path)


def test_numbers_that_are_no_fractions_may_be_any(tmp_path: Path) -> None:
    assert not Metric(name="x", title="x", unit="number").misfit(37.5, 30.0, 40.0)
    assert not Metric(name="x", title="x", unit="rank", better="lower").misfit(37.5, None, 40.0)
    assert Metric(name="x", title="x", unit="number").misfit(37.5, 40.0, 30.0)


@pytest.mark.parametrize("name", ["./owl/a.png", "owl//a.png", "wren/../owl/a.png", ".//owl/./a.png"])
def test_an_image_spelled_in_two_ways_does_not_count_twice(birds: Path, name: str) -> None:
    said = "are one file; spell it alike|is no path below"
    (birds / "captions.json").write_text(json.dumps({"owl/a.png": "an owl", name: "a bird"}))
    with pytest.raises(DamagedData, match=said):
        open_folder(birds, "test")
    (birds / "captions.json").unlink()
    for column in ("label", "caption"):
        (birds / "m.csv").write_text(f"image,{column}\nowl/a.png,owl\n{name},wren\n")
        with pytest.raises(DamagedData, match=said):
            open_manifest(birds / "m.csv", None, "test")


@pytest.mark.parametrize("column", ["label", "caption"])
def test_two_stray_quotes_swallow_no_row(birds: Path, column: str) -> None:
    (birds / "m.csv").write_text(f'image,{column}\nowl/a.png,"owl\nwren/b.png,wren"\n')
    with pytest.raises(DamagedData, match="a field has a line break, as where a quote is misplaced"):
        open_manifest(birds / "m.csv", None, "test")
    (birds / "captions.csv").write_text('image,caption\nowl/a.png,"owl\nwren/b.png,wren"\n')
    with pytest.raises(DamagedData, match="has a line break, as where a quote is misplaced"):
        open_folder(birds, "test")


@pytest.mark.parametrize("split", ["ｔｅｓｔ", "TEST", "tset"])
def test_a_folder_without_folders_of_splits_has_no_split_of_another_name(birds: Path, split: str) -> None:
    with pytest.raises(UserError, match="has no folder"):
        open_folder(birds, split)
