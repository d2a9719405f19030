"""Methods over seeds: what is paired, what is said, what is refused; and the command as users type it."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from seeded_runs import method, seeded
from small_runs import Run

from rwkvclip_eval.compare import group_formats
from rwkvclip_eval.compare.gate import Rule
from rwkvclip_eval.compare.group_runs import read_groups
from rwkvclip_eval.compare.groups import compare_groups
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.records.reading import read_records


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    base = tmp_path_factory.mktemp("methods")
    return {
        "good": method(base, "good", (0, 1, 2)),
        "bad": method(base, "bad", (2, 0, 1), flip=0.3),
        "other": method(base, "other", (7, 8, 9)),
        "two": method(base, "two", (0, 1)),
        "silent": method(base, "silent", (0, 1, 2), log=False),
    }


def compared(*texts, **options):
    return compare_groups(read_groups(texts), **options)


def values(group):
    """Values of the runs of a group's text on colours."""
    found = []
    for path in group.partition("=")[2].split(","):
        text = Path(path, "results.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        found += [row["value"] for row in rows if row["dataset"] == "colours" and row["primary"]]
    return np.array(found)


def test_mean_and_deviation_are_over_seeds_and_pairs_are_of_one_seed(texts):
    (one,) = compared(texts["good"], texts["bad"]).comparisons
    assert one.pairing == "bad with good: paired by seed: 0, 1, 2."
    row = one.rows[0]
    good, bad = values(texts["good"]), values(texts["bad"])[[1, 2, 0]]
    assert row.baseline == pytest.approx(good)
    assert row.candidate == pytest.approx(bad)
    assert row.varied.draws[0].values == pytest.approx(bad - good)
    assert one.mean.varied.value == pytest.approx(np.mean([row.varied.value for row in one.rows]))


def test_a_method_that_is_worse_regressed_and_one_that_is_better_passes(texts):
    worse, better = compared(texts["good"], texts["bad"]), compared(texts["bad"], texts["good"])
    assert (worse.comparisons[0].verdict, worse.exit_code) == ("REGRESSION", 1)
    assert [row.verdict for row in worse.comparisons[0].rows] == ["regressed", "regressed"]
    assert (better.comparisons[0].verdict, better.exit_code) == ("PASS", 0)
    assert "the mean is at least" in better.comparisons[0].why


def test_methods_too_much_alike_for_the_margin_are_inconclusive(texts):
    found = compared(texts["good"], texts["other"])
    assert (found.comparisons[0].verdict, found.exit_code) == ("INCONCLUSIVE", 3)
    assert compared(texts["good"], texts["other"], rule=Rule(margin=0.3)).comparisons[0].verdict == "PASS"


def test_two_seeds_are_weak_evidence_without_a_verdict(texts):
    for pair in (("two", "bad"), ("good", "two")):
        found = compared(*(texts[name] for name in pair), rule=Rule(margin=0.3))
        (one,) = found.comparisons
        assert (one.verdict, found.exit_code) == ("WEAK EVIDENCE", 3)
        assert {row.verdict for row in one.rows} == {None}
        assert "no verdict on methods" in one.why
        for form in (group_formats.as_json, group_formats.as_github, group_formats.as_junit):
            assert "WEAK EVIDENCE" in form(found)
            assert "regressed" not in form(found)


def test_other_seeds_are_not_paired_and_the_page_says_so(texts):
    (one,) = compared(texts["good"], texts["other"]).comparisons
    assert one.pairing.endswith(
        "not paired, since they have not the same seeds: good 0, 1, 2 and other 7, 8, 9."
    )
    assert len(one.rows[0].varied.draws) == 2


def test_seeds_that_nobody_says_are_unknown_and_the_user_may_say_them(texts):
    (one,) = compared(texts["good"], texts["silent"]).comparisons
    assert "silent unknown, unknown, unknown" in one.pairing
    name, _, runs = texts["silent"].partition("=")
    said = ",".join(f"{run}@{seed}" for run, seed in zip(runs.split(","), (2, 1, 0), strict=True))
    (one,) = compared(texts["good"], f"{name}={said}").comparisons
    assert one.pairing == "silent with good: paired by seed: 0, 1, 2."
    assert one.rows[0].candidate == pytest.approx(values(texts["silent"])[::-1])
    seeds = [run.told_by for run in read_groups([texts["good"], f"{name}={said}"])[1].runs]
    assert seeds == ["user"] * 3


def test_the_user_may_pair_by_order_or_not_at_all(texts):
    (ordered,) = compared(texts["good"], texts["bad"], pairing="order").comparisons
    assert "paired in the order given: good0 (seed 0) with bad2 (seed 2)" in ordered.pairing
    assert ordered.rows[0].candidate == pytest.approx(values(texts["bad"]))
    (apart,) = compared(texts["good"], texts["bad"], pairing="none").comparisons
    assert len(apart.rows[0].varied.draws) == 2
    with pytest.raises(UserError, match="has 3 runs, two 2"):
        compared(texts["good"], texts["two"], pairing="order")


def test_each_method_is_compared_with_the_first(texts):
    found = compared(texts["good"], texts["bad"], texts["two"])
    assert [one.candidate.name for one in found.comparisons] == ["bad", "two"]
    assert found.exit_code == 1


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (["good"], "One --group is no comparison"),
        (["good", "alone"], "one run is one seed"),
        (["good", "good"], "Two groups are called 'good'"),
        (["good", "renamed"], "one run stands twice"),
        (["good", "nameless"], "expected NAME=RUN,RUN"),
        (["good", "gap"], "expected NAME=RUN,RUN"),
        (["good", "nowhere"], "No results in"),
        (["good", "no seed"], "x is no run directory, and 'x' no seed; expected RUN@SEED"),
        (["good", "same seed"], "two runs are of seed 0"),
        (["good", "same model"], "are of one checkpoint"),
    ],
)
def test_what_is_no_group_of_seeds_is_refused(texts, tmp_path, groups, said):
    runs = texts["good"].partition("=")[2]
    given = texts | {
        "alone": f"alone={runs.split(',')[0]}",
        "renamed": f"renamed={runs}",
        "nameless": f"={runs}",
        "gap": "gap=a,,b",
        "nowhere": f"nowhere={tmp_path}/x,{tmp_path}/y",
        "no seed": f"odd={tmp_path}/run@x,{tmp_path}/run@y",
    }
    if said.startswith(("two runs", "are of")):
        same = {"fingerprint": "one"} if "model" in groups[1] else {}
        paths = [seeded(tmp_path / f"run{i}", i if same else 0, **same) for i in range(2)]
        given[groups[1]] = "same=" + ",".join(map(str, paths))
    with pytest.raises(UserError, match=said):
        read_groups([given[name] for name in groups])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task_version": 3}, "task version 2 against 3"),
        ({"prompt_hash": "q"}, "other class names, templates"),
        ({"protocol": "clip-benchmark"}, "lacks 2 of the 2 units"),
        ({"labels": np.arange(400) % 6}, "have another label"),
    ],
)
def test_runs_of_other_samples_versions_or_protocols_are_refused(texts, tmp_path, change, said):
    with pytest.raises(UserError, match=said):
        compared(texts["good"], method(tmp_path, "odd", (0, 1, 2), **change))


def test_datasets_that_runs_lack_are_named_and_further_ones_left_out(texts, tmp_path):
    short = []
    for seed in range(3):
        run = Run(tmp_path / f"short{seed}")
        info = {"name": "nano", "spec": "nano", "fingerprint": f"s{seed}"}
        run.zero_shot("colours", seed=seed, model_info=info)
        short.append(str(run.write()))
    group = f"short={','.join(short)}"
    with pytest.raises(UserError, match=r"lacks 1 of the 2 units .* on digits"):
        compared(texts["good"], group)
    found = compared(group, texts["good"])
    assert len(found.comparisons[0].rows) == 1
    assert any("Digits, zero-shot classification: left out" in note for note in found.notes)


def test_few_shot_numbers_are_left_out_and_said(tmp_path):
    texts = []
    for name in ("a", "b"):
        runs = []
        for seed in range(3):
            run = Run(tmp_path / f"{name}{seed}")
            info = {"name": "nano", "spec": "nano", "fingerprint": f"{name}{seed}"}
            run.zero_shot(seed=seed, model_info=info)
            run.few_shot(model_info=info)
            runs.append(str(run.write()))
        texts.append(f"{name}={','.join(runs)}")
    found = compared(*texts)
    assert [row.title for row in found.comparisons[0].rows] == ["colours, zero-shot classification"]
    assert "draw of its training images" in "".join(found.notes)


def test_a_changed_number_is_found_out(texts, tmp_path):
    text = method(tmp_path, "changed", (0, 1, 2))
    path = tmp_path / "changed1" / "results.jsonl"
    (first, *_) = [one for one in read_records(path) if one.primary]
    content = path.read_text()
    path.write_text(content.replace(f'"value": {first.value}', '"value": 0.123', 1).replace(
        f'"ci_low": {first.ci_low}', '"ci_low": 0.1'))  # fmt: skip
    with pytest.raises(UserError, match=r"its record says 12\.3"):
        compared(texts["good"], text)


PAPER = (
    "task,method,backbone,pretrain_data,dataset,metric,value,protocol,precision,status,source\n"
    + "".join(
        f"zero_shot_classification,{method},B/32,web,{dataset},{metric},{value},unknown,unknown,published,Paper\n"
        for method, dataset, metric, value in (
            ("GOOD", "colours", "top1_accuracy", "50.0"),
            ("Good", "colours@other", "top1_accuracy", "51.0"),
            ("Good", "colours", "top5_accuracy", "52.0"),
            ("Other", "colours", "top1_accuracy", "53.0"),
        )
    )
)


def test_published_numbers_stand_beside_their_method_unpaired_and_claim_no_win(run, texts, tmp_path):
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "one.csv").write_text(PAPER)
    groups = ("--group", texts["good"], "--group", texts["bad"])
    code, out, _ = run("compare", *groups, "--published", tmp_path / "papers", "--format", "json")
    (printed,) = json.loads(out)["published"]
    assert (code, printed["published"]["value"], printed["method"]) == (1, "50.0", "good")
    good = values(texts["good"])
    difference = printed["difference"]
    assert difference["value"] == pytest.approx(good.mean() - 0.5)
    # Ours and theirs, each on images of its own, and our seeds.
    by_images = good.mean() * (1 - good.mean()) / 400 / 3 + 0.25 / 400
    assert difference["by_images"] == pytest.approx(by_images, rel=0.1)
    assert difference["variance"] >= good.var(ddof=1) / 3 + 0.25 / 400 - 1e-6
    for form in ("terminal", "github"):
        said = run("compare", *groups, "--published", tmp_path / "papers", "--format", form)[1]
        assert "No win over one is claimed" in said
        assert "50.0" in said
    assert "No win" not in run("compare", *groups)[1]
    part = method(tmp_path, "good", (0, 1), subset=True)
    said = run("compare", "--group", part, "--group", texts["bad"], "--published", tmp_path / "papers")[1]
    assert "part of the split" in said
    assert "No win" not in said


def test_json_says_everything_again(texts):
    content = json.loads(group_formats.as_json(compared(texts["good"], texts["bad"])))
    (one,) = content["comparisons"]
    assert (one["verdict"], content["exit_code"]) == ("REGRESSION", 1)
    assert [run["seed"] for run in content["groups"][1]["runs"]] == [2, 0, 1]
    row = one["rows"][0]
    assert row["baseline"]["sd"] == pytest.approx(np.std(row["baseline"]["values"], ddof=1))
    assert row["difference"]["low"] < row["difference"]["value"] < row["difference"]["high"]
    assert row["difference"]["conservative"] is True
    assert row["p_worse"] <= row["p_holm"] < 0.001
    assert one["mean"]["verdict"] is None


def test_the_command_gives_every_form_and_code(run, texts, tmp_path):
    group = ("--group", texts["good"], "--group", texts["bad"])
    code, out, err = run("compare", *group, "--out", tmp_path / "said")
    assert (code, err) == (1, "")
    assert "good ±SD" in out
    assert "REGRESSION of bad beside good" in out
    assert sorted(path.name for path in (tmp_path / "said").iterdir()) == [
        "comparison.html", "comparison.json", "comparison.md", "comparison.xml",
    ]  # fmt: skip
    suite = ElementTree.fromstring((tmp_path / "said" / "comparison.xml").read_text()).find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("3", "3")
    table = [
        line for line in (tmp_path / "said" / "comparison.md").read_text().splitlines() if line[0:1] == "|"
    ]
    assert {line.count("|") for line in table} == {8}


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs/a", "runs/b", "--group", "a=x,y"),
        ("runs/a",),
        (),
        ("runs/a", "runs/b", "--pair", "order"),
        ("--group", "a=x,y", "--group", "b=z,w", "--repeat-baseline", "r"),
    ],
)
def test_runs_and_groups_do_not_go_together(run, arguments):
    code, out, err = run("compare", *arguments)
    assert (code, out) == (2, "")
    assert "BASELINE" in err
