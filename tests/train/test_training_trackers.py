"""TensorBoard's own reader and a stand-in for trackio get every number of a log at its step."""

import json
import sys
import types

import pytest
from test_loop import recipe

from rwkvclip_train.cli import main
from rwkvclip_train.run_facts import keep_facts

LINES = [
    {"step": 10, "loss": 2.0, "betas": [0.9, 0.98], "texts": {"raw": 0.25}, "model": "nano", "seed": 3},
    {"step": 20, "loss": None, "betas": [0.9, 0.98], "model": "nano", "seed": 3},
    {"step": 20, "val_loss": 1.5, "model": "nano", "seed": 3},
    {"step": 20, "evaluation": {"knn_probe/knn/digits/top1_accuracy": 0.5, "x/y/z": None}, "val_metric": 0.5},
]
NUMBERS = {
    10: {"loss": 2.0, "betas/0": 0.9, "betas/1": 0.98, "texts/raw": 0.25},
    20: {
        **{"betas/0": 0.9, "betas/1": 0.98, "val_loss": 1.5, "val_metric": 0.5},
        "evaluation/knn_probe/knn/digits/top1_accuracy": 0.5,
    },
}


@pytest.fixture
def logs(tmp_path):
    """Folders of two runs with one name."""
    for name in ("a", "b"):
        path = tmp_path / name / "training" / "nano.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps({**line, "model": "nano", "seed": 3}) + "\n" for line in LINES))
    keep_facts(path, recipe("open_clip", lr=0.00123))
    return tmp_path / "a", tmp_path / "b"


@pytest.fixture
def track(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["rwkvclip-train", "track", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


def test_tensorboards_reader_finds_each_number_at_its_step_once(tmp_path, logs, track):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        code, out, _ = track(*logs, "--to", "tensorboard", "--out", tmp_path / "events")
        assert code == 0 and out.startswith("18 numbers of 2 runs")
    folders = sorted((tmp_path / "events").iterdir())
    assert [folder.name for folder in folders] == ["nano_seed_3", "nano_seed_3_2"]
    for folder in folders:
        events = EventAccumulator(str(folder)).Reload()
        found = {}
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                assert tag not in found.setdefault(event.step, {})
                found[event.step][tag] = round(event.value, 6)
        assert found == NUMBERS


def test_trackio_gets_a_run_of_each_with_its_recipe(logs, track, monkeypatch):
    calls = []
    stand_in = types.SimpleNamespace(
        init=lambda **given: calls.append(("init", given)),
        log=lambda numbers, step: calls.append(("log", step, numbers)),
        finish=lambda: calls.append(("finish",)),
    )
    monkeypatch.setitem(sys.modules, "trackio", stand_in)
    code, out, _ = track(*logs, "--to", "trackio", "--project", "mine")
    assert code == 0 and out.startswith("18 numbers of 2 runs")
    logged = [("log", step, numbers) for step, numbers in NUMBERS.items()]
    assert calls[0] == ("init", {"project": "mine", "name": "nano, seed 3", "config": {}})
    assert calls[1:4] == [*logged, ("finish",)]
    assert calls[4][1]["name"] == "nano, seed 3 #2" and calls[4][1]["config"]["lr"] == 0.00123
    assert calls[5:] == [*logged, ("finish",)]


def test_without_the_package_or_where_it_refuses_there_is_one_message(tmp_path, logs, track, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for words, package in ((("trackio",), "trackio"), (("tensorboard", "--out", tmp_path), "tensorboard")):
        code, _, err = track(logs[0], "--to", *words)
        assert code == 2 and f"The package {package} is not installed: pip install {package}." in err

    def refuse(**_):
        raise RuntimeError("no space")

    monkeypatch.setitem(sys.modules, "trackio", types.SimpleNamespace(init=refuse))
    code, _, err = track(logs[0], "--to", "trackio")
    assert code == 2 and "trackio failed (RuntimeError: no space)." in err


@pytest.mark.parametrize(
    "words",
    [
        ("tensorboard",),
        ("trackio", "--out", "x"),
        ("tensorboard", "--out", "x", "--project", "y"),
        ("excel",),
    ],
)
def test_options_that_do_not_go_together_are_refused(logs, track, words):
    code, _, err = track(logs[0], "--to", *words)
    assert code == 2 and "Traceback" not in err


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path, logs, track):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    (tmp_path / "file").write_text("")
    code, _, err = track(logs[0], "--to", "tensorboard", "--out", tmp_path / "file" / "x")
    assert code == 2 and "Traceback" not in err
