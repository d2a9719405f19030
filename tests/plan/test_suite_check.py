"""`validate` opens what a suite brings itself, and says file and line of what does not fit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from rwkvclip_eval.errors import SuiteError
from rwkvclip_eval.plan.suite import list_suites, load_suite, parse_suite
from rwkvclip_eval.run.suite_check import check_suite
from rwkvclip_eval.run.suite_run import run_suite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD = "{name: birds, folder: birds, class_names: [owl, wren], templates: ['a {c}']}"


@pytest.fixture
def checked(tmp_path: Path) -> Callable[..., int]:
    """Checks a suite of one dataset beside a folder `birds` with the classes owl and wren."""
    for name in ("owl", "wren"):
        (tmp_path / "birds" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "birds" / name / "0.png")
    (tmp_path / "labels.csv").write_text("image,label\nowl/0.png,owl\nwren/0.png,wren\n")
    (tmp_path / "label.json").write_text('{"cifar10": ["plane", "car"]}')

    def check(dataset: str, task: str = "zero_shot_classification") -> int:
        text = f"name: s\ntasks:\n  - task: {task}\n    datasets:\n      - {dataset}\n"
        return check_suite(parse_suite(text, source="s.yaml", base_dir=tmp_path))

    return check


def test_a_suite_that_fits_has_its_units_counted(checked: Callable[..., int]) -> None:
    assert checked(GOOD) == 1
    assert checked("cifar10") == 1
    manifest = "{kind: manifest, path: labels.csv, root: birds}"
    assert checked(f"{{name: marked, source: {manifest}, templates: ['a {{c}}']}}") == 1


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        (GOOD.replace("folder: birds", "folder: brids"), r"There is no folder \S+brids"),
        (GOOD.replace("[owl, wren]", "[owl, robin]"), r"Class names without a folder: robin"),
        (GOOD.replace("[owl, wren]", "[a, b, c]"), r"3 class names given, but folder birds has 2 classes"),
        (GOOD.replace("'a {c}'", "'a bird'"), r"the template 'a bird' has no \{c\}"),
        (
            "{name: marked, source: {kind: manifest, path: labels.csv, root: nowhere}, templates: ['{c}']}",
            r"There is no folder \S+nowhere",
        ),
        (
            "{name: marked, source: {kind: manifest, path: labels.csv, root: birds}, templates: ['{c}'], "
            "class_names: [owl, tit]}",
            r"labels.csv, line 3: Unknown class name 'wren'",
        ),
        ("{name: shards, source: {kind: webdataset, path: wds_birds}}", r"wds_birds"),
        ("{name: cifar10, source: {kind: published, path: cifar}}", r"cifar"),
        ("{name: cifar10, class_names: [a, b]}", r"cifar10: 2 class names for 10 classes"),
        ("{name: cifar10, templates: [a photo]}", r"the template 'a photo' has no \{c\}"),
        ("{name: cifar10, prompts: {labels: label.json}}", r"cifar10: 2 class names for 10 classes"),
        ("{name: cifar10, prompts: {labels: labels.json}}", r"Cannot read the prompt file \S+labels.json"),
    ],
)
def test_what_does_not_fit_is_said_with_its_line(
    checked: Callable[..., int], dataset: str, said: str
) -> None:
    with pytest.raises(SuiteError) as caught:
        checked(dataset)
    assert re.match(r"s\.yaml:5: ", str(caught.value))
    assert re.search(said, str(caught.value)), str(caught.value)


def test_a_probe_of_a_folder_needs_its_training_split(checked: Callable[..., int]) -> None:
    with pytest.raises(SuiteError, match=r"s\.yaml:5: .*"):
        checked("{name: birds, folder: birds/owl}", "linear_probe")


@pytest.mark.parametrize("name", [name for name in list_suites() if name != "efficiency"])
def test_every_shipped_suite_is_fine(name: str) -> None:
    assert check_suite(load_suite(name)) > 0


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("linear_probe", "roc_auc"),
        ("linear_probe", "mean_average_precision_11_point"),
        ("few_shot_linear_probe", "roc_auc"),
    ],
)
def test_a_metric_that_a_known_set_cannot_have_is_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task: str, metric: str
) -> None:
    """As by a run: the plan of both says so."""
    text = f"name: s\ntasks:\n  - task: {task}\n    datasets:\n      - {{name: cifar10, metric: {metric}}}\n"
    loaded = parse_suite(text, source="s.yaml", base_dir=tmp_path)
    said = f"s.yaml:5: Unknown metric of {task} '{metric}'"
    with pytest.raises(SuiteError) as checked:
        check_suite(loaded)
    monkeypatch.setattr("rwkvclip_eval.run.suite_run.Datasets", None)
    with pytest.raises(SuiteError) as ran:
        run_suite(loaded, ["rwkv-clip-b32=random:0"], tmp_path / "out")
    assert str(checked.value) == str(ran.value)
    assert str(checked.value).startswith(said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dataset", ["pcam", "rendered_sst2", "hateful_memes"])
def test_a_known_set_of_two_classes_may_have_an_area(dataset: str) -> None:
    text = f"name: s\ntasks:\n  - task: linear_probe\n    datasets: [{{name: {dataset}, metric: roc_auc}}]\n"
    assert check_suite(parse_suite(text)) == 1
