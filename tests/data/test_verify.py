import shutil
from dataclasses import replace

import pytest

from rwkvclip_eval.data.checksums import file_digest, write_sums
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.data.verified import known_notes
from rwkvclip_eval.data.verify import open_splits, shared_pictures, verify_dataset
from rwkvclip_eval.errors import DataNotFound


def test_damaged_and_duplicate_images_and_empty_classes_are_named(tmp_path, write_shard, png):
    contents = [png(1), png(2), png(1), png(3)[:40], b""]
    members = [m for i, c in enumerate(contents) for m in ((f"k{i}.png", c), (f"k{i}.cls", b"0"))]
    write_shard(tmp_path / "wds_x" / "test" / "0.tar", members)
    given = DatasetRef(name="x", class_names=("a", "b"), templates=("{c}",))
    seen = []
    report = verify_dataset(
        open_dataset(given, data_root=tmp_path), lambda done, total: seen.append((done, total))
    )
    assert [key for key, _ in report.damaged] == ["k3", "k4"]
    assert "0.tar, member k3.png" in report.damaged[0][1]
    assert report.duplicate_images == (("k0", "k2"),)
    assert report.empty_classes == ("b",)
    assert not report.ok and report.problems[0].startswith("2 damaged images: k3: ")
    assert any("counts are unchecked" in remark for remark in report.remarks)
    assert seen == [(i, 5) for i in range(1, 6)]


def test_each_state_has_its_name_and_only_unsound_or_strict_ends_with_1(tmp_path, write_wds, run):
    folder = write_wds(tmp_path, "vtab-cifar10", [[0]], classnames="\n".join("abcdefghij"))
    shutil.copytree(folder / "test", folder / "train")
    write_wds(tmp_path, "mine", [[0]], classnames="a", zeroshot_classification_templates="{c}")
    code, out, _ = run("data", "verify", "cifar10", "mine", "digits", "--data-root", tmp_path)
    assert code == 0
    for said in (
        "cifar10:test: a subset; 1 images",
        "cifar10:train: a subset; 1 images",
        "mine:test: uncounted;",
    ):
        assert said in out
    assert "1 of the catalogue's 10000 images. For all of them make shards" in out
    assert "Overlap: train and test share 1 pictures" in out and "digits:test: fine; 901 images" in out
    strictly = ["--data-root", tmp_path, "--strict"]
    assert run("data", "verify", "mine", "digits", *strictly)[0] == 0
    assert run("data", "verify", "cifar10:test", *strictly)[0] == 1
    (folder / "test" / "0.tar").write_bytes(b"cut")
    code, out, _ = run("data", "verify", "cifar10:test", "--data-root", tmp_path)
    assert code == 1 and "cifar10:test: NOT fine; it cannot be opened" in out


def test_an_overlap_alone_fails_a_strict_check(tmp_path, write_shard, png, run):
    def write(splits):
        for split in splits:
            members = [("a.png", png(1)), ("a.cls", b"0")]
            write_shard(tmp_path / "wds_twice" / split / "0.tar", members)

    write(["test"])
    (tmp_path / "wds_twice" / "classnames.txt").write_text("a")
    (tmp_path / "wds_twice" / "zeroshot_classification_templates.txt").write_text("{c}")
    verify = ["data", "verify", "twice", "--data-root", tmp_path]
    assert run(*verify, "--strict")[0] == 0
    write(["train"])
    assert run(*verify)[0] == 0
    assert run(*verify, "--strict")[0] == 1


def test_what_is_left_of_a_lossy_set_is_no_subset_and_damage_comes_first(tmp_path, write_wds):
    write_wds(tmp_path, "mine", [[0]], classnames="a", zeroshot_classification_templates="{c}")
    report = verify_dataset(open_dataset(DatasetRef(name="mine"), data_root=tmp_path))
    own = replace(report, info=replace(report.info, expected_samples=2, own_copy=True))
    assert own.state == "a copy of its own" and "others may be lost" in own.remarks[0]
    assert replace(own, damaged=(("a", "cut"),)).state == "NOT fine"


def test_embedded_digits_verify_without_a_problem():
    for name in ("digits", "digits_scenes"):
        report = verify_dataset(open_dataset(DatasetRef(name=name), data_root=None))
        assert report.ok, report.problems
        assert report.duplicate_images == ()
        assert report.num_captions == report.expected_captions


def test_pictures_of_train_that_are_in_test_too_are_counted_and_named(tmp_path, write_shard, png):
    for split, shades in (("train", (1, 2, 3)), ("test", (3, 4, 1, 1))):
        members = [
            m for i, s in enumerate(shades) for m in ((f"{split}{i}.png", png(s)), (f"{split}{i}.cls", b"0"))
        ]
        write_shard(tmp_path / "wds_x" / split / "0.tar", members)
    ref = DatasetRef(name="x", class_names=("a",), templates=("{c}",))
    splits = open_splits(ref, tmp_path)
    assert [s.info.split for s in splits] == ["test", "train"]
    (said,) = shared_pictures([verify_dataset(s) for s in splits])
    assert said == (
        "Overlap: test and train share 2 pictures (2 images of train): test0 = train2, test2 = train0"
    )
    assert len(open_splits(ref, tmp_path, ["train"])) == 1
    with pytest.raises(DataNotFound):
        open_splits(ref, tmp_path, ["val"])


def test_what_a_check_found_is_known_of_these_very_splits(tmp_path, write_shard, png, run):
    def write(split, *shades):
        parts = ((f"{split}{i}.png", png(s)) for i, s in enumerate(shades))
        write_shard(
            tmp_path / "wds_x" / split / "0.tar",
            [m for name, image in parts for m in ((name, image), (name.replace("png", "cls"), b"0"))],
        )

    def infos():
        ref = DatasetRef(name="x", class_names=("a",), templates=("{c}",))
        return [
            open_dataset(replace_split(ref, split), data_root=tmp_path).info for split in ("test", "train")
        ]

    def replace_split(ref, split):
        return ref.model_copy(update={"split": split})

    for name, text in (("classnames", "a"), ("zeroshot_classification_templates", "{c}")):
        (tmp_path / "wds_x").mkdir(exist_ok=True)
        (tmp_path / "wds_x" / f"{name}.txt").write_text(text)
    write("train", 1, 2, 3)
    write("test", 3, 4, 1, 1)
    test, train = infos()
    assert known_notes(test, [train]) == {}
    assert run("data", "verify", "x", "--data-root", tmp_path)[0] == 0
    repeated = {"duplicates": "1 pictures occur more than once (2 of 4 images)"}
    assert known_notes(test, [train]) == repeated | {"overlap": "3 of 4 images show pictures of train"}
    assert known_notes(test, []) == repeated
    # A check of one split forgets nothing of the others.
    assert run("data", "verify", "x", "--split", "test", "--data-root", tmp_path)[0] == 0
    assert "overlap" in known_notes(test, [train])
    (path,) = (p for p in (tmp_path / "cache").rglob("*.verified") if "shared" in p.read_text()
               and train.fingerprint in p.read_text())  # fmt: skip
    for content in ("", "[]", '{"pictures": "many"}', '{"pictures": -1}'):
        path.write_text(content)
        assert known_notes(test, [train]) == {}
    write("train", 1, 2)
    assert known_notes(test, [infos()[1]]) == {}


def test_a_shard_that_contradicts_its_checksum_is_a_problem(tmp_path, write_wds):
    folder = write_wds(tmp_path, "x", [[0], [0]], classnames="a", zeroshot_classification_templates="{c}")
    digests = {f"{i}.tar": file_digest(folder / "test" / f"{i}.tar") for i in range(2)}
    write_sums(folder / "test", digests)
    (dataset,) = open_splits(DatasetRef(name="x"), tmp_path)
    assert verify_dataset(dataset).ok
    write_sums(folder / "test", {**digests, "1.tar": "0" * 64})
    assert verify_dataset(dataset).problems == ("1 shards contradict SHA256SUMS: 1.tar has another SHA-256",)
