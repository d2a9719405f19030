"""Names that no reader can tell apart, and numbers that readers and Python read otherwise, are refused."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from data_files import png

from rwkvclip_eval.cli.main import app
from rwkvclip_eval.console import run_app
from rwkvclip_eval.data.manifest import open_manifest
from rwkvclip_eval.data.prompts import check_class_names, normalise_templates
from rwkvclip_eval.errors import DamagedData, SuiteError, UserError
from rwkvclip_eval.plan.suite import check_names, list_suites, parse_suite
from rwkvclip_eval.printable import look_alike, unreadable

if TYPE_CHECKING:
    from pathlib import Path

SUITE = "name: s\ntasks:\n  - task: zero_shot_classification\n    datasets: [{%s, templates: ['a {c}']}]\n"


@pytest.mark.parametrize(
    "other", ["cat\u200b", " cat", "cat ", "c\u00adat", "cat\ufe0f", "\u2060cat", "cat\u3164"]
)
def test_names_that_differ_in_what_nobody_sees_are_refused(other: str) -> None:
    assert look_alike(["dog", "cat", other]) == ("cat", other)
    with pytest.raises(UserError, match=r"two class names that are not equal look alike: label 1 'cat'"):
        check_class_names(["dog", "cat", other], "x")


def test_composed_and_decomposed_letters_and_blanks_of_other_widths_look_alike() -> None:
    assert look_alike(["café", "cafe\u0301"]) is not None
    assert look_alike(["ice  cream", "ice\u00a0cream"]) is not None
    assert look_alike(["ice cream", "icecream", "Ice cream", "cafe", "café", "cat", "cat\ufffd"]) is None


@pytest.mark.parametrize("text", ["\u0301\u0302", "\U000e0fff", "\ufffd\ufffd", "\ue000", "\u0903", "\u0378"])
def test_marks_without_a_letter_and_code_points_of_nothing_cannot_be_read(text: str) -> None:
    assert unreadable(text).startswith("shows nothing but U+")
    assert not unreadable(f"a{text}") and not unreadable("日本") and not unreadable("?!")


def test_a_class_name_that_a_suite_gives_twice_is_refused_but_where_the_field_does() -> None:
    twice = parse_suite(SUITE % "name: wds_x, class_names: [cat, dog, cat]", source="s")
    with pytest.raises(SuiteError, match=r"s:4: wds_x: .*'cat' is the name of label 0 and of label 2"):
        check_names(twice)
    check_names(parse_suite(SUITE % "name: imagenet1k, class_names: [missile, missile]"))


def manifest(folder: Path, *labels: str) -> Path:
    for i in range(len(labels)):
        (folder / f"{i}.png").write_bytes(png(i))
    path = folder / "m.csv"
    path.write_text("image,label\n" + "".join(f"{i}.png,{label}\n" for i, label in enumerate(labels)))
    return path


@pytest.mark.parametrize("label", ["-1", "1.0", "1e3", "+1"])
def test_a_label_of_a_manifest_that_is_a_number_but_no_class_id_is_refused(
    tmp_path: Path, label: str
) -> None:
    path = manifest(tmp_path, "0", "1", label)
    with pytest.raises(DamagedData, match=r"m\.csv, line 4: label .* is a number, but class ids are whole"):
        open_manifest(path, None, "test")
    assert open_manifest(path, None, "test", ["0", "1", label]).class_names == ("0", "1", label)
    assert open_manifest(manifest(tmp_path, "7", "A"), None, "test").class_names == ("7", "A")


def test_one_class_is_nothing_to_choose_from(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = manifest(tmp_path, "cat", "cat")
    source = f"name: x, source: {{kind: manifest, path: {path}}}"
    (tmp_path / "s.yaml").write_text(SUITE % source)
    code, _, err = run("run", tmp_path / "s.yaml", "-m", "rwkv-clip-b32=random:0", "-o", tmp_path / "out")
    assert code == 2 and "has one class, 'cat', which every model gets right" in err


@pytest.mark.parametrize("template", ["a {{c}}", "a {{}}", "{c} }}"])
def test_doubled_braces_in_a_template_are_refused(template: str) -> None:
    with pytest.raises(UserError, match="doubled braces"):
        normalise_templates([template], "x")


@pytest.mark.parametrize("number", ["0x10", "0b11", "1_0", "-0x1", "1_0000", "1__000"])
def test_numbers_that_yaml_reads_in_several_ways_are_refused(number: str) -> None:
    text = "name: s\ntasks:\n  - task: knn_probe\n    options: {k: %s}\n    datasets: [cifar10]\n"
    with pytest.raises(SuiteError, match=r"suite:4: .*write the number in base 10"):
        parse_suite(text % number)


def test_averages_beside_grids_are_refused() -> None:
    text = list_suites()["efficiency"].read_text()
    assert parse_suite(text).suite.grids
    with pytest.raises(SuiteError, match="'averages' are over the datasets of 'tasks'"):
        parse_suite(text + "averages: [{name: a, task: linear_probe}]\n")


@pytest.mark.parametrize("number", ["1_0", "１０", "1_0.5"])
@pytest.mark.parametrize("option", ["--limit", "--memory-budget", "--batch-size"])
def test_a_number_in_other_signs_than_digits_is_refused_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, number: str
) -> None:
    for words in ([option, number], [f"{option}={number}"]):
        monkeypatch.setattr(sys, "argv", ["rwkvclip-eval", "run", "smoke", "-m", "x", "-o", "y", *words])
        with pytest.raises(SystemExit) as ended:
            run_app(app)
        assert ended.value.code == 2
        assert f"{option}: expected a number in the digits 0 to 9, got" in capsys.readouterr().err


def test_a_name_of_digits_and_underscores_is_a_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rwkvclip-eval", "validate", "1_0"])
    with pytest.raises(SystemExit):
        run_app(app)
    assert "Unknown suite '1_0'" in capsys.readouterr().err
