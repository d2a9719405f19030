"""What `data prepare` tells a user who made a mistake, or whose copy, disk or process failed."""

import os
import resource
import signal
import subprocess
import sys
import time

import array_miniatures as arrays
import miniatures
import pytest

WHOLE = {"apple_pie": ["apple_pie/1", "apple_pie/2"], "waffles": ["waffles/1"]}


@pytest.fixture
def prepare(run, tmp_path):
    """Prepares into a folder of its own; returns exit code, output, message and the shards that are there."""

    def call(name, source, *more):
        root = tmp_path / "root"
        code, out, err = run("data", "prepare", name, "--from", source, "--data-root", root, *more)
        assert len(err.splitlines()) <= 1 and "Internal" not in err
        assert not list(root.rglob("*.tmp"))
        return code, out, err, sorted(p.relative_to(root).as_posix() for p in root.rglob("*.tar"))

    return call


@pytest.fixture
def dtd(tmp_path):
    miniatures.dtd(tmp_path / "here", ["banded", "zigzagged"])
    return tmp_path / "here"


@pytest.fixture
def birds(tmp_path):
    for split in ("train", "test"):
        miniatures.class_folders(tmp_path / "birds" / split, ["owl", "wren"], ["1.png", "2.png"])
    return tmp_path / "birds"


@pytest.mark.parametrize("name", ["dtd", "birds"])
def test_a_source_that_is_no_folder_is_told_once(prepare, tmp_path, name):
    (tmp_path / "archive.zip").write_bytes(b"PK")
    for source in ("archive.zip", "nothing"):
        code, _, err, shards = prepare(name, tmp_path / source)
        assert (code, shards) == (2, [])
        assert "is no folder and no .csv file; give the folder of the unpacked published files." in err


def test_a_folder_above_or_below_the_right_one_is_corrected(prepare, dtd, tmp_path):
    for wrong, right in (
        (tmp_path, dtd),
        (dtd / "dtd" / "dtd" / "images", dtd / "dtd" / "dtd"),
        (dtd / "dtd" / "dtd" / "images" / "banded", dtd / "dtd" / "dtd"),
    ):
        code, _, err, _ = prepare("dtd", wrong)
        assert code == 2 and err.count("there is no labels in") == 1
        assert f"It is in {right}: give that folder." in err
        assert prepare("dtd", right)[0] == 0


def test_an_empty_folder_is_told_what_it_should_hold(prepare, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err, _ = prepare("dtd", tmp_path / "empty")
    assert code == 2 and err.count("Expected: dtd/labels/train1.txt") == 1
    code, _, err, _ = prepare("resisc45@draw", tmp_path / "empty")
    assert code == 2 and "By hand: Download NWPU-RESISC45.rar" in err


def test_names_and_options_with_a_slip(prepare, dtd):
    assert "Unknown variant of dtd 'partition9'. Known: default." in prepare("dtd@partition9", dtd)[2]
    told = prepare("dtd", dtd, "--split", "training")[2]
    assert "no official split 'training'; it has: train, val, test." in told
    code, out, _, shards = prepare("dtdd", dtd)
    assert "dtdd is not in the catalogue, so it was read as it lies; dtd would be known" in out
    assert (code, shards) == (0, ["wds_dtdd/test/0.tar"])


def test_a_name_with_a_slash_becomes_the_folder_it_is_looked_for_in(prepare, birds, run, tmp_path):
    code, *_, shards = prepare("mine/birds", birds)
    assert (code, shards) == (0, ["wds_mine-birds/test/0.tar", "wds_mine-birds/train/0.tar"])
    assert run("data", "verify", "mine/birds", "--data-root", tmp_path / "root")[0] == 0


def test_a_split_whose_list_is_missing_is_left_out_and_the_exit_code_says_so(prepare, tmp_path):
    miniatures.food101(tmp_path / "food", {"train": WHOLE, "test": WHOLE})
    listed = tmp_path / "food" / "food-101" / "meta" / "test.json"
    text = listed.read_text()
    listed.unlink()
    code, out, _, shards = prepare("food101", tmp_path / "food")
    assert (code, shards) == (3, ["wds_food101/train/0.tar"])
    assert "test was left out: food101: there is no " in out and "test can follow by the same command" in out
    listed.write_text(text)
    code, out, _, shards = prepare("food101", tmp_path / "food")
    assert (code, len(shards)) == (0, 2)
    assert "val was left out: food101 has no official split 'val'" in out


def test_truncated_files_are_named(prepare, tmp_path):
    rows = [(1, 2, 3, 4, 1, "00001.jpg")]
    miniatures.cars(tmp_path / "cars", ["a car"], rows, rows)
    cut(tmp_path / "cars" / "stanford_cars" / "devkit" / "cars_train_annos.mat")
    arrays.pcam(tmp_path / "pcam")
    cut(tmp_path / "pcam" / "camelyonpatch_level_2_split_train_x.h5")
    arrays.cifar10(tmp_path / "cifar")
    cut(tmp_path / "cifar" / "cifar-10-batches-py" / "data_batch_4")
    for name, file in (
        ("cars", "cars_train_annos.mat cannot be read"),
        ("pcam", "split_train_x.h5 is no HDF5 file"),
        ("cifar10", "data_batch_4 is no pickle"),
    ):
        code, _, err, shards = prepare(name, tmp_path / name.rstrip("10"))
        assert (code, shards) == (2, [])
        assert file in err and "Fetch it again." in err


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_shards_are_a_source_too_and_one_cut_off_is_named(prepare, dtd, tmp_path):
    assert prepare("dtd", dtd)[0] == 0
    (tmp_path / "root").rename(tmp_path / "copy")
    shards = tmp_path / "copy" / "wds_dtd"
    assert prepare("dtd", shards)[0] == 0
    cut(shards / "test" / "0.tar")
    code, _, err, _ = prepare("again", shards)
    assert code == 2 and "test/0.tar is cut off or damaged" in err and "Fetch this shard again." in err


def test_files_that_are_no_images_do_no_harm_among_images(prepare, birds):
    (birds / "test" / "owl" / "notes.txt").write_text("x")
    (birds / "test" / "owl" / "Thumbs.db").write_bytes(b"x")
    (birds / "test" / "owl" / "folder.png").mkdir()
    code, out, _, _ = prepare("birds", birds)
    assert code == 0 and "wds_birds/test: 4 images" in out


@pytest.mark.parametrize("content", [b"", b"junk"])
def test_an_unreadable_image_is_named_and_mending_it_continues(prepare, birds, content):
    bad = birds / "test" / "owl" / "3.png"
    bad.write_bytes(content)
    code, _, err, shards = prepare("birds", birds)
    assert (code, shards) == (2, ["wds_birds/train/0.tar"])
    assert f"Cannot decode sample 'owl/3.png' ({bad})" in err and "Fetch it again." in err
    bad.unlink()
    code, *_, shards = prepare("birds", birds)
    assert (code, shards) == (0, ["wds_birds/test/0.tar", "wds_birds/train/0.tar"])


def test_a_link_into_the_void_is_named(prepare, birds):
    (birds / "test" / "owl" / "3.png").symlink_to("/nowhere/at/all.png")
    code, out, _, shards = prepare("birds", birds)
    assert (code, shards) == (3, ["wds_birds/train/0.tar"])
    assert "Cannot read" in out and "owl/3.png: No such file or directory. Check the file" in out


def test_an_id_given_twice_is_named(prepare, birds):
    (birds / "m.csv").write_text("image,label\ntest/owl/1.png,owl\ntest/owl/1.png,owl\n")
    code, _, err, _ = prepare("m", birds / "m.csv")
    assert code == 2 and "line 3: the key 'test/owl/1.png' is that of line 2 too." in err
    (birds / "m.csv").write_text("")
    assert (
        "expected a header with image and one of label and caption, found nothing"
        in prepare("m", birds / "m.csv")[2]
    )


def started(tmp_path, source, root, *more, **options):
    arguments = ["data", "prepare", "mine", "--from", source, "--data-root", root, *more]
    return subprocess.Popen(
        [sys.executable, "-m", "rwkvclip_eval", *map(str, arguments)],
        env=os.environ
        | {"RWKVCLIP_EVAL_CACHE": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_disk_that_fills_leaves_no_part_of_a_shard_and_the_same_command_continues(tmp_path, birds):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    root = tmp_path / "root"
    process = started(tmp_path, birds, root, preexec_fn=small_files)
    _, err = process.communicate()
    assert process.returncode == 2
    assert "0.tar: File too large." in err and "run the same command again" in err
    assert not [p for p in root.rglob("*") if p.suffix in (".tar", ".tmp")]
    process = started(tmp_path, birds, root)
    process.communicate()
    assert process.returncode == 0
    assert len(list(root.rglob("*.tar"))) == 2


def test_a_killed_command_given_again_leaves_the_files_of_an_undisturbed_one(tmp_path):
    source = tmp_path / "many"
    miniatures.class_folders(source / "test", ["owl", "wren"], [f"{i}.png" for i in range(300)])
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = started(tmp_path, source, killed, "--samples-per-shard", 1)
    while len(list(killed.rglob("*.tar"))) < 20 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 20 <= len(list(killed.rglob("*.tar"))) < 600
    for root in (killed, whole):
        process = started(tmp_path, source, root, "--samples-per-shard", 1)
        process.communicate()
        assert process.returncode == 0
    same = [p.relative_to(whole) for p in whole.rglob("*") if p.suffix in (".tar", ".txt") or "SHA" in p.name]
    assert len(same) == 600 + 4
    assert all((killed / p).read_bytes() == (whole / p).read_bytes() for p in same)
    assert not list(killed.rglob("*.tmp"))
