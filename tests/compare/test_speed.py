"""A verdict on a candidate's speed, from two measurements."""

import csv
import dataclasses
import io
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
    assert "slower in 1 of 6 cells: ours, image tower, 448×448 px" in found.why


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


@pytest.mark.parametrize(("noisy", "verdict"), [(1, "SAME"), (2, "AMBIGUOUS")])
def test_half_of_the_cells_must_be_judged(tmp_path, noisy, verdict):
    after = two_models()
    for i in range(noisy):
        after[i] = block(after[i].cell.height, *after[i].models, noisy="others were busy")
    assert compared(tmp_path, two_models(), after).verdict == verdict


def test_a_run_that_holds_no_cell_is_not_read_from_an_old_report(tmp_path):
    run = write_run(tmp_path / "run", *two_models())
    (run / "report").mkdir()
    (run / "report" / "efficiency.csv").write_text("model\n")
    for path in (run / "cells").iterdir():
        path.unlink()
    with pytest.raises(OutputError, match="holds no measured cell"):
        read_speed_side(run)


def test_of_speed_ups_the_model_that_others_are_beside_is_no_cell(tmp_path):
    after = two_models()
    after[0] = block(after[0].cell.height, *after[0].models, noisy="others were busy")
    found = compared(tmp_path, two_models(), after, of="speed-up")
    assert {row.baseline.model for row in found.rows} == {"ours"}
    assert (len(found.rows), found.verdict) == (3, "SAME")


def test_speed_ups_beside_other_models_are_not_compared(tmp_path):
    after = [
        block(one.cell.height, one.models[0], dataclasses.replace(one.models[1], model="another"))
        for one in two_models()
    ]
    with pytest.raises(OutputError, match="speed-ups beside other models, theirs and another"):
        compared(tmp_path, two_models(), after, of="speed-up")


def test_a_cell_that_the_candidate_lost_is_slower(tmp_path):
    after = two_models()
    lost = Measured(model="ours", spec="ours", status="out_of_memory", reason="no memory left")
    after[2] = block(896, lost, after[2].models[1])
    found = compared(tmp_path, two_models(), after)
    assert found.exit_code == 1
    assert "lost: ours, image tower, 896×896 px, batch 4, fp32 (no memory left)" in found.why


def test_a_cell_that_the_candidate_set_out_to_measure_and_does_not_hold_is_lost(run, tmp_path):
    before, after = (write_run(tmp_path / name, *two_models()) for name in ("before", "after"))
    said = json.loads((after / "run.json").read_text())
    said["identity"]["cells"] = [one.cell.key for one in two_models()]
    (after / "run.json").write_text(json.dumps(said))
    assert run("bench", "compare", before, after)[0] == 0
    (after / "cells" / f"{two_models()[1].cell.key}.json").unlink()
    code, out, _ = run("bench", "compare", before, after)
    assert code == 1
    assert "SLOWER: of what the baseline has, 2 cells lost: ours, image tower, 448×448 px" in out
    assert "its run.json lists the cell, of which it holds no measurement" in out
    assert "Only the baseline has" not in out
    said["identity"]["cells"] = 3
    (after / "run.json").write_text(json.dumps(said))
    code, _, err = run("bench", "compare", before, after)
    assert (code, "identity.cells: expected a list of texts" in err) == (2, True)


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
        ("tower", "twer", "writes: it lacks tower."),
        ("ours,", "ours\0,", "model: expected a text that can be read; it holds U+0000"),
        (",ok,", ",fine,", "fine"),
        (",5,", ",many,", "many"),
        ("image", "picture", "picture"),
    ],
)
def test_a_table_of_another_kind_is_one_message(tmp_path, old, new, said):
    table = tmp_path / "efficiency.csv"
    text = efficiency_csv(speed_rows(two_models()), info())
    table.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(OutputError, match=re.escape(said)) as refused:
        read_speed_side(table)
    assert len(str(refused.value)) < 2000


def table_of(path, *changes, blocks=None):
    """Write the CSV of two models' report with some fields of its first line changed; return the file."""
    rows = list(csv.DictReader(io.StringIO(efficiency_csv(speed_rows(blocks or two_models()), info()))))
    rows[0].update(*changes)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


WRONG_FIELDS = [
    *(
        ({column: text}, f"{column}: expected a whole number in the digits 0 to 9 (got {text!r})")
        for column in ("batch", "height_px", "width_px", "tokens", "repeats")
        for text in ("٤", "4_0", " 4", "-4", "4.0", "", "9" * 30)
    ),
    ({"batch": "0"}, "batch: Input should be greater than or equal to 1 (got 0)"),
    ({"height_px": "70000"}, "height_px: Input should be less than or equal to 65536 (got 70000)"),
    ({"height_px": "0"}, "height of tower image: expected 1 or more, got 0"),
    ({"tokens": "99"}, "tokens of tower image: expected 0, got 99"),
    *(
        ({"compiled": text}, "compiled: Input should be 'True' or 'False'")
        for text in ("true", "yes", "1", "", "\u200b")
    ),
    *(({"precision": text}, "precision: Input should be 'fp32'") for text in ("FP32", "fp999", "", "\u200b")),
    ({"model": ""}, "model: expected a text that can be read; it is empty"),
    ({"model": "\u200b"}, "model: expected a text that can be read; it shows nothing but U+200B"),
    ({"noisy": "\u200b"}, "noisy: expected a text that can be read"),
    ({"device": "\u200b"}, "device: expected a text that can be read"),
    ({"status": "crashed"}, "status crashed stands beside numbers or repeats"),
    ({"repeats": "0"}, "0 repeats stand beside samples_per_second 79.6"),
    ({"samples_per_second": "", "low": "", "high": ""}, "5 repeats stand beside samples_per_second None"),
    ({"low": ""}, "expected all of samples_per_second, low, high or none"),
    *(
        ({"samples_per_second": text}, "samples_per_second")
        for text in ("٤٠٠", "4_00", "many", "nan", "inf", "0", "-1", "1e-320", "1e308")
    ),
    ({"high": "inf"}, "cannot be, of 5 repeats"),
    ({"low": "0"}, "cannot be, of 5 repeats"),
    ({"speed_up": "nan"}, "speed_up nan"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG_FIELDS)
def test_a_field_of_a_table_that_the_writer_never_writes_is_refused(tmp_path, changes, said):
    table = table_of(tmp_path / "efficiency.csv", changes)
    with pytest.raises(OutputError, match=re.escape(said)) as refused:
        read_speed_side(table)
    assert str(refused.value).startswith(f"{table}:2 ")
    assert len(str(refused.value)) < 2000


def test_a_table_with_a_line_twice_a_column_twice_or_a_field_too_many_is_refused(run, tmp_path):
    table = table_of(tmp_path / "efficiency.csv")
    text = table.read_text(encoding="utf-8")
    head, first, *_ = text.splitlines()
    other = first.replace("0.0", "0.1", 1)
    for changed, said in (
        (f"{text}{first}\n", ":8 is of ours, image tower, 224×224 px, batch 4, fp32, as line 2 is"),
        (f"{text}{other}\n", ":8 is of ours, image tower"),
        (text.replace("tokens", "batch", 1), ":1 is not the head"),
        (text.replace("spec", "batch", 1), "the column batch occurs twice"),
        (f"{head}\n{first},more\n", "it has more fields than the head"),
        (f"{head}\nours,ours\n", "tower: Input should be"),
    ):
        table.write_text(changed, encoding="utf-8")
        code, _, err = run("bench", "compare", table, table)
        assert (code, said in err) == (2, True), err


@pytest.mark.parametrize("n", [1, 5])
def test_a_table_of_what_failed_and_of_single_repeats_is_read(tmp_path, n):
    lost = Measured(model="ours", spec="ours", status="out_of_memory", reason="no memory left")
    blocks = [block(224, lost, measured("theirs", 0.1, n=n))]
    table = table_of(tmp_path / "efficiency.csv", blocks=blocks)
    lines = list(read_speed_side(table).lines.values())
    assert [(line.status, line.rate and line.rate.n) for line in lines] == [
        ("out_of_memory", None),
        ("ok", n),
    ]


def test_the_command_says_it_in_every_form(run, tmp_path):
    before = write_run(tmp_path / "before", *two_models())
    after = write_run(tmp_path / "after", *two_models(1.25))
    code, out, _ = run("bench", "compare", before, after, "--out", tmp_path / "out")
    assert code == 1
    assert "SLOWER: slower in 3 of 6 cells" in out
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
