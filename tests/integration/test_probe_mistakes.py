"""What a run tells a user whose probe suite or data cannot be learned from."""

import io
import tarfile

import numpy as np
import pytest
import yaml
from PIL import Image
from toy import COLOURS

from rwkvclip_eval.records.reading import read_records

PROBES = ("linear_probe", "few_shot_linear_probe", "knn_probe")


@pytest.fixture
def images(tmp_path):
    """Writes folders of noisy one-colour images: split → class → count."""

    def write(**splits):
        rng = np.random.default_rng(0)
        for split, classes in splits.items():
            for name, count in classes.items():
                folder = tmp_path / "images" / split / name
                folder.mkdir(parents=True)
                for i in range(count):
                    pixels = np.array(COLOURS[name]) + rng.normal(0, 60, (8, 8, 3))
                    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        return tmp_path / "images"

    return write


@pytest.fixture
def probe(run, tmp_path):
    """Runs tasks (name → options) on the images; returns exit code, what was said, and the run directory."""

    def call(*more, model="make", metric=None, **tasks):
        dataset = {"name": "images", "folder": "images"} | ({"metric": metric} if metric else {})
        listed = [
            {"task": name, "datasets": [dataset]} | ({"options": options} if options else {})
            for name, options in tasks.items()
        ]
        (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"name": "mine", "tasks": listed}))
        out = tmp_path / "run"
        model = f"python:toy_factory:{model}"
        code, said, err = run("run", tmp_path / "suite.yaml", "-m", model, "-o", out, "--no-report", *more)
        assert "Internal" not in err
        return code, said + err, out

    return call


def all_probes(**options):
    return {name: options if name.startswith("few") else None for name in PROBES}


def every(count):
    return dict.fromkeys(COLOURS, count)


def test_a_class_missing_from_train_is_named_before_anything_is_encoded(images, probe):
    images(train={"red": 8, "green": 8}, test=every(4))
    code, said, out = probe(**all_probes(shots=[1]))
    assert code == 2 and said.count("images/train: 1 classes without a training image: blue.") == 1
    assert not (out / "results.jsonl").exists()


def test_a_class_missing_from_test_keeps_the_labels_of_the_others(images, probe):
    images(train=every(12), test={"red": 4, "blue": 4})
    code, said, _ = probe(**all_probes(shots=[2]))
    assert code == 0 and said.count("top-1 100.0%") + said.count("2-shot 100.0%") == 3


def write_manifest(base, name, labels):
    lines = [
        f"images/{split}/{colour}/{i}.png,{label},{split}"
        for split in ("train", "test")
        for colour, label in zip(COLOURS, labels, strict=True)
        for i in range(4)
    ]
    (base / f"{name}.csv").write_text("\n".join(["image,label,split", *lines]))
    return {
        "name": name,
        "source": {"kind": "manifest", "path": f"{name}.csv", "root": "."},
        "class_names": list(COLOURS),
    }


def write_shards(base, name, labels):
    for split in ("train", "test"):
        (base / f"wds_{name}" / split).mkdir(parents=True)
        with tarfile.open(base / f"wds_{name}" / split / "0.tar", "w") as tar:
            for colour, label in zip(COLOURS, labels, strict=True):
                for i in range(4):
                    tar.add(base / "images" / split / colour / f"{i}.png", f"{colour}{i}.png")
                    member = tarfile.TarInfo(f"{colour}{i}.cls")
                    member.size = 1
                    tar.addfile(member, io.BytesIO(str(label).encode()))
    (base / f"wds_{name}" / "classnames.txt").write_text("\n".join(COLOURS))
    return f"wds_{name}"


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (write_manifest, "wrong.csv, line 10: label 3 for 3 class names"),
        (write_shards, "wrong: 3 class names, but the labels go up to 3"),
    ],
)
def test_labels_outside_the_range_fail_their_set_alone(images, run, tmp_path, write, told):
    images(train=every(4), test=every(4))
    wrong, good = write(tmp_path, "wrong", [0, 1, 3]), write(tmp_path, "good", [0, 1, 2])

    def command(name, *datasets):
        tasks = [{"task": "linear_probe", "datasets": [*datasets]}]
        (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"name": "mine", "tasks": tasks}))
        arguments = ("--data-root", tmp_path, "-m", "python:toy_factory:make", "-o", tmp_path / name)
        code, _, err = run("run", tmp_path / "suite.yaml", *arguments, "--no-report")
        return code, err, tmp_path / name / "results.jsonl"

    code, err, results = command("alone", wrong)
    assert code == 2 and told in err and not results.exists()
    code, _, results = command("beside", wrong, good)
    records = {record.dataset: record for record in read_records(results)}
    bad, fine = records.values()
    assert code == 3 and told in bad.reason
    assert (bad.status, fine.status) == ("failed", "ok")


def test_one_class_only_is_refused(images, probe):
    images(train={"red": 8}, test={"red": 4})
    code, said, _ = probe(**all_probes(shots=[1]))
    assert code == 2 and said.count("images has 1 class; a probe needs at least two.") == 1


@pytest.mark.parametrize(
    ("classes", "told"), [({}, "neither one folder per class"), ({"red": 0}, "holds no images")]
)
def test_an_empty_validation_split_is_not_drawn_instead(images, probe, classes, told):
    folder = images(train=every(8), test=every(4), val=classes)
    (folder / "val").mkdir(exist_ok=True)
    code, said, _ = probe(linear_probe=None)
    assert code == 2 and "images/val" in said and told in said


def test_more_shots_than_images_fail_alone(images, probe):
    images(train=every(3), test=every(3))
    code, said, out = probe(linear_probe=None, few_shot_linear_probe=None)
    assert code == 3
    assert (
        "has 3 training images, fewer than the 16 shots and 4 for choosing the strength; lower `shots`"
        in said
    )
    assert "linear_probe--images--clip-certified  top-1 " in said
    assert not list(out.rglob("*.tmp"))


def test_a_limit_that_leaves_fewer_images_than_shots_is_named(images, probe):
    images(train=every(40), test=every(4))
    code, said, _ = probe("--limit", "20", few_shot_linear_probe=None)
    assert code == 2 and "raise --limit" in said


def test_one_image_a_class_is_enough_where_no_strength_is_chosen(images, probe):
    images(train=every(1), test=every(3))
    code, said, _ = probe(
        linear_probe={"C": 1.0}, few_shot_linear_probe={"C": 1.0, "shots": [1]}, knn_probe=None
    )
    assert code == 0, said


def test_features_that_are_not_finite_are_named_by_image(images, probe):
    images(train=every(4), test=every(3))
    code, said, _ = probe(model="broken", linear_probe=None)
    assert code == 3 and "NaN or infinity in the image embeddings of 1 of 9 rows" in said
    assert "Images: blue/1.png." in said


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"few_shot_linear_probe": {"shot": [1]}}, "options.shot: unknown key 'shot'. Did you mean 'shots'?"),
        ({"few_shot_linear_probe": {"shots": [0]}}, "options.shots.0: Input should be greater than or equal"),
        ({"few_shot_linear_probe": {"shots": [2, 2]}}, "options.shots: 2 stands there twice"),
        ({"linear_probe": {"C": float("inf")}}, "options.C: Input should be a finite number"),
        ({"linear_probe": {"k": 3}}, "linear_probe does not read the option 'k'. It reads C, normalize,"),
        (
            {"knn_probe": {"C": 1.0}},
            "knn_probe does not read the option 'C'. It reads k, normalize, standardize",
        ),
        ({"zero_shot_classification": {"C": 1.0}}, "options belong to probes"),
    ],
)
def test_options_with_a_slip_are_refused_with_file_and_line(images, probe, options, told):
    images(train=every(2), test=every(2))
    code, said, out = probe(**options)
    assert code == 2 and told in said and "suite.yaml:" in said
    assert not out.exists()


def test_the_suites_metric_has_its_few_shot_form(images, probe):
    images(train=every(8), test=every(4))
    code, said, _ = probe(metric="mean_per_class_accuracy", few_shot_linear_probe={"shots": [1, 2], "C": 1.0})
    assert code == 0 and "mean per class, 2-shot 100.0%" in said


def test_a_metric_that_a_probe_has_not_is_told_with_those_it_has(images, probe):
    images(train=every(8), test=every(4))
    code, said, _ = probe(metric="no_such", few_shot_linear_probe={"shots": [1], "C": 1.0})
    assert code == 2 and "Unknown metric of few_shot_linear_probe 'no_such'. Known: " in said
    assert "top1_accuracy" in said and "encod" not in said


def test_a_memory_budget_that_is_too_small_says_what_would_do(images, probe):
    images(train=every(2), test=every(2))
    code, said, _ = probe("--memory-budget", "0.001", linear_probe=None)
    assert code == 2 and "'--memory-budget': Input should be greater than or equal to 0.01" in said
