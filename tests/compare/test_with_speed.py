"""`compare` with measurements of speed beside the runs: both verdicts, the worse one as exit code."""

import json

import pytest
from junitparser import JUnitXml
from small_runs import Run
from speed_runs import two_models, write_run


@pytest.fixture
def sides(tmp_path):
    """Two runs of equal answers, and three measurements, of which the second is slower."""
    for name in ("main", "new"):
        run = Run(tmp_path / name)
        run.zero_shot("cifar10")
        run.write()
    write_run(tmp_path / "before", *two_models())
    write_run(tmp_path / "slow", *two_models(1.25))
    write_run(tmp_path / "same", *two_models(1.01))
    return tmp_path


def compared(run, sides, after, *more):
    speeds = ("--baseline-speed", sides / "before", "--candidate-speed", sides / after)
    return run("compare", sides / "main", sides / "new", *speeds, *more)


def test_a_slower_candidate_fails_though_its_answers_are_the_same(run, sides):
    code, out, err = compared(run, sides, "slow")
    assert (code, err) == (1, "")
    assert "PASS: " in out and "SLOWER: " in out
    assert compared(run, sides, "same")[0] == 0
    assert run("compare", sides / "main", sides / "new")[0] == 0


def test_every_form_has_both_verdicts(run, sides):
    code, out, _ = compared(run, sides, "slow", "--format", "json", "--out", sides / "out")
    found = json.loads(out)
    assert (code, found["exit_code"], found["verdict"]) == (1, 1, "PASS")
    assert (found["speed"]["verdict"], len(found["speed"]["rows"])) == ("SLOWER", 6)
    markdown = (sides / "out" / "comparison.md").read_text()
    assert markdown.index("✅ PASS") < markdown.index("❌ SLOWER")
    cases = [case for suite in JUnitXml.fromfile(str(sides / "out" / "comparison.xml")) for case in suite]
    assert sum(not case.is_passed for case in cases) >= 2 and len(cases) == 2 + 1 + 6
    page = (sides / "out" / "comparison.html").read_text()
    assert "Speed: <b>SLOWER</b>" in page and page.count('class="text regressed">SLOWER<') == 3
    plain = run("compare", sides / "main", sides / "new", "--format", "json")[1]
    assert "speed" not in json.loads(plain)


@pytest.mark.parametrize("more", [(), ("--write-baseline", "b"), ("--group", "a=x,y")])
def test_one_measurement_alone_or_with_another_kind_of_comparison_is_refused(run, sides, more):
    speeds = ("--baseline-speed", sides / "before")
    both = (*speeds, "--candidate-speed", sides / "slow") if more else speeds
    code, _, err = run("compare", *(() if "--group" in more else (sides / "main",)), *both, *more)
    assert code == 2
    assert "--baseline-speed and --candidate-speed go together" in err
