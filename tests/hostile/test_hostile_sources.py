"""Folders, manifests and commands over data that somebody else made: nothing outside, no flood."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import TIB, huge_png, png, wds

from rwkvclip_eval.data.content import content_ids
from rwkvclip_eval.data.folder import open_folder
from rwkvclip_eval.data.manifest import open_manifest
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.prepare import prepared_folder, write_split
from rwkvclip_eval.data.samples import FileReader, Split, remembered_fingerprint
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.data.verify import open_splits, verify_dataset
from rwkvclip_eval.errors import DamagedData, UserError

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("little_memory")]

DEEP = "[" * 100_000


# Manifests.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,label\n/etc/passwd,x\n", "line 2: '/etc/passwd' is no path below"),
        ("image,label\n../secret.png,x\n", "line 2: '../secret.png' is no path below"),
        ("image,label\nowl/../../secret.png,x\n", "is no path below"),
        ("image,label\nowl\\..\\..\\secret.png,x\n", "is no path below"),
        ("image,label\nowl/a\0.png,x\n", "line 2: the image holds U.0000"),
        ("image,label,label\nowl/a.png,x,y\n", "the column 'label' occurs twice"),
        ("image,label\nowl/a.png,2000000000\n", "label 2000000000 for 1000000 classes at most"),
        ("image,label\nowl/a.png," + "9" * 30 + "\n", "label 9+ for 1000000 classes"),
        ("image,label\nowl/a.png," + "9" * 5000 + "\n", "label 9+ for 1000000 classes"),
        ("image,label\nowl/a.png,5;900000000\n", "for 1000000 classes"),
        ("image,label\nowl/a.png," + "x" * 200_000 + "\n", "line 2: field larger than field limit"),
        ('image,label\nowl/a.png,"' + "x\n" * 100_000, "field larger than field limit"),
        ("image,label\nowl/a.png,x,y,z\n", "more fields"),
        (b"image,label\nowl/a.png,\xff\n", "is not UTF-8"),
        (b"image,label\nowl/a.png,\xed\xa0\x80\n", "is not UTF-8"),
        (b"\xff\xfei\0m\0", "is not UTF-8"),
        ("", "expected a header"),
        ("\0\0\0", "expected one of|Unknown column"),
        ("image,caption\nowl/a.png,x\n/etc/hosts,y\n", "is no path below"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_one_message(birds: Path, text: str | bytes, said: str) -> None:
    path = birds / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=said) as caught:
        open_manifest(path, None, "test", cache_dir=birds)
    assert len(str(caught.value)) < 2000


def test_marks_of_many_classes_are_bounded_before_they_are_made(birds: Path) -> None:
    rows = "".join(f"owl/a.png,0;999999,k{i}\n" for i in range(200))
    (birds / "labels.csv").write_text(f"image,label,key\n{rows}")
    with pytest.raises(DamagedData, match="more marks than"):
        open_manifest(birds / "labels.csv", None, "test", cache_dir=birds)


@pytest.mark.parametrize("what", ["pipe", "device"])
def test_pipes_and_devices_are_no_images(birds: Path, what: str) -> None:
    odd = birds / "owl" / "odd.png"
    os.mkfifo(odd) if what == "pipe" else odd.symlink_to("/dev/zero")
    with pytest.raises(DamagedData, match=f"expected a file, found a (named )?{what}"):
        open_folder(birds, "test", cache_dir=birds)
    (birds / "labels.csv").write_text("image,label\nowl/odd.png,x\n")
    with pytest.raises(DamagedData, match="there is no image"):
        open_manifest(birds / "labels.csv", None, "test", cache_dir=birds)
    with pytest.raises(DamagedData, match=f"found a (named )?{what}"):
        FileReader((odd,)).read(0)


def test_an_image_file_of_a_tebibyte_is_not_read(birds: Path) -> None:
    with (birds / "owl" / "a.png").open("wb") as file:
        file.truncate(TIB)
    with pytest.raises(DamagedData, match="at most"):
        open_folder(birds, "test", cache_dir=birds)


# Folders and captions.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEEP, "recursion limit"),
        ('{"a.png": ' * 100_000, "recursion limit"),
        ('{"/etc/passwd": "x"}', "is no path below"),
        ('{"../secret.png": "x"}', "is no path below"),
        ('{"owl/a.png": 7}', "expected a mapping"),
        ('{"owl/a.png": [["x"]]}', "expected a mapping"),
        ('{"owl/a.png": "\\ud800"}', "cannot be read"),
        ('{"\\u0000": "x"}', "is no path below"),
        ('{"owl/a.png": null}', "expected a mapping"),
        ("7", "expected a mapping"),
        ("", "cannot be read"),
        ("\xff", "cannot be read|names 1 images"),
        ('{"' + "x" * 100_000 + '": 7}', "expected a mapping"),
    ],
)
def test_captions_that_make_no_sense_are_one_message(birds: Path, text: str, said: str) -> None:
    (birds / "captions.json").write_text(text)
    with pytest.raises(DamagedData, match=said) as caught:
        open_folder(birds, "test", cache_dir=birds)
    assert len(str(caught.value)) < 2000


def test_a_file_name_that_is_no_text_is_said(birds: Path) -> None:
    Path(os.fsdecode(bytes(birds) + b"/owl/odd\xe9.png")).write_bytes(png())
    with pytest.raises(DamagedData, match="is no key that can be written as text"):
        open_folder(birds, "test", cache_dir=birds)


def test_links_are_followed_and_counted(birds: Path, tmp_path: Path) -> None:
    (birds / "owl" / "linked.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.png").write_bytes(png(77))
    (birds / "swan").symlink_to(tmp_path / "elsewhere")
    ref = DatasetRef.model_validate({"name": "b", "folder": str(birds), "templates": ["a {c}"]})
    report = verify_dataset(open_dataset(ref, data_root=None, cache_dir=tmp_path))
    assert (report.num_samples, report.num_links) == (4, 2)
    assert "2 files are reached by symbolic links" in report.remarks
    folder = wds(tmp_path, 0, 1)
    (folder / "test" / "0.tar").rename(tmp_path / "0.tar")
    (folder / "test" / "0.tar").symlink_to(tmp_path / "0.tar")
    (split,) = open_splits(DatasetRef(name="x"), tmp_path)
    assert verify_dataset(split).num_links == 1


def test_a_fingerprint_that_was_changed_is_computed_again(tmp_path: Path) -> None:
    def remembered() -> str:
        return remembered_fingerprint("signature", tmp_path, lambda: "f" * 64)

    remembered()
    path = tmp_path / "data" / "signature.fingerprint"
    genuine = path.read_text()
    for changed in (genuine.replace("f", "e", 1), genuine[:-2], "f" * 63, "\0", "f" * 100_000, "a b c"):
        path.write_text(changed)
        assert remembered() == "f" * 64
        assert path.read_text() == genuine
    path.write_text("e" * 64)  # As written by versions without a check.
    assert remembered() == "e" * 64
    path.unlink()
    os.mkfifo(path)
    assert remembered() == "f" * 64


def test_digests_of_images_that_are_a_pipe_are_computed_again(birds: Path, tmp_path: Path) -> None:
    ref = DatasetRef.model_validate({"name": "b", "folder": str(birds), "templates": ["a {c}"]})
    dataset = open_dataset(ref, data_root=None, cache_dir=tmp_path)
    genuine = content_ids(dataset, tmp_path)
    (path,) = (tmp_path / "data").glob("*.content")
    path.unlink()
    os.mkfifo(path)
    assert content_ids(dataset, tmp_path) == genuine


def test_verify_recomputes_what_was_remembered_of_files(birds: Path, tmp_path: Path) -> None:
    from rwkvclip_eval.data.samples import read_anew

    genuine = open_folder(birds, "test", cache_dir=tmp_path).fingerprint
    (path,) = (tmp_path / "data").glob("*.fingerprint")
    path.write_text("e" * 64)
    assert open_folder(birds, "test", cache_dir=tmp_path).fingerprint == "e" * 64
    with read_anew() as wrong:
        assert open_folder(birds, "test", cache_dir=tmp_path).fingerprint == genuine
    assert len(wrong) == 1
    assert "e" * 64 in wrong[0]
    assert open_folder(birds, "test", cache_dir=tmp_path).fingerprint == genuine


@pytest.mark.parametrize(
    "given",
    [
        {"keys": ["a", 7]},
        {"keys": ["a", "\udce9"]},
        {"keys": []},
        {"labels": np.array([0, -1])},
        {"labels": np.array([0, 2_000_000_000])},
        {"labels": np.array([0.0, 1.0])},
        {"labels": np.array([0])},
        {"labels": np.array([[0, 2], [0, 1]])},
        {"labels": np.array(["a", "b"])},
        {"captions": [["a"], []]},
        {"captions": [["a"], [7]]},
        {"captions": [["a"], ["\ud800"]]},
        {"class_names": ("a", 7)},
    ],
)
def test_a_split_that_no_task_could_use_is_refused_whichever_source_found_it(given: dict[str, Any]) -> None:
    plain = {"kind": "classification", "keys": ["a", "b"], "images": FileReader(()), "source": "s"}
    Split(**{**plain, "fingerprint": ""})
    with pytest.raises(DamagedData, match=r"^s[ :]"):
        Split(**{**plain, "fingerprint": "", **given})


# The command.


@pytest.mark.parametrize(
    "arguments",
    [
        ("x", "--split", "../../../x"),
        ("x", "--split", "/elsewhere/x"),
        ("x", "--split", ""),
        ("x@../../x",),
        ("",),
        ("..",),
        ("a\nb",),
        ("x:../../x",),
    ],
)
def test_prepare_writes_nothing_outside_its_folder(
    birds: Path, tmp_path: Path, run: Any, arguments: tuple[str, ...]
) -> None:
    root = tmp_path / "a" / "b" / "data"
    before = {p for p in tmp_path.rglob("*") if "cache" not in p.parts}
    code, said, problem = run("data", "prepare", *arguments, "--from", birds, "--data-root", root)
    made = {p for p in tmp_path.rglob("*") if "cache" not in p.parts} - before
    outside = [
        p for p in made if p not in root.parents and p != root and not p.is_relative_to(root / "wds_..")
    ]
    assert code == 2, said
    assert problem.count("\n") <= 3
    assert not outside


def test_shards_are_written_to_no_folder_that_a_name_leads_to(birds: Path, tmp_path: Path) -> None:
    found = open_folder(birds, "test", cache_dir=tmp_path)
    for split in ("../out", "/elsewhere/out", "..", ""):
        with pytest.raises(UserError, match="is no split"):
            write_split(found, tmp_path / "wds_x", split, cache_dir=tmp_path)
    for name, variant in (("..", "default"), ("x", "../../y"), ("", "default"), ("x", "")):
        with pytest.raises(UserError, match="is no"):
            prepared_folder(name, variant, ())
    assert not (tmp_path / "wds_x").exists()


def test_a_run_records_hostile_data_and_goes_on(tmp_path: Path, run: Any) -> None:
    wds(tmp_path, 0, 1)
    (tmp_path / "wds_x" / "test" / "nshards.txt").write_text("1000000000")
    (tmp_path / "bad.csv").write_text("image,label\n/etc/passwd,x\n")
    dataset = {"name": "bad", "source": {"kind": "manifest", "path": str(tmp_path / "bad.csv")}}
    datasets = [{**dataset, "templates": ["{c}"]}, "wds_x", "digits"]
    tasks = [{"task": "zero_shot_classification", "datasets": datasets}]
    (tmp_path / "suite.yaml").write_text(json.dumps({"name": "s", "tasks": tasks}))
    code, said, problem = run(
        *("run", tmp_path / "suite.yaml", "-m", "python:toy_factory:make", "--limit", 2, "--no-report"),
        *("--data-root", tmp_path, "--out", tmp_path / "out"),
    )
    assert code == 3, problem
    assert "is no path below" in said
    assert "nshards.txt says 1000000000 shards" in said


def test_a_sound_header_of_a_huge_picture_is_no_sound_picture() -> None:
    from PIL import Image

    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(huge_png()))


def test_a_table_of_200_000_columns_is_refused_soon(birds: Path) -> None:
    path = birds / "labels.csv"
    path.write_text(",".join(f"c{i}" for i in range(200_000)) + ",c7\n")
    with pytest.raises(UserError, match=r"expected columns image|Unknown column|'c7' occurs twice"):
        open_manifest(path, None, "test")
