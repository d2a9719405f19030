"""Suite files: what loads, and that every mistake is named with its line."""

import re
from pathlib import Path

import pytest

from rwkvclip_eval.errors import SuiteError
from rwkvclip_eval.plan.suite import check_names, list_suites, load_suite, parse_suite
from rwkvclip_eval.plan.units import plan
from rwkvclip_eval.records.schema import folder_name
from rwkvclip_eval.tasks import TASKS
from rwkvclip_eval.tasks.base import TaskOptions
from rwkvclip_eval.tasks.linear_probe import LinearProbe

GOOD = """\
name: mine
tasks:
  - task: zero_shot_classification
    protocol: [standard, clip-benchmark]
    datasets:
      - cifar10
      - sun397@partition1
      - name: birds
        folder: birds
        class_names: [owl, wren]
        templates: ["a photo of a {c}."]
"""


@pytest.mark.parametrize("name", list(list_suites()))
def test_every_shipped_suite_loads_and_knows_its_names(name: str) -> None:
    loaded = load_suite(name)
    check_names(loaded)
    assert loaded.suite.name == name
    assert loaded.suite.description


def test_short_names_expand_to_name_and_variant() -> None:
    cifar10, sun397, birds = parse_suite(GOOD).suite.tasks[0].datasets
    assert (cifar10.name, cifar10.variant) == ("cifar10", None)
    assert (sun397.name, sun397.variant) == ("sun397", "partition1")
    assert birds.class_names == ("owl", "wren")


def test_the_hash_is_of_the_text() -> None:
    assert parse_suite(GOOD).sha256 != parse_suite(GOOD + "\n").sha256


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "protocol:",
            "protocl:",
            "s.yaml:4: tasks.0.protocl: unknown key 'protocl'. Did you mean 'protocol'?",
        ),
        ("class_names:", "clas_names:", "s.yaml:10: tasks.0.datasets.2.clas_names: unknown key"),
        ("clip-benchmark]", "clip-bench]", "s.yaml:4: tasks.0.protocol: Unknown protocol 'clip-bench'."),
        ("name: mine\n", "", "s.yaml:1: name: the key 'name' is missing."),
        ("name: mine\n", "name: mine\nname: yours\n", "s.yaml:2: the key 'name' occurs twice."),
        ("tasks:", "tasks: [", "s.yaml:"),
        ("[standard, clip-benchmark]", "[]", "s.yaml:4: tasks.0.protocol: the list is empty"),
        ("- cifar10", "- null", "s.yaml:6: tasks.0.datasets.0: expected a name or a mapping with 'name'."),
        ("name: mine", "name: &a [*a]", "s.yaml: an alias (*name) stands inside what it stands for."),
    ],
)
def test_a_mistake_is_named_with_file_and_line(old: str, new: str, message: str) -> None:
    with pytest.raises(SuiteError) as caught:
        parse_suite(GOOD.replace(old, new), source="s.yaml")
    assert message in str(caught.value)


def test_all_mistakes_are_listed_at_once() -> None:
    text = GOOD.replace("templates:", "template:").replace("protocol:", "protocl:")
    with pytest.raises(SuiteError) as caught:
        parse_suite(text, source="s.yaml")
    assert "s.yaml:4" in str(caught.value)
    assert "s.yaml:11" in str(caught.value)


def test_unknown_tasks_and_datasets_are_named_with_near_matches() -> None:
    text = GOOD.replace("zero_shot_classification", "zero_shot").replace("cifar10", "cifar01")
    loaded = parse_suite(text, source="s.yaml")
    with pytest.raises(SuiteError) as caught:
        check_names(loaded)
    assert "s.yaml:3: Unknown task 'zero_shot'." in str(caught.value)
    assert "s.yaml:6: Unknown dataset 'cifar01'. Did you mean 'cifar10'" in str(caught.value)


def test_a_folder_of_webdataset_shards_needs_no_catalogue_entry() -> None:
    check_names(parse_suite(GOOD.replace("cifar10", "wds_anything")))


def test_an_unknown_suite_lists_the_shipped_ones() -> None:
    with pytest.raises(SuiteError, match="Did you mean 'zero-shot-11'"):
        load_suite("zeroshot-11")


def test_a_list_with_a_wrong_entry_is_not_called_empty() -> None:
    with pytest.raises(SuiteError) as caught:
        parse_suite(GOOD.replace("owl", "3"), source="s.yaml")
    assert (
        str(caught.value)
        == "s.yaml:10: tasks.0.datasets.2.class_names.0: Input should be a valid string (got 3)"
    )


def test_a_folder_is_not_called_an_unknown_suite(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="is a folder"):
        load_suite(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sun397@partition1", "sun397@part", "s.yaml:7: Unknown variant of sun397 'part'."),
        ("sun397@partition1", "sun397@seed*", "s.yaml:7: Unknown variant of sun397 'seed*'."),
        ("sun397@partition1", "voc2007", "scores classification sets; voc2007 is a multilabel set."),
        (
            "zero_shot_classification",
            "zero_shot_retrieval",
            "s.yaml:6: zero_shot_retrieval scores retrieval sets; cifar10 is a classification set.",
        ),
    ],
)
def test_variants_and_kinds_are_checked_before_a_run(old: str, new: str, message: str) -> None:
    with pytest.raises(SuiteError) as caught:
        plan(parse_suite(GOOD.replace(old, new), source="s.yaml"))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["sun397@seed7", "voc2007@crops"])
def test_a_variant_by_seed_or_of_another_kind_can_be_planned(name: str) -> None:
    plan(parse_suite(GOOD.replace("sun397@partition1", name), source="s.yaml"))


OTHER_BIRDS = """\
      - name: {name}
        folder: other
        class_names: [owl, wren]
        templates: ["a photo of a {{c}}."]
"""


@pytest.mark.parametrize("name", ["birds", '"my/birds"'])
def test_two_datasets_whose_results_would_replace_each_other_are_refused(name: str) -> None:
    first = GOOD.replace("birds\n", "my_birds\n", 1) if "my" in name else GOOD
    with pytest.raises(SuiteError, match=r"s.yaml:12: .* share the name"):
        plan(parse_suite(first + OTHER_BIRDS.format(name=name), source="s.yaml"))


def test_names_in_any_script_are_names_of_their_own() -> None:
    suite = GOOD.replace("name: birds", "name: птицы") + OTHER_BIRDS.format(name="鳥")
    assert len({unit.name("m") for unit in plan(parse_suite(suite))}) == 2 * 4


def test_a_dataset_given_twice_or_by_its_alias_is_one_unit_under_its_record_name() -> None:
    units = plan(parse_suite(GOOD.replace("- cifar10", "- cifar10\n      - vtab/cifar10\n      - cifar10")))
    assert [unit.dataset for unit in units] == 2 * ["cifar10", "sun397", "birds"]


def test_long_names_fit_the_disk_and_stay_apart() -> None:
    names = {folder_name("m", "d" * 300 + end) for end in "ab"}
    assert len(names) == 2
    assert max(len(name.encode()) for name in names | {folder_name("鳥" * 300)}) <= 200


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("source: {kind: folder, pth: x}", "source.pth: unknown key 'pth'. Did you mean 'path'?"),
        (
            "source: {kind: folder, path: x, folder: y}",
            "source.folder: unknown key 'folder'. Allowed: kind, path.",
        ),
        ("source: {kind: fold, path: x}", "source: Unknown kind of source 'fold'. Did you mean 'folder'?"),
        ("source: {path: x}", "source: the key 'kind' is missing. Allowed: hugging_face,"),
        ("source: x", "source: expected a mapping with 'kind': hugging_face,"),
        ("prompts: {label: x}", "prompts.label: unknown key 'label'. Did you mean 'labels'?"),
        ("prompts: clip", "prompts: expected 'dataset', 'clip-benchmark', or a mapping with"),
    ],
)
def test_a_mistake_inside_a_dataset_is_one_message_in_the_words_of_the_file(entry: str, message: str) -> None:
    with pytest.raises(SuiteError) as caught:
        parse_suite(GOOD.replace("folder: birds", entry), source="s.yaml")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"s.yaml:9: tasks.0.datasets.2.{message}")


def probe_suite(task: str, options: str) -> str:
    return f"name: s\ntasks:\n- task: {task}\n  options:\n    {options}\n  datasets: [cifar10]\n"


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("linear_probe", "k: 5", "linear_probe does not read the option 'k'. It reads C, normalize, search,"),
        ("linear_probe", "shots: [1]", "linear_probe does not read the option 'shots'."),
        ("knn_probe", "C: 1", "knn_probe does not read the option 'C'. It reads k, normalize,"),
        (
            "few_shot_linear_probe",
            "validation_fraction: 0.1",
            "does not read the option 'validation_fraction'",
        ),
        (
            "linear_probe",
            "method: lbfgs",
            "'method'. The protocol decides it: clip-certified or clip-lbfgs.",
        ),
        ("zero_shot_classification", "C: 1", "options belong to probes; zero_shot_classification has none."),
    ],
)
def test_options_that_a_task_does_not_read_are_refused(task: str, options: str, message: str) -> None:
    with pytest.raises(SuiteError) as caught:
        check_names(parse_suite(probe_suite(task, options), source="s.yaml"))
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"s.yaml:{4 if 'belong' in message else 5}: ")


@pytest.mark.parametrize("other", ["search: grid", "validation_fraction: 0.3"])
def test_a_fixed_strength_is_not_searched_for(other: str) -> None:
    with pytest.raises(SuiteError, match=f"C fixes the strength, so {other.partition(':')[0]} would not be"):
        parse_suite(probe_suite("linear_probe", f"C: 1\n    {other}"))


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("linear_probe", "C: zero", "tasks.0.options.C: Input should be a valid number (got 'zero')"),
        ("linear_probe", "serch: grid", "tasks.0.options.serch: unknown key 'serch'. Did you mean 'search'?"),
        ("knn_probe", "kk: 3", "tasks.0.options.kk: unknown key 'kk'. Did you mean 'k'?"),
        ("few_shot_linear_probe", "shots: 4", "tasks.0.options.shots: expected a list."),
        ("few_shot_linear_probe", "shots: []", "tasks.0.options.shots: the list is empty; it needs at least"),
    ],
)
def test_what_is_wrong_with_an_option_is_said_with_its_line(task: str, options: str, said: str) -> None:
    with pytest.raises(SuiteError) as caught:
        parse_suite(probe_suite(task, options), source="s.yaml")
    assert str(caught.value).startswith(f"s.yaml:5: {said}")


def test_options_of_a_task_registered_after_the_suite_was_read_are_checked_before_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Options(TaskOptions):
        depth: int = 1

    class Own(LinearProbe):
        name = "own"

    Own.Options = Options
    loaded = parse_suite(probe_suite("own", "depht: 2"), source="s.yaml")
    monkeypatch.setattr(TASKS, "_entries", {name: TASKS.get(name) for name in TASKS} | {"own": Own()})
    with pytest.raises(SuiteError) as caught:
        plan(loaded)
    assert str(caught.value) == "s.yaml:5: tasks.0.options.depht: unknown key 'depht'. Did you mean 'depth'?"


def test_a_suite_of_speed_has_no_units_and_says_how_it_is_run() -> None:
    with pytest.raises(SuiteError, match=r"rwkvclip-eval bench --suite efficiency"):
        plan(load_suite("efficiency"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\n", "give 'tasks' of at least one entry, or 'grids'"),
        ("name: x\ntasks: []\n", "give 'tasks' of at least one entry, or 'grids'"),
        (GOOD + "grids: {cpu: {parts: [{}]}}\n", "give 'tasks' of at least one entry, or 'grids'"),
        (
            "name: x\ngrids: {cpu: {parts: [{tower: [image]}]}}\n",
            "unknown key 'tower'. Did you mean 'towers'",
        ),
        ("name: x\ngrids: {cpu: {parts: [{sizes: [[0, 224]]}]}}\n", "grids.cpu.parts.0.sizes.0.0"),
        ("name: x\ngrids: {tpu: {parts: [{}]}}\n", "tpu"),
    ],
)
def test_a_suite_has_tasks_or_grids_and_its_grids_fit(text: str, message: str) -> None:
    with pytest.raises(SuiteError, match=re.escape(message)):
        parse_suite(text)
