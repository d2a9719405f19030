"""What protocols state of themselves, in records of real runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from toy import ColourEncoder, suite, write_shards

import rwkvclip_eval as rc
from rwkvclip_eval.data.catalogue import catalogue
from rwkvclip_eval.data.prompts import shipped
from rwkvclip_eval.protocols import PROTOCOLS

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_eval.records.schema import Record

PETS = shipped("labels", "pets") or ()


def records(root: Path, name: str, protocol: str = "official-rwkv-clip", **more: Any) -> list[Record]:
    dataset = {"name": name, "templates": ["a {c}"], **more}
    found = rc.evaluate(ColourEncoder(), suite(dataset, protocol=protocol), data_root=root).records
    assert {r.status for r in found} == {"ok"}
    return list(found)


def differences(found: list[Record]) -> str:
    (said,) = {r.notes.get("differences", "") for r in found}
    return said


def test_differences_name_datasets_variants_and_class_names_that_there_are() -> None:
    for name in PROTOCOLS:
        for dataset, stated in PROTOCOLS.get(name).differences.items():
            assert all(v in catalogue()[dataset].variants for d in stated for v in d.but_not)
    assert "Persian" in PETS


@pytest.mark.parametrize(
    ("name", "variant", "folder", "num_classes", "words"),
    [
        ("sun397", None, "sun397@partition1", 397, "salted hash"),
        ("imagenet", None, "imagenet1k", 1000, "DALI"),
        ("caltech101", "clip-benchmark", "vtab-caltech101", 102, "seed 3072"),
        ("caltech101", None, "caltech101@seed3072", 101, ""),
        ("food101", None, "food101", 101, ""),
    ],
)
def test_each_known_difference_from_the_released_scripts_is_in_every_record(
    tmp_path: Path, name: str, variant: str | None, folder: str, num_classes: int, words: str
) -> None:
    write_shards(tmp_path, folder, "test", [0, 1, 2, 1], 90)
    names = "\n".join(f"class {i}" for i in range(num_classes))
    (tmp_path / f"wds_{folder}" / "classnames.txt").write_text(names)
    said = differences(records(tmp_path, name, variant=variant))
    assert words in said
    assert bool(said) == bool(words)


def test_misspelt_class_names_are_a_difference_only_without_the_released_file(tmp_path: Path) -> None:
    write_shards(tmp_path, "vtab-pets", "test", [0, 1, 2, 1], 90)
    assert "Yorkshire Terrie”" in differences(records(tmp_path, "pets"))
    assert differences(records(tmp_path, "pets", protocol="standard")) == ""
    released = [{"Persian": "Persian'", "Yorkshire Terrier": "Yorkshire Terrie"}.get(n, n) for n in PETS]
    (tmp_path / "label.json").write_text(json.dumps({"pets": released}))
    assert differences(records(tmp_path, "pets", prompts={"labels": str(tmp_path / "label.json")})) == ""


def test_underscores_in_class_names_are_a_difference_only_where_they_are(tmp_path: Path) -> None:
    write_shards(tmp_path, "cifar100", "test", [0, 1, 2, 1], 90)
    for fish, differs in (("aquarium_fish", True), ("aquarium fish", False)):
        names = ["apple", fish, *(f"class {i}" for i in range(98))]
        (tmp_path / "wds_cifar100" / "classnames.txt").write_text("\n".join(names))
        assert ("underscores" in differences(records(tmp_path, "cifar100"))) == differs


@pytest.mark.parametrize("limit", [None, 2])
def test_padded_rows_are_left_out_of_a_part_of_imagenet(tmp_path: Path, limit: int | None) -> None:
    write_shards(tmp_path, "imagenet1k", "test", [0, 1, 2, 1], 90)
    dataset = {"name": "imagenet", "templates": ["a {c}"]}
    loaded = suite(dataset, protocol="official-rwkv-clip")
    found = rc.evaluate(ColourEncoder(), loaded, data_root=tmp_path, limit=limit).records
    assert {r.status for r in found} == {"ok"}
    assert "top1_accuracy_padded" not in {r.metric for r in found}
    assert found[0].notes["padding"] == f"left out: it belongs to all 50000 images, {limit or 4} were scored"
