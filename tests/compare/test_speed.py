"""A verdict on a candidate's speed, from two measurements."""

import json
import re
from pathlib import Path

import pytest
from junitparser import JUnitXml
from speed_runs import block, info, measured, two_models, write_run

from rwkvclip_eval.compare.speed import compare_speed
from rwkvclip_eval.compare.speed_side import read_speed_side
from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.records.efficiency import Measured
from rwkvclip_eval.report.efficiency import speed_rows
from rwkvclip_eval.report.formats.efficiency import efficiency_csv


def compared(tmp_path, *sides, **how):
    """Return the comparison of runs of these blocks, named by their place."""
    paths = [write_run(tmp_path / f"run{i}", *blocks) for i, blocks in enumerate(sides)]
    return compare_speed(*(read_speed_side(path) for path in paths), **how)


@pytest.mark.parametrize(
    ("slower", "verdict", "code"),
    [(1.0, "SAME", 0), (1.02, "SAME", 0), (0.8, "FASTER", 0), (1.25, "SLOWER", 1)],
)
def test_the_verdict_follows_the_times(tmp_path, slower, verdict, code):
    found = compared(tmp_path, two_models(), two_models(slower))
    assert (found.verdict, found.exit_code) == (verdict, code)
    assert found.mean.value == pytest.approx(slower**-0.5, rel=0.01)
    ours = [row for row in found.rows if row.baseline.model == "ours"]
    assert [row.ratio.value for row in ours] == [pytest.approx(1 / slower, rel=0.01)] * 3


def test_one_slow_cell_is_enough_whatever_the_mean(tmp_path):
    before, after = two_models(), two_models(0.7)
    after[1] = two_models(1.3)[1]
    found = compared(tmp_path, before, after)
    assert (found.verdict, found.exit_code) == ("SLOWER", 1)
    assert "1 of 6 cells are slower: ours, image tower, 448×448 px" in found.why


def test_noisy_cells_are_judged_by_none_and_without_others_there_is_no_verdict(tmp_path):
    noisy = [
        block(one.cell.height, *one.models, noisy="other processes took more") for one in two_models(1.5)
    ]
    found = compared(tmp_path, two_models(), noisy)
    assert (found.verdict, found.exit_code, found.mean) == ("AMBIGUOUS", 3, None)
    assert {row.verdict for row in found.rows} == {"AMBIGUOUS"}
    assert "candidate: other processes took more" in found.why


def test_fewer_than_five_repeats_give_no_verdict(tmp_path):
    found = compared(tmp_path, two_models(), two_models(1.5, n=3))
    assert found.exit_code == 3
    assert "3 repeats; a verdict needs 5" in found.why


def test_a_difference_that_the_baselines_repeat_shows_too_is_ambiguous(tmp_path):
    found = compared(tmp_path, two_models(), two_models(1.2), two_models(1.25))
    assert found.verdict == "AMBIGUOUS"
    assert any("the baseline's repeat differs by -20" in row.why for row in found.rows)


def test_what_slows_a_whole_machine_falls_out_of_speed_ups(tmp_path):
    slow = [
        block(one.cell.height, *(measured(m.model, 1.3 * m.seconds[0]) for m in one.models))
        for one in two_models()
    ]
    assert compared(tmp_path / "a", two_models(), slow).verdict == "SLOWER"
    assert compared(tmp_path / "b", two_models(), slow, of="speed-up").verdict == "SAME"


def test_a_cell_that_the_candidate_lost_is_slower(tmp_path):
    after = two_models()
    lost = Measured(model="ours", spec="ours", status="out_of_memory", reason="no memory left")
    after[2] = block(896, lost, after[2].models[1])
    found = compared(tmp_path, two_models(), after)
    assert found.exit_code == 1
    assert "lost: ours, image tower, 896×896 px, batch 4, fp32 (no memory left)" in found.why


def test_cells_of_one_side_alone_and_other_versions_are_said(tmp_path):
    one = write_run(tmp_path / "one", *two_models(sides=(224, 448)))
    two = write_run(tmp_path / "two", *two_models(sides=(224, 896)), python="3.13.1")
    found = compare_speed(read_speed_side(one), read_speed_side(two))
    assert len(found.rows) == 2
    notes = "\n".join(found.notes)
    assert "Not the same python: 3.11.7 against 3.13.1." in notes
    assert "Only the baseline has 2 cells: ours, image tower, 448×448 px, batch 4, fp32" in notes
    assert "Only the candidate has 2 cells: ours, image tower, 896×896 px" in notes


def test_another_implementation_is_said(tmp_path):
    found = compared(tmp_path, two_models(implementation="cpu"), two_models(implementation="torch"))
    assert any("Other implementation" in note and "cpu against torch" in note for note in found.notes)


def test_single_models_are_compared_whatever_their_names(tmp_path):
    found = compared(tmp_path, [block(224, measured("old", 1.0))], [block(224, measured("new", 1.0))])
    assert len(found.rows) == 1
    assert "old is compared with new" in "\n".join(found.notes)


def test_runs_without_a_common_cell_are_refused(tmp_path):
    with pytest.raises(OutputError, match="no cell in common"):
        compared(tmp_path, two_models(sides=(224,)), two_models(sides=(448,)))


def test_a_csv_stands_for_its_run(tmp_path):
    blocks = two_models()
    run = write_run(tmp_path / "run", *blocks)
    table = tmp_path / "efficiency.csv"
    table.write_text(efficiency_csv(speed_rows(blocks), info()), encoding="utf-8")
    one, other = read_speed_side(run), read_speed_side(table)
    assert one.conditions == other.conditions
    assert one.lines.keys() == other.lines.keys()
    for key, line in one.lines.items():
        assert other.lines[key].rate.low == pytest.approx(line.rate.low)
    assert compare_speed(one, other).verdict == compare_speed(other, one).verdict == "SAME"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tower", "twer", "there is no column 'tower'"),
        ("ours,", "ours\0,", "efficiency.csv"),
        (",ok,", ",fine,", "fine"),
        (",5,", ",many,", "many"),
        ("image", "picture", "picture"),
    ],
)
def test_a_table_of_another_kind_is_one_message(tmp_path, old, new, said):
    table = tmp_path / "efficiency.csv"
    text = efficiency_csv(speed_rows(two_models()), info())
    table.write_text(text.replace(old, new), encoding="utf-8")
    if new == "ours\0,":
        # Python 3.11 and later read it; no name is refused.
        read_speed_side(table)
        return
    with pytest.raises(OutputError, match=re.escape(said)) as refused:
        read_speed_side(table)
    assert len(str(refused.value)) < 2000


def test_the_command_says_it_in_every_form(run, tmp_path):
    before = write_run(tmp_path / "before", *two_models())
    after = write_run(tmp_path / "after", *two_models(1.25))
    code, out, _ = run("bench", "compare", before, after, "--out", tmp_path / "out")
    assert code == 1
    assert "SLOWER: 3 of 6 cells are slower" in out
    assert "-20.0 %" in out
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert (content["verdict"], content["exit_code"], content["margin"]) == ("SLOWER", 1, 0.05)
    assert [row["verdict"] for row in content["rows"]].count("SLOWER") == 3
    junit = JUnitXml.fromfile(str(tmp_path / "out" / "comparison.xml"))
    assert (junit.tests, junit.failures) == (7, 4)
    assert "❌ SLOWER" in (tmp_path / "out" / "comparison.md").read_text()
    code, out, _ = run("bench", "compare", before, after, "--margin", "40", "--format", "github")
    assert (code, "✅ SAME" in out) == (0, True)


def test_compare_sends_measurements_of_speed_to_their_own_command(run, tmp_path):
    from rwkvclip_eval.bench.records import records_of
    from rwkvclip_eval.records.reading import write_records

    paths = [write_run(tmp_path / name, *two_models()) for name in ("a", "b")]
    for path in paths:
        write_records(path / "results.jsonl", [r for one in two_models() for r in records_of(one)])
    code, _, err = run("compare", *paths)
    assert code == 2
    assert "`rwkvclip-eval bench compare BASELINE CANDIDATE`" in err


@pytest.mark.parametrize("given", [("nowhere", "nowhere"), (".", ".")])
def test_what_is_no_measurement_is_said(run, tmp_path, given):
    code, _, err = run("bench", "compare", *(tmp_path / one for one in given))
    assert code == 2
    assert "holds no measurement of speed" in err


def test_names_of_others_harm_no_form(run, tmp_path):
    hostile = "<b>|=cmd\n\x1b[31m"
    paths = [
        write_run(
            Path(tmp_path / name), block(224, measured(hostile, 1.0)), block(448, measured(hostile, 2.0))
        )
        for name in ("a", "b")
    ]
    for form in ("terminal", "github", "junit", "json"):
        code, out, _ = run("bench", "compare", *paths, "--format", form)
        assert code == 0
        assert "\x1b" not in out
        assert form in ("terminal", "json") or "<b>" not in out
