"""A comparison in every form, hostile names included."""

import dataclasses
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from small_runs import LABELS, Run, everything

from rwkvclip_eval.compare import formats, significance
from rwkvclip_eval.compare.gate import Rule
from rwkvclip_eval.compare.pairing import read_side
from rwkvclip_eval.compare.result import compare_runs

HOSTILE = "<script>|\\`%_\n\u202e$x$ " + 50 * "long "


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    sides = []
    for name, flip in (("baseline", 0.0), ("candidate", 0.3)):
        run = Run(base / name)
        everything(run)
        run.zero_shot("digits", seed=4, flip=flip)
        run.unit("zero_shot_classification", "x", {}, {}, None)
        sides.append(read_side(run.write()))
    return compare_runs(*sides)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    sides = []
    for weights in "fg":
        run = Run(tmp_path_factory.mktemp("hostile"), model=HOSTILE)
        info = {"name": HOSTILE, "spec": HOSTILE, "fingerprint": weights}
        run.zero_shot(HOSTILE, protocol=HOSTILE, model_info=info)
        sides.append(read_side(run.write()))
    return compare_runs(*sides)


def test_what_verdicts_on_sets_mean_is_said_in_words_with_the_margin(result):
    verdicts = {row.verdict for row in result.rows}
    assert "regressed" in verdicts and "within the noise" not in verdicts
    (line,) = formats.meanings(verdicts, Rule(0.05))
    assert line.startswith(
        "Of a set, regressed: worse beyond chance (p by Holm), and its interval reaches a loss"
    )
    assert "a loss of 5 points; the loss itself may be smaller" in line
    assert "within the noise" not in line
    assert formats.meanings({None}, Rule()) == []
    (own,) = formats.meanings(verdicts, result.rule)
    assert own in formats.summary(result)
    assert formats.markdown(own) in formats.as_github(result)


def test_json_says_everything_again(result):
    content = json.loads(formats.as_json(result))
    assert content["verdict"] == "REGRESSION"
    assert content["exit_code"] == 1
    assert content["format_version"] == formats.FORMAT_VERSION
    rows = {(row["dataset"], row["metric"]): row for row in content["rows"]}
    row = rows["digits", "top1_accuracy"]
    assert row["verdict"] == "regressed"
    assert row["difference"]["value"] == pytest.approx(row["candidate"] - row["baseline"])
    assert row["difference"]["lost"] == len(row["flipped"]["lost"]) > 10
    assert row["p"]["worse"] <= row["p_holm"] < 0.001
    assert rows["scenes", "image_retrieval_median_rank"]["p"] is None
    assert all(row["q_benjamini_hochberg"] is not None for row in rows.values() if row["p"])
    assert content["baseline"]["model"] == "nano"


def test_holm_is_over_primary_metrics_and_false_discoveries_over_all(result):
    gated = [row for row in result.rows if row.verdict]
    assert [row.compared.primary for row in gated] == [True] * len(gated)
    assert len(gated) == 6
    assert sum(row.false_discovery is not None for row in result.rows) == len(result.rows) - 2


def test_a_line_for_every_set_with_its_numbers(result):
    lines = [formats.cells(row) for row in result.rows if row.verdict]
    assert all(len(line) == len(formats.COLUMNS) for line in lines)
    (digits,) = [line for line in lines if line[0].startswith("Digits")]
    assert digits[-1] == "regressed"
    assert digits[4].startswith("-")
    assert "[" in digits[4]


def test_titles_stand_wherever_people_read_and_names_in_the_json(result):
    for form in (formats.as_github(result), "\n".join(formats.summary(result))):
        assert "Digits, zero-shot classification" in form
        assert "zero_shot" not in form.replace("\\", "")
    assert {row["task"] for row in json.loads(formats.as_json(result))["rows"]} >= {
        "zero_shot_classification"
    }


def test_flips_are_counted_in_every_form_that_has_them(result):
    (row,) = [r for r in result.rows if r.verdict and r.compared.unit.dataset == "digits"]
    told = f"+{row.compared.found.difference.gained} −{row.compared.found.difference.lost}"
    assert formats.cells(row)[formats.COLUMNS.index("flips")] == told != "+0 −0"
    assert told in formats.as_github(result)
    assert f"flips {told}" in formats.as_junit(result)
    medians = [
        r for r in result.rows if "median" in r.compared.metric.name or "auc" in r.compared.metric.name
    ]
    assert all(len(formats.cells(r)) == len(formats.COLUMNS) for r in medians)


def test_noise_that_was_not_measured_is_null_and_measured_none_is_zero(tmp_path):
    run = Run(tmp_path / "a")
    run.zero_shot()
    side = read_side(run.write())
    noises = [
        json.loads(formats.as_json(compare_runs(side, side, repeat)))["mean"]["noise"]
        for repeat in (None, side)
    ]
    assert noises == [None, 0.0]
    said = [formats.summary(compare_runs(side, side, repeat))[1] for repeat in (None, side)]
    assert "Noise" not in said[0] and said[1].endswith("Noise 0.00.")


@pytest.mark.parametrize(
    ("mean", "noise", "within"), [(0.001, 0.002, True), (-0.003, 0.002, False), (0, 0, False)]
)
def test_a_difference_within_the_noise_is_said_to_be(result, mean, noise, within):
    judged = dataclasses.replace(result.judgement, mean=mean, noise=noise)
    said = formats.summary(dataclasses.replace(result, judgement=judged))[1]
    assert f"Noise {100 * noise:.2f}" in said
    assert ("within which the difference lies" in said) is within


def test_a_p_that_draws_cannot_show_is_given_as_a_bound(result):
    least = 1 / (significance.NUM_FLIPS + 1)
    lost = significance.of_flips(-np.repeat([0.01, 0.02], 40))
    assert lost.worse == lost.least == least
    row = next(row for row in result.rows if row.verdict)
    difference = row.compared.found.difference._replace(significance=lost)
    found = row.compared.found._replace(difference=difference)
    row = dataclasses.replace(row, compared=dataclasses.replace(row.compared, found=found), adjusted=least)
    assert formats.cells(row)[formats.COLUMNS.index("p (Holm)")] == "< 2.5e-05"
    # Of exact ones there is no least.
    assert significance.of_flips(-np.ones(50) / 50).least == 0


def test_the_summary_states_rule_rates_and_scope(result):
    text = "\n".join(formats.summary(result))
    assert text.startswith("REGRESSION: the mean is ")
    assert "; regressed: Digits, zero-shot classification." in text
    assert "0.025 for the mean of 6 sets, 0.025 for single sets by Holm; margin 0.5 points" in text
    assert "REGRESSION where nothing differs in" in text
    assert "not methods" in text


def test_github_s_tables_have_as_many_cells_in_every_row(result, hostile):
    for one in (result, hostile):
        for table in formats.as_github(one).split("\n\n"):
            rows = [line for line in table.splitlines() if line.startswith("|")]
            widths = {line.replace("\\\\", "").replace("\\|", "").count("|") for line in rows}
            assert len(widths) <= 1
    assert "<script>" not in formats.as_github(hostile)


def test_junit_names_each_set_and_fails_what_regressed(result):
    suite = ElementTree.fromstring(formats.as_junit(result)).find("testsuite")
    cases = suite.findall("testcase")
    assert int(suite.get("tests")) == len(cases) == 7
    failed = [case.get("name") for case in cases if case.find("failure") is not None]
    assert failed == ["verdict", "Digits, zero-shot classification, top-1"]
    names = {case.get("classname") for case in cases}
    assert "zero_shot_classification on digits (standard)" in names
    assert int(suite.get("failures")) == 2


def test_hostile_names_survive_every_form(hostile):
    content = json.loads(formats.as_json(hostile))
    assert "<script>" in content["rows"][0]["dataset"]
    assert "\u202e" not in formats.as_json(hostile) + formats.as_github(hostile) + formats.as_junit(hostile)
    suite = ElementTree.fromstring(formats.as_junit(hostile)).find("testsuite")
    assert "<script>" in suite.findall("testcase")[1].get("name")
    # Too few images for half a point.
    assert suite.get("skipped") == "1"


def test_labels_are_as_many_as_rows():
    assert len(LABELS) == 400


def test_the_margin_is_the_rule_s(tmp_path):
    run = Run(tmp_path / "a")
    run.zero_shot()
    side = read_side(run.write())
    found = compare_runs(side, side, rule=Rule(margin=0.02))
    assert found.judgement.verdict == "PASS"
    assert "margin 2 points" in found.stated
