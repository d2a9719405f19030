import base64
import json
import re
import sys

import numpy as np
import pytest
from test_loop import recipe

from rwkvclip_eval.errors import OutputError, UserError
from rwkvclip_models import files
from rwkvclip_train import run_log
from rwkvclip_train.cli import main
from rwkvclip_train.page import (
    MOST_BINS,
    MOST_CURVES,
    MOST_EVALUATED,
    MOST_NAMED,
    MOST_RUNS,
    PANELS,
    draw,
    thinned,
    write_page,
)
from rwkvclip_train.run_facts import keep_facts, read_facts
from rwkvclip_train.run_log import Curve, find_logs, read_run


def line(step, **fields):
    written = {
        "step": step,
        "loss": 5 / step,
        "lr": 1e-3,
        "model": "nano",
        "seed": 0,
        "grad_norm": 1.0,
        "betas": [0.9, 0.98],
        "texts": {"raw": 0.25, "synthetic": 0.75},
        "logit_scale": 14.3,
        "data_wait": 0.02,
        "memory_bytes": 2_000_000_000,
        "samples_per_s": 100.0 + step,
    }
    return json.dumps(written | fields) + "\n"


def logged(folder, name="nano", **fields):
    path = folder / "training" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line(step, **fields) for step in (10, 20, 30)))
    return path


def page_of(tmp_path, *places):
    target = tmp_path / "page.html"
    write_page(places, target)
    return target.read_text()


def titles(page):
    return re.findall(r"<!-- (.*?) -->", page) + re.findall(r">([^<>]*)</text>", page)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    logged(folder)
    return page_of(folder, folder)


def test_a_page_draws_every_quantity_of_the_log_and_names_the_least_loss(page):
    drawn = [panel.title for panel in PANELS if panel.title in titles(page)]
    assert drawn == [
        "loss (nats)",
        "gradient norm before clipping",
        "logit scale",
        "learning rate",
        "first beta",
        "share of texts by kind",
        "share of time waiting for data",
        "pairs per second",
        "memory (GB)",
    ]
    assert page.count("<svg") == len(drawn)
    assert {"raw", "synthetic"} <= set(titles(page))
    cells = re.findall(r"<td>(.*?)</td>", page)
    assert cells == ["nano, seed 0", "30", "0.1667", "0.1667", "30", "120.0", "2.0%"]


def test_the_curves_are_the_logs_numbers(tmp_path):
    run = read_run(logged(tmp_path))
    assert run.curve("loss").steps.tolist() == [10, 20, 30]
    assert run.curve("loss").values.tolist() == [0.5, 0.25, 5 / 30]
    assert run.curve("betas", item=0).values.tolist() == [0.9] * 3
    assert run.curve("texts", item="synthetic").values.tolist() == [0.75] * 3
    assert run.curve("memory_bytes", scale=1e-9).values.tolist() == [2.0] * 3


def test_a_page_asks_nothing_of_other_files_or_addresses(page):
    assert "default-src 'none'" in page
    assert "<script" not in page
    # Names of what SVG is made of, and references inside a drawing, are no addresses that are fetched.
    asked = re.findall(r'(?:href|src)="([^"]*)"', page) + re.findall(r"url\(([^)]*)\)", page)
    assert all(where.startswith("#") for where in asked)


def test_several_runs_share_each_drawing(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        logged(tmp_path / name, seed=seed)
    page = page_of(tmp_path, tmp_path / "a", tmp_path / "b")
    assert titles(page).count("loss (nats)") == 1
    shown = titles(page)
    assert shown.count("nano, seed 0") == shown.count("nano, seed 1") > 5
    assert "nano, seed 1: raw" in shown


def test_what_was_evaluated_is_drawn_against_the_step_fractions_of_a_dataset_together(tmp_path):
    path, where = logged(tmp_path), "zero_shot_retrieval/standard/digits_scenes"
    with path.open("a") as file:
        for step, value in ((15, 0.25), (30, 0.5)):
            numbers = {
                f"{where}/recall@1": value,
                f"{where}/recall@5": 2 * value,
                f"{where}/median_rank": 9.0,
            }
            numbers |= {"knn_probe/knn/$x_$": None if step == 15 else 0.5}
            file.write(json.dumps({"step": step, "model": "nano", "seed": 0, "evaluation": numbers}) + "\n")
            file.write(json.dumps({"step": step, "model": "nano", "seed": 0, "val_loss": 3 - value}) + "\n")
    run = read_run(path)
    assert run.curve("loss").steps.tolist() == [10, 20, 30]
    assert run.curve("val_loss").steps.tolist() == [15, 30]
    assert [curve.label for curve in run.evaluated[where]] == ["recall@1", "recall@5"]
    assert run.evaluated[where][1].values.tolist() == [0.5, 1.0]
    assert run.evaluated[f"{where}/median_rank"][0].values.tolist() == [9.0, 9.0]
    shown = titles(page_of(tmp_path, tmp_path))
    said = "Zero-shot retrieval, standard: Digit scenes"
    assert {said, f"{said}, median_rank", "validation loss (nats)", "recall@5"} <= set(shown)
    cells = re.findall(r"<td>(.*?)</td>", page_of(tmp_path, tmp_path))
    assert cells[:3] == ["nano, seed 0", "30", "0.1667"]


def test_numbers_have_their_titles_and_a_scale_of_one_no_drawing(tmp_path):
    path, where = logged(tmp_path), "zero_shot_retrieval/standard/digits_scenes"
    with path.open("a") as file:
        numbers = {f"{where}/image_retrieval_recall@5": 0.5, f"{where}/text_retrieval_median_rank": 9.0}
        file.write(json.dumps({"step": 30, "model": "nano", "seed": 0, "evaluation": numbers}) + "\n")
    shown = titles(page_of(tmp_path, tmp_path))
    said = "Zero-shot retrieval, standard: Digit scenes"
    assert {"text→image R@5", f"{said}, image→text median rank"} <= set(shown)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for scale, drawn in ((1024.0, True), (1.0, False)):
        path.write_text("".join(json.dumps(line | {"loss_scale": scale}) + "\n" for line in lines))
        assert any("scale of float16" in title for title in titles(page_of(tmp_path, tmp_path))) is drawn


def test_a_log_that_holds_measures_alone_has_a_page(tmp_path):
    path = tmp_path / "nano.jsonl"
    path.write_text('{"step": 5, "val_loss": 2.0, "model": "nano", "seed": 0}\n')
    assert page_of(tmp_path, path).count("<svg") == 1


def test_too_many_evaluations_are_refused(tmp_path):
    path = tmp_path / "nano.jsonl"
    numbers = {f"task/protocol/{i}/accuracy": 0.5 for i in range(MOST_EVALUATED + 1)}
    path.write_text(json.dumps({"step": 5, "evaluation": numbers}) + "\n")
    with pytest.raises(OutputError, match="drawings of evaluations are too many"):
        write_page([path], tmp_path / "page.html")


def test_a_run_of_before_has_the_panels_that_its_log_allows(tmp_path):
    path = tmp_path / "old.jsonl"
    path.write_text('{"step": 1, "loss": 2.0, "lr": 0.1, "model": "old", "seed": 3}\n')
    page = page_of(tmp_path, path)
    assert page.count("<svg") == 2
    assert "old, seed 3" in page


def test_losses_that_were_not_finite_leave_a_gap_and_no_number(tmp_path):
    path = tmp_path / "nano.jsonl"
    path.write_text('{"step": 1, "loss": null, "grad_norm": null, "model": "lost", "seed": 0}\n')
    assert draw(PANELS[0], [read_run(path)]) == ""
    assert not re.search(r"\bnan\b", page_of(tmp_path, path), re.IGNORECASE)


def test_what_a_log_says_is_shown_as_text(tmp_path):
    path = tmp_path / "odd.jsonl"
    said = {"step": 1, "loss": 1, "model": "<script>alert(1)</script>$x_$", "texts": {"<b>": 1.0}}
    path.write_text(json.dumps(said) + "\n")
    page = page_of(tmp_path, path)
    assert "<script" not in page and "<b>" not in page
    assert "&lt;script&gt;" in page


def test_recipe_machine_and_picture_sheet_are_on_the_page(tmp_path):
    path = tmp_path / "tiny.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n')
    keep_facts(path, recipe("open_clip", lr=0.00123))
    assert read_facts(path)["recipe"]["lr"] == 0.00123
    sheet = b"\x89PNG\r\n\x1a\n" + bytes(10)
    path.with_suffix(".png").write_bytes(sheet)
    page = page_of(tmp_path, path)
    assert "<td>lr</td><td>0.00123</td>" in page
    assert "<td>quirks.beta1_cycle</td><td>False</td>" in page
    assert "<td>data.0.dataset</td><td>digits</td>" in page
    assert "<td>packages.torch</td>" in page
    assert base64.b64encode(sheet).decode() in page


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no line yet"),
        ('{"step": 1, "lo', "has no line yet"),
        ('{"loss": 1}\n', ":1: expected a line with a whole number as step, got None"),
        ('{"step": 1}\n{"step": true}\n', ":2: expected a line with a whole number as step"),
        ("[]\n", ":1: expected a line"),
        ("no\n", "line 1, is not JSON"),
    ],
)
def test_what_is_no_log_is_named_with_its_line(tmp_path, text, said):
    path = tmp_path / "odd.jsonl"
    path.write_text(text)
    with pytest.raises(OutputError) as caught:
        write_page([path], tmp_path / "page.html")
    assert said in str(caught.value)
    assert not (tmp_path / "page.html").exists()


def test_a_folder_without_logs_and_too_many_runs_are_refused(tmp_path):
    with pytest.raises(UserError, match="No training log at"):
        find_logs([tmp_path])
    path = logged(tmp_path)
    with pytest.raises(OutputError, match="too many for a page"):
        write_page([path] * (MOST_RUNS + 1), tmp_path / "page.html")


def test_the_command_writes_the_page_beside_the_log(tmp_path, monkeypatch, capsys):
    path = tmp_path / "training" / "nano.jsonl"
    path.parent.mkdir()
    path.write_text('{"step": 1, "loss": 2.0}\n')
    monkeypatch.setattr(sys, "argv", ["rwkvclip-train", "page", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    target = tmp_path / "training" / "index.html"
    assert ended.value.code == 0
    assert f"{target}: 1 run." in capsys.readouterr().out
    assert target.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("name", ["tiny.jsonl", "tiny.run.json", "page", "page.html.txt"])
def test_a_page_replaces_nothing_that_is_not_called_a_page(tmp_path, name):
    path = logged(tmp_path, "tiny")
    target = path.with_name(name)
    before = target.read_bytes() if target.exists() else None
    with pytest.raises(OutputError, match=r"give a name that ends in \.html"):
        write_page([tmp_path], target)
    assert (target.read_bytes() if target.exists() else None) == before


def test_facts_of_any_depth_are_shown(tmp_path):
    path = tmp_path / "tiny.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n')
    deep = '{"recipe":' * 900 + '{"a": [1, [2]], "b": {}, "c": [{"d": 3}, 4]}' + "}" * 900
    path.with_name("tiny.run.json").write_text(deep)
    page = page_of(tmp_path, path)
    assert re.search(r"<td>…[^<]{,250}\.recipe\.a</td><td>\[1, \[2\]\]</td>", page)
    assert "recipe.b</td><td>{}</td>" in page
    assert page.index("recipe.c.0.d</td><td>3</td>") < page.index("recipe.c.1</td><td>4</td>")


def kinds(number):
    return {f"kind{i:04d}": 0.5 for i in range(number)}


@pytest.mark.filterwarnings("error")
def test_a_legend_of_many_and_long_names_leaves_room_for_the_drawing(tmp_path):
    path = logged(tmp_path, texts=kinds(MOST_CURVES), evaluation={"x" * 5000 + "/a": 0.5, "y" * 5000: 0.5})
    found = titles(page_of(tmp_path, path))
    assert f"and {MOST_CURVES - MOST_NAMED} more" in found
    assert f"kind{MOST_NAMED - 1:04d}" in found and f"kind{MOST_NAMED:04d}" not in found
    assert max(map(len, found)) < 200
    path = logged(tmp_path, texts={"k" * 5000: 0.5})
    assert "k" * 59 + "…" in titles(page_of(tmp_path, path))


def test_more_curves_than_can_be_told_apart_are_refused(tmp_path):
    path = logged(tmp_path, texts=kinds(MOST_CURVES + 1))
    with pytest.raises(OutputError, match=f"{MOST_CURVES + 1} curves of 'share of texts by kind' are too"):
        page_of(tmp_path, path)


def test_a_log_of_too_many_lines_names_or_of_nested_values_is_refused(tmp_path, monkeypatch):
    path = logged(tmp_path, texts={"a": {"b": 1}})
    with pytest.raises(OutputError, match=r"nano\.jsonl:1: 'texts' is nested"):
        read_run(path)
    path = logged(tmp_path, texts=kinds(40))
    monkeypatch.setattr(run_log, "MOST_CELLS", 119)
    with pytest.raises(OutputError, match="3 lines with texts of 40 names are too many to draw"):
        read_run(path).curves("texts")
    monkeypatch.setattr(run_log, "MOST_NAMES", 40)
    with pytest.raises(OutputError, match=r"nano\.jsonl:1: the log names more than 40 fields and kinds"):
        read_run(path)
    path.write_text('{"step": 1}\n' * (files.MOST_LINES + 1))
    with pytest.raises(OutputError, match=f"lines; at most {files.MOST_LINES} are read"):
        read_run(path)


def test_a_long_curve_is_drawn_with_its_extremes_its_ends_and_its_gaps():
    values = np.sin(np.arange(100_000.0))
    values[[12_345, 54_321]] = 9, -9
    values[70_000:70_200] = np.nan
    steps, drawn = thinned(Curve("", np.arange(100_000), values))
    assert len(steps) < 2.1 * MOST_BINS
    assert steps[0] == 0 and steps[-1] == 99_999 and (np.diff(steps) > 0).all()
    assert drawn[steps == 12_345] == 9 and drawn[steps == 54_321] == -9
    assert np.isnan(drawn[(steps >= 70_000) & (steps < 70_200)]).all()
    assert np.isnan(drawn).any()
    short = Curve("", np.arange(5), np.arange(5.0))
    assert thinned(short) == (short.steps, short.values)


def test_a_kind_that_was_not_drawn_in_a_step_has_a_share_of_0_and_no_gap(tmp_path):
    path = logged(tmp_path)
    path.write_text(line(1, texts={"raw": 1.0}) + line(2, texts={"generated": 1.0}))
    [panel] = [panel for panel in PANELS if panel.title == "share of texts by kind"]
    shares = {curve.label: curve.values.tolist() for curve in panel.curves(read_run(path))}
    assert shares == {"generated": [0.0, 1.0], "raw": [1.0, 0.0]}


def test_six_curves_of_two_runs_are_told_apart_and_named_below_the_drawing(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn, plot = [], Axes.plot

    def watched(self, *arguments, **look):
        drawn.append(tuple(look[key] for key in ("color", "linestyle", "marker")))
        return plot(self, *arguments, **look)

    monkeypatch.setattr(Axes, "plot", watched)
    texts = {f"kind{i}": 1 / 6 for i in range(6)}
    runs = [read_run(logged(tmp_path / name, name, texts=texts)) for name in ("one", "two")]
    [panel] = [panel for panel in PANELS if panel.title == "share of texts by kind"]
    drawing = draw(panel, runs)
    assert len(set(drawn)) == 12
    assert drawing.count("kind5") == 2
