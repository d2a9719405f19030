"""The command as users type it: verdicts, exit codes, messages."""

import json

import pytest
from small_runs import Run

from rwkvclip_eval.records.metrics import TOP1


@pytest.fixture
def runs(tmp_path):
    made = {}
    for name, flip in (("baseline", 0.0), ("worse", 0.3), ("noisy", 0.3)):
        run = Run(tmp_path / name)
        run.zero_shot(flip=flip)
        run.zero_shot("digits", seed=3)
        made[name] = run.write()
    return made


@pytest.fixture
def same_answers(tmp_path):
    """A run of other weights that gave the same answers as the baseline."""
    other = Run(tmp_path / "other")
    info = {"name": "nano", "spec": "nano", "fingerprint": "g"}
    other.zero_shot(model_info=info)
    other.zero_shot("digits", seed=3, model_info=info)
    return other.write()


def test_a_run_and_itself_pass(run, runs):
    code, out, err = run("compare", runs["baseline"], runs["baseline"])
    assert (code, err) == (0, "")
    assert "PASS: both runs are of one model, and it gave the same answers." in out


def test_other_weights_with_the_same_answers_pass_within_what_the_images_tell(run, runs, same_answers):
    code, out, err = run("compare", runs["baseline"], same_answers, "--margin", "2")
    assert (code, err) == (0, "")
    assert "PASS: the mean is at most" in out
    assert "colours, zero-shot classification\ttop-1, %" in out


def test_a_worse_run_is_a_regression(run, runs):
    code, out, _ = run("compare", runs["baseline"], runs["worse"])
    assert code == 1
    assert "REGRESSION" in out


def test_too_few_images_are_inconclusive(run, runs, same_answers):
    assert run("compare", runs["baseline"], same_answers)[0] == 3


def test_a_loss_that_the_repeat_makes_too_is_ambiguous(run, runs):
    code, out, _ = run(
        "compare", runs["baseline"], runs["worse"], "--repeat-baseline", runs["noisy"], "--format", "json"
    )
    assert code == 3
    content = json.loads(out)
    assert content["verdict"] == "AMBIGUOUS"
    assert content["rows"][0]["verdict"] == "within the noise"
    assert content["rows"][0]["repeat"] == content["rows"][0]["candidate"]


@pytest.mark.parametrize(("form", "begins"), [("json", "{"), ("github", "###"), ("junit", "<?xml")])
def test_every_form_is_printed(run, runs, form, begins):
    code, out, _ = run("compare", runs["baseline"], runs["worse"], "--format", form)
    assert (code, out[: len(begins)]) == (1, begins)


def test_files_of_every_form_are_written(run, runs, tmp_path):
    assert run("compare", runs["baseline"], runs["worse"], "--out", tmp_path / "said" / "here")[0] == 1
    names = sorted(path.name for path in (tmp_path / "said" / "here").iterdir())
    assert names == [f"comparison.{ending}" for ending in ("html", "json", "md", "xml")]


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_what_is_no_run_is_bad_input(run, runs, tmp_path, name):
    (tmp_path / "empty").mkdir()
    code, out, err = run("compare", runs["baseline"], tmp_path / name)
    assert (code, out) == (2, "")
    assert "No results in" in err
    assert "Traceback" not in err


def test_half_a_run_is_bad_input(run, runs, tmp_path):
    half = Run(tmp_path / "half")
    half.zero_shot()
    code, _, err = run("compare", runs["baseline"], half.write())
    assert code == 2
    assert "lacks 1 of the 2 units" in err


@pytest.mark.parametrize("option", [("--margin", "-1"), ("--alpha", "0"), ("--format", "pdf")])
def test_options_out_of_range_are_refused(run, runs, option):
    assert run("compare", runs["baseline"], runs["worse"], *option)[0] == 2


def test_measurements_of_speed_are_refused_by_name(run, tmp_path, runs):
    speed = Run(tmp_path / "speed")
    speed.unit("efficiency", "image 224x224", {TOP1: 0.5}, {}, None)
    for pair in ((speed.write(), runs["baseline"]), (runs["baseline"], speed.path)):
        code, out, err = run("compare", *pair)
        assert (code, out) == (2, "")
        assert "holds measurements of speed" in err and "rwkvclip-eval bench compare" in err
