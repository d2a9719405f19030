"""A comparison in every form, hostile names included."""

import json
from xml.etree import ElementTree

import pytest
from small_runs import LABELS, Run, everything

from rwkvclip_eval.compare import formats
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
    (digits,) = [line for line in lines if "digits" in line[0]]
    assert digits[-1] == "regressed"
    assert digits[4].startswith("-")
    assert "[" in digits[4]


def test_the_summary_states_rule_rates_and_scope(result):
    text = "\n".join(formats.summary(result))
    assert text.startswith("REGRESSION: the mean is ")
    assert "; regressed: zero_shot_classification on digits (standard)." in text
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
    assert failed == ["verdict", "zero_shot_classification on digits (standard), top-1"]
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
