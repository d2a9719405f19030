"""Numbers that are texts, digits of other scripts, names that nobody can read: one message, nothing taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from data_files import wds

from rwkvclip_eval.cli.data import dataset_ref
from rwkvclip_eval.compare.group_runs import read_groups
from rwkvclip_eval.data.folder import open_folder
from rwkvclip_eval.data.manifest import open_manifest
from rwkvclip_eval.data.prompts import normalise_templates
from rwkvclip_eval.data.webdataset import open_webdataset
from rwkvclip_eval.errors import DamagedData, SuiteError, UserError
from rwkvclip_eval.exchange.clip_benchmark import read_results
from rwkvclip_eval.plan.floors import load_floors
from rwkvclip_eval.plan.overrides import parse_setting, parse_shots
from rwkvclip_eval.plan.suite import check_names, parse_suite
from rwkvclip_eval.plan.units import plan
from rwkvclip_eval.records.metrics import standard
from rwkvclip_eval.records.published import COLUMNS, read_published
from rwkvclip_train.recipe import RecipeError, load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.timeout(60)

PROBE = "name: s\ntasks:\n - task: {task}\n   options: {{{options}}}\n   datasets: [cifar10]\n"
UNREADABLE = {
    "U+200B": "\u200b",
    "U+2060 U+FEFF": "\u2060\ufeff",
    "U+3164": "\u3164",
    "U+0000": "a\0b",
}


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("linear_probe", "C: '0.3'", "C: Input should be a valid number (got '0.3')"),
        ("linear_probe", "validation_fraction: '0.2'", "Input should be a valid number (got '0.2')"),
        ("linear_probe", "seed: 1.0", "seed: Input should be a valid integer (got 1.0)"),
        ("linear_probe", "seed: '1'", "seed: Input should be a valid integer (got '1')"),
        ("linear_probe", "seed: [1]", "seed: Input should be a valid integer (got a list)"),
        ("linear_probe", "normalize: 'true'", "normalize: Input should be a valid boolean (got 'true')"),
        ("linear_probe", "normalize: 1.0", "normalize: Input should be a valid boolean (got 1.0)"),
        ("linear_probe", "search: !!binary Z3JpZA==", "a value of the kind binary; expected a text"),
        ("few_shot_linear_probe", "shots: ['1', 4]", "shots.0: Input should be a valid integer (got '1')"),
        ("few_shot_linear_probe", "shots: [1.0]", "shots.0: Input should be a valid integer (got 1.0)"),
        ("few_shot_linear_probe", "shots: [[1]]", "shots.0: Input should be a valid integer (got a list)"),
        ("knn_probe", "k: 010", "010 is read as base 60 or 8; write the number in base 10"),
        ("knn_probe", "k: 1:30", "1:30 is read as base 60 or 8"),
        ("knn_probe", "temperature: 2001-01-01", "a value of the kind timestamp"),
    ],
)
def test_a_value_of_another_type_is_refused_in_a_suite(task: str, options: str, said: str) -> None:
    with pytest.raises(SuiteError) as caught:
        parse_suite(PROBE.format(task=task, options=options), source="s")
    assert str(caught.value).startswith("s:4: ") and said in str(caught.value)


@pytest.mark.parametrize(
    ("options", "strength"),
    [
        ("C: 1", "C=1"),
        ("C: 1e-3", "C=0.001"),
        ("C: 1E+2", "C=100"),
        ("C: .5", "C=0.5"),
        ("C: 1_000", "C=1000"),
    ],
)
def test_a_whole_number_and_one_with_an_exponent_stand_for_a_number(options: str, strength: str) -> None:
    (unit,) = plan(parse_suite(PROBE.format(task="linear_probe", options=options)))
    assert strength in unit.protocol.name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("!!binary cw==", "s:1: not valid YAML: a value of the kind binary"),
        ("!!set {a}", "a value of the kind set"),
        ("2001-01-01", "a value of the kind timestamp; expected a text (in quotes)"),
        ("1", "s:1: name: Input should be a valid string (got 1)"),
        ("true", "s:1: name: Input should be a valid string (got True)"),
        ("[s]", "s:1: name: Input should be a valid string (got a list)"),
        ('"\\u200b"', "s:1: name: expected a text that can be read; it shows nothing but U+200B"),
    ],
)
def test_a_name_of_a_suite_is_a_text_that_can_be_read(name: str, said: str) -> None:
    with pytest.raises(SuiteError) as caught:
        parse_suite(
            PROBE.format(task="knn_probe", options="").replace("name: s", f"name: {name}"), source="s"
        )
    assert said in str(caught.value)


RECIPE = {
    "name": "a",
    "model": "{family: rwkv-clip, config: {}}",
    "data": '[{dataset: digits, texts: ["a {c}"]}]',
    "steps": "2",
    "batch_size": "2",
    "lr": "1e-3",
}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("steps", "'2'", "steps: Input should be a valid integer (got '2')"),
        ("steps", "2.0", "steps: Input should be a valid integer (got 2.0)"),
        ("steps", "[2]", "steps: Input should be a valid integer (got a list)"),
        ("batch_size", "'2'", "batch_size: Input should be a valid integer (got '2')"),
        ("lr", "'1e-3'", "lr: Input should be a valid number (got '1e-3')"),
        ("lr", "true", "lr: Input should be a valid number (got True)"),
        ("lr", ".nan", "lr: Input should be a finite number (got nan)"),
        ("betas", "['0.9', 0.98]", "betas.0: Input should be a valid number (got '0.9')"),
        ("betas", "[[0.9], 0.98]", "betas.0: Input should be a valid number (got a list)"),
        ("name", "!!binary YQ==", "a value of the kind binary"),
        ("data", '[{dataset: digits@, texts: ["a {c}"]}]', "data.0.dataset: expected NAME or NAME@VARIANT"),
        (
            "data",
            '[{dataset: digits, repeat: true, texts: ["{c}"]}]',
            "repeat: Input should be a valid number",
        ),
        ("data", '[{dataset: digits, texts: ["\\u200b"]}]', "it shows nothing but U+200B"),
        ("data", '[{dataset: digits, texts: ["a\\0 {c}"]}]', "it holds U+0000 ('a\\x00 {c}')"),
        ("data", '[{dataset: digits, texts: ["a"]}]', "expected {c} where the class name goes, got 'a'"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_a_recipe(
    tmp_path: Path, key: str, value: str, said: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("\n".join(f"{k}: {v}" for k, v in RECIPE.items()))
    assert load_recipe(path).lr == 0.001
    path.write_text("\n".join(f"{k}: {v}" for k, v in {**RECIPE, key: value}.items()))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert said in str(caught.value)


SUITE = "name: s\ntasks: [{task: zero_shot_classification, datasets: [cifar10, sun397@full]}]"
FLOOR = "task: zero_shot_classification, dataset: "


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("cifar10, floor: '60'", "floors.0.floor: Input should be a valid number (got '60')"),
        ("cifar10, floor: true", "floors.0.floor: Input should be a valid number (got True)"),
        ("cifar10, floor: [60]", "floors.0.floor: Input should be a valid number (got a list)"),
        ("cifar10, floor: .nan", "floors.0.floor: Input should be a finite number"),
        ("cifar10@, floor: 60", "floors.0.dataset: expected NAME or NAME@VARIANT, got 'cifar10@'"),
        ("'@full', floor: 60", "floors.0.dataset: expected NAME or NAME@VARIANT, got '@full'"),
        ("cifar10, floor: 60}, {task: zero_shot_classification, dataset: wds/cifar10, floor: 60", "floors.1"),
        ("cifar10, floor: 60}, {task: zero_shot_classification, dataset: wds_cifar10, floor: 50", "floors.1"),
        ("sun397, floor: 60}, {task: zero_shot_classification, dataset: sun397@full, floor: 50", "floors.1"),
        (
            f"cifar10, protocol: standard, floor: 60}}, {{{FLOOR}cifar10, floor: 5",
            "line 1 has a floor of the same number already",
        ),
    ],
)
def test_a_floor_that_does_not_fit_or_stands_twice_is_refused(tmp_path: Path, entry: str, said: str) -> None:
    path = tmp_path / "floors.yaml"
    units = plan(parse_suite(SUITE))
    path.write_text(f"floors: [{{{FLOOR}cifar10, floor: 60}}, {{{FLOOR}sun397, floor: 6.5}}]")
    assert [floor.floor for floor in load_floors(path, units)] == [60, 6.5]
    path.write_text(f"floors: [{{{FLOOR}{entry}}}]")
    with pytest.raises(UserError) as caught:
        load_floors(path, units)
    assert said in str(caught.value)


@pytest.mark.parametrize("entry", ["cifar10@", "{name: cifar10@}", "'@x'"])
def test_a_dataset_of_an_empty_variant_is_refused(entry: str) -> None:
    text = f"name: s\ntasks:\n - task: zero_shot_classification\n   datasets: [{entry}]"
    with pytest.raises(SuiteError, match=r"s:4: tasks\.0\.datasets\.0\.name: expected NAME or NAME@VARIANT"):
        parse_suite(text, source="s")
    averages = "averages: [{name: a, task: zero_shot_classification, datasets: ['cifar10@']}]"
    with pytest.raises(SuiteError, match=r"averages\.0\.datasets\.0: expected NAME or NAME@VARIANT"):
        parse_suite(f"{SUITE}\n{averages}", source="s")


@pytest.mark.parametrize("text", ["cifar10@", "cifar10:", "@full", "cifar10@:test", ":test"])
def test_a_dataset_of_the_command_line_has_no_empty_part(text: str) -> None:
    with pytest.raises(UserError, match="expected NAME, NAME@VARIANT or NAME:SPLIT"):
        dataset_ref(text)


DIGITS = ["٣", "３", "१"]


@pytest.mark.parametrize("number", DIGITS)
@pytest.mark.parametrize(
    "option", ["--batch-size", "--limit", "--num-workers", "--allow-missing", "--memory-budget"]
)
def test_an_option_of_run_takes_the_digits_0_to_9_alone(
    run: Run, tmp_path: Path, option: str, number: str
) -> None:
    code, _, said = run("run", "smoke", "-m", "rwkv-clip-b32=random:0", "-o", tmp_path / "o", option, number)
    assert code == 2 and option in said and number in said and len(said) < 2000


@pytest.mark.parametrize("option", ["--size", "--batch-size", "--tokens", "--threads", "--repeats", "--turn"])
@pytest.mark.parametrize("number", DIGITS)
def test_an_option_of_bench_takes_the_digits_0_to_9_alone(
    run: Run, tmp_path: Path, option: str, number: str
) -> None:
    code, _, said = run(
        "bench", "-m", "rwkv-clip-b32=random:0", "-o", tmp_path / "o", "--dry-run", option, number
    )
    assert code == 2 and option in said and len(said) < 2000


@pytest.mark.parametrize("number", ["٣", "３"])
def test_no_number_within_a_text_is_of_other_digits(run: Run, tmp_path: Path, number: str) -> None:
    with pytest.raises(UserError, match="--shots"):
        parse_shots(f"1,{number}")
    code, _, said = run("run", "smoke", "-m", "x=random:0", "-o", tmp_path / "o", "--shard", f"{number}/8")
    assert code == 2 and "--shard" in said
    code, _, said = run("run", "smoke", "-m", f"rwkv-clip-b32=random:{number}", "-o", tmp_path / "o")
    assert code == 2 and f"random:{number}" in said
    assert standard(f"top1_accuracy_{number}_shot") is None
    assert standard(f"image_retrieval_recall@1{number}") is None
    assert parse_setting(f"knn_probe.k={number}").value == number


@pytest.mark.parametrize(("points", "text"), UNREADABLE.items(), ids=UNREADABLE)
def test_a_caption_that_cannot_be_read_is_refused_wherever_it_stands(
    birds: Path, tmp_path: Path, points: str, text: str
) -> None:
    folder = wds(tmp_path, f"an owl\n{text}\n".encode(), kind="retrieval")
    with pytest.raises(DamagedData, match=rf"member .*\.txt.*a caption .*{points[:6]}".replace("+", r"\+")):
        open_webdataset(folder, "test", tmp_path)
    path = birds / "labels.csv"
    for column in ("caption", "label", "key"):
        others = ",label" if column == "key" else ""
        path.write_text(
            f"image,{column}{others}\nowl/a.png,{text}{',x' if others else ''}\n", encoding="utf-8"
        )
        with pytest.raises(DamagedData, match=f"line 2: .*{column} .*{points[:6]}".replace("+", r"\+")):
            open_manifest(path, None, "test")
    path.unlink()
    (birds / "captions.csv").write_text(f"image,caption\nowl/a.png,{text}\n", encoding="utf-8")
    with pytest.raises(DamagedData, match=r"captions\.csv: 1 images have a caption .*: owl/a"):
        open_folder(birds, "test")
    with pytest.raises(UserError, match="x: a template"):
        normalise_templates(["a {c}", text], "x")


@pytest.mark.parametrize(("points", "text"), UNREADABLE.items(), ids=UNREADABLE)
def test_a_name_that_cannot_be_read_is_refused_wherever_it_comes_from(
    tmp_path: Path, points: str, text: str
) -> None:
    row = ["zero_shot_classification", "m", "", "", "cifar10", "top1_accuracy", "1", *["unknown"] * 2]
    row += ["published", "s"]
    for column in ("method", "backbone", "pretrain_data", "source"):
        cells = [text if name == column else cell for name, cell in zip(COLUMNS, row, strict=True)]
        path = tmp_path / "papers" / "p.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{','.join(COLUMNS)}\n{','.join(cells)}\n", encoding="utf-8")
        with pytest.raises(UserError, match=rf"p\.csv:2: {column}: expected"):
            read_published([path.parent])
    result = '{"dataset": "D", "model": "M", "task": "zeroshot_classification", "metrics": {"acc1": 0.5}}'
    for name in ("D", "M"):
        path = tmp_path / "a.json"
        escaped = text.encode("ascii", "backslashreplace").decode().replace("\0", "\\u0000")
        path.write_text(result.replace(f'"{name}"', f'"{escaped}"'))
        with pytest.raises(UserError, match=rf"a\.json .*: expected a text .*; it .*{points[2:6]}"):
            read_results([path])
    with pytest.raises(UserError, match="--group: the name of a method"):
        read_groups([f"{text}=a,b", "x=c,d"])


def test_a_class_name_that_shows_nothing_is_listed_by_its_code_points(birds: Path) -> None:
    with pytest.raises(UserError, match=r"Class names without a folder: U\+3164"):
        open_folder(birds, "test", ["owl", "\u3164"])


@pytest.mark.parametrize(
    ("task", "metric", "known"),
    [
        ("zero_shot_classification", "image_retrieval_recall@1", "top1_accuracy, top5_accuracy"),
        ("zero_shot_classification", "top1_accuracy_4_shot", "top1_accuracy, top5_accuracy"),
        ("zero_shot_robustness", "text_retrieval_median_rank", "top1_accuracy, top5_accuracy"),
        ("zero_shot_retrieval", "top1_accuracy", "image_retrieval_recall@1, image_retrieval_recall@5"),
        ("linear_probe", "image_retrieval_recall@1", "top1_accuracy, top5_accuracy"),
        ("few_shot_linear_probe", "top1_accuracy", "top1_accuracy_16_shot"),
        ("knn_probe", "image_retrieval_recall@1", "top1_accuracy, top5_accuracy"),
    ],
)
def test_a_published_metric_is_of_its_task(tmp_path: Path, task: str, metric: str, known: str) -> None:
    row = [task, "m", "", "", "cifar10", metric, "1", "unknown", "unknown", "published", "s"]
    (tmp_path / "p.csv").write_text(f"{','.join(COLUMNS)}\n{','.join(row)}\n")
    with pytest.raises(UserError) as caught:
        read_published([tmp_path])
    said = str(caught.value)
    assert f"p.csv:2: metric: expected the name of a metric of {task}." in said
    assert f"Known: {known}" in said and said.endswith(f"(got '{metric}').")


def test_a_column_that_stands_twice_in_a_csv_is_not_imported(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("dataset,model,task,acc1,acc1\ncifar10,m,zeroshot_classification,0.5,0.6\n")
    with pytest.raises(UserError, match=r"a\.csv:1: the column 'acc1' occurs twice"):
        read_results([path])
    # A spreadsheet's mark of UTF-8 is no part of the first column's name.
    path.write_text("dataset,model,task,acc1\ncifar10,m,zeroshot_classification,0.5\n", encoding="utf-8-sig")
    assert [record.dataset for record in read_results([path]).records] == ["cifar10"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("class_names: []", "class_names: the list is empty"),
        ("templates: []", "templates: the list is empty"),
        (
            "class_names: [a, '']",
            "s:4: cifar10: in class_names of the suite, the class name of label 1 is",
        ),
        ('class_names: ["\\u200b"]', "the class name of label 0 shows nothing but U+200B"),
        ("templates: [a]", "s:4: cifar10: the template 'a' has no {c}"),
        ('templates: ["\\u200b"]', "s:4: cifar10: a template shows nothing but U+200B"),
        (
            'source: {kind: folder, path: "a\\0"}',
            "source.path: expected a text that can be read; it holds",
        ),
        ("source: {kind: folder, path: ''}", "source.path: expected a text that can be read; it is empty"),
    ],
)
def test_prompts_of_a_suite_are_looked_at_before_any_data(entry: str, said: str) -> None:
    text = f"name: s\ntasks:\n - task: zero_shot_classification\n   datasets: [{{name: cifar10, {entry}}}]\n"
    with pytest.raises(SuiteError) as caught:
        check_names(parse_suite(text, source="s"))
    assert said in str(caught.value)


@pytest.mark.parametrize("value", ["٠.٥", "0.5_0", "half"])
def test_a_number_of_an_imported_table_is_of_the_digits_0_to_9(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"dataset,model,task,acc1\ncifar10,m,zeroshot_classification,{value}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.csv:2: .*(expected a number|could not convert)"):
        read_results([path])


def test_a_published_name_has_no_spaces_around_it(tmp_path: Path) -> None:
    row = [
        "linear_probe",
        " m",
        "",
        "",
        "cifar10",
        "top1_accuracy",
        "1",
        "unknown",
        "unknown",
        "published",
        "s",
    ]
    (tmp_path / "p.csv").write_text(f"{','.join(COLUMNS)}\n{','.join(row)}\n")
    with pytest.raises(UserError, match=r"p\.csv:2: method: expected no spaces around it"):
        read_published([tmp_path])
