"""`rwkvclip-eval published`, and docs/published.md, whose commands are executed."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
import pytest
import torch
from rich.console import Console
from toy import write_shards

from rwkvclip_eval import console
from rwkvclip_eval.encoders import open_clip as adapter
from rwkvclip_eval.records.published import COLUMNS, read_published

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., tuple[int, str, str]]

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "published.md").read_text(encoding="utf-8")


def listed(run: Run, *options: str) -> list[dict[str, str]]:
    code, out, err = run("published", *options)
    assert code == 0, err
    head, *lines = [line.split("\t") for line in out.splitlines()]
    assert head == list(COLUMNS)
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_a_pipe_gets_every_column_of_every_row(run: Run) -> None:
    assert listed(run) == [row.model_dump() for row in read_published()]


def test_rows_are_chosen_by_method_task_dataset_and_metric_whatever_their_case(run: Run) -> None:
    rows = listed(
        run, "--method", "rwkv-clip", "--method", "ALIP", "--dataset", "CIFAR10", "--dataset", "dtd"
    )
    assert {(r["method"], r["dataset"]) for r in rows} == {
        (method, dataset) for method in ("RWKV-CLIP", "ALIP") for dataset in ("cifar10", "dtd")
    }
    # ALIP's linear probes.
    assert len(rows) == 6
    tasks = listed(run, "--method", "ALIP", "--dataset", "dtd", "--task", "linear_probe")
    assert [r["value"] for r in tasks] == ["71.7"]
    recalls = listed(run, "--method", "RWKV-CLIP", "--metric", "text_retrieval_recall@1")
    assert {r["dataset"] for r in recalls} == {"flickr30k", "mscoco_captions"}


def test_a_dataset_goes_by_any_of_its_names_and_by_its_version(run: Run) -> None:
    every = {r["dataset"] for r in listed(run, "--dataset", "SUN397")}
    assert every == {"sun397", "sun397@full"}
    assert {r["dataset"] for r in listed(run, "--dataset", "sun397@full")} == {"sun397@full"}
    assert {r["dataset"] for r in listed(run, "--dataset", "StanfordCars")} == {"cars"}


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("CIFAR-10", "cifar10"),
        ("cifar 10", "cifar10"),
        ("Food-101", "food101"),
        ("Food_101", "food101"),
        ("Tiny ImageNet", "tiny_imagenet"),
        ("ImageNet-V2", "imagenet_v2"),
        ("Oxford-IIIT Pets", "pets"),
        ("FGVC Aircraft", "aircraft"),
        ("SUN397@Full", "sun397@full"),
        ("MSCOCO", "mscoco_captions"),
    ],
)
def test_a_dataset_goes_by_its_titles_however_they_are_written(run: Run, written: str, name: str) -> None:
    if name == "tiny_imagenet":  # no published row is of it
        assert "Unknown published dataset 'tiny_imagenet'" in run("published", "--dataset", written)[2]
        return
    found = {row["dataset"].partition("@")[0] for row in listed(run, "--dataset", written)}
    assert found == {name.partition("@")[0]}


@pytest.mark.parametrize(
    ("option", "name", "meant"),
    [
        ("--method", "RWKV-CLP", "'RWKV-CLIP'"),
        ("--method", "open_clip:vit-b-32=openia", "'open_clip:ViT-B-32=openai'"),
        ("--task", "linear_prob", "'linear_probe'"),
        ("--dataset", "cifra10", "'cifar10'"),
        ("--dataset", "sun397@ful", "'sun397@full'"),
        ("--metric", "top1-accuracy", "'top1_accuracy'"),
        ("--model", "rwkv-clip-b23", "'rwkv-clip-b32'"),
    ],
)
def test_an_unknown_name_is_answered_with_what_is_near(run: Run, option: str, name: str, meant: str) -> None:
    code, out, err = run("published", option, name)
    assert (code, out) == (2, "")
    assert re.search(rf"Unknown .*Did you mean .*{re.escape(meant)}", err)


def test_a_model_has_the_rows_that_may_be_of_it(run: Run) -> None:
    rows = listed(run, "--model", "some/folder/x.json=y.pt", "--model", "rwkv-clip-b32=some/folder/m.pt")
    assert {(r["method"], r["backbone"]) for r in rows} == {("RWKV-CLIP", "B/32")}
    assert len(rows) == 25
    several = listed(run, "--model", "clip-vit-b32=m.pt", "--dataset", "dtd", "--task", "linear_probe")
    assert {"YFCC15M", "LAION30M", "RealSyn15M", "WIT400M"} <= {r["pretrain_data"] for r in several}


def test_where_nothing_fits_all_that_was_asked_for_it_is_said(run: Run) -> None:
    code, out, err = run("published", "--method", "RWKV-CLIP", "--dataset", "mnist")
    assert (code, out) == (0, "\t".join(COLUMNS) + "\n")
    assert re.search(
        r"Of \d+ published numbers none is of all that was asked for; \d+ are of the method, ", err
    )


def test_a_terminal_shows_what_was_read_from_a_figure_with_a_tilde(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = io.StringIO()
    monkeypatch.setattr(console, "_out", Console(file=sent, force_terminal=True, width=250))
    assert run("published", "--task", "linear_probe", "--dataset", "dtd")[0] == 0
    lines = {line.split("│")[0].strip(): line for line in sent.getvalue().splitlines() if "│" in line}
    by_eye = lines["CLIP (RealSyn run) ViT-B/32, RealSyn15M"]
    assert " ~71.3 " in by_eye and "(read from figure); protocol unknown" in by_eye
    assert " 71.7 " in lines["ALIP ViT-B/32, YFCC15M"]
    assert "protocol clip-lbfgs" in lines["MLCD ViT-B/32, COYO700M"]


def test_a_folder_that_does_not_fit_ends_the_command_with_its_lines(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("task,method\n")
    for command in (("published",), ("report", tmp_path)):
        code, out, err = run(*command, "--published", tmp_path)
        assert code == 2 and not out
    code, _, err = run("published", "--published", tmp_path)
    assert f"{tmp_path / 'x.csv'}:1: the column 'backbone' is missing" in err


def block(marker: str) -> str:
    """Return the fenced text after the comment `<!-- test: MARKER -->`."""
    found = re.search(rf"<!-- test: {marker} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found, marker
    return found[1]


SMALL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small model in the place of released weights, which are not to be had without a network."""
    torch.manual_seed(0)
    torch.save(open_clip.CLIP(**SMALL).state_dict(), tmp_path / "small.pt")
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: json.loads(json.dumps(SMALL)))
    monkeypatch.setattr(adapter, "_weights_file", lambda *_, **__: tmp_path / "small.pt")


def test_every_command_of_the_page_runs(
    run: Run, released: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "DATA", "cifar10", "test", [label % 10 for label in range(20)], 100)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (tmp_path / "DATA" / "wds_cifar10" / "classnames.txt").write_text("\n".join(names))
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "mine.csv").write_text(block("own paper"))
    commands = [
        shlex.split(line.partition(" | ")[0])
        for shell in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
        for line in shell.splitlines()
    ]
    assert len(commands) == 12
    said = {}
    for program, *arguments in commands:
        assert program == "rwkvclip-eval"
        # 24 of the suite's 25 sets are not there, and the other is a part of its set.
        incomplete = "conformance" in arguments or "--conformance" in arguments
        code, out, err = run(*arguments)
        assert code == (3 if incomplete and arguments[0] != "data" else 0), (arguments, err)
        said[shlex.join(arguments)] = out + err
    compared = said["published --conformance runs/conformance"]
    assert "open_clip:ViT-B-32=openai\tcifar10\ttop-1\t89.83\t" in compared
    assert "a part of the set (20 judged); class names are the data's own" in compared
    assert said["published --method 'My method' --published papers"].count("My method") == 2
    report = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "## Conformance" in report and "No number could be judged." in report


def test_the_mistakes_that_the_page_shows_are_told_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "papers").mkdir()
    head, first, second = block("own paper").splitlines()
    wrong = [first.replace("81.3", "813"), second.replace("unknown", "standards", 1)]
    (tmp_path / "papers" / "mine.csv").write_text("\n".join([head, *wrong]))
    code, _, err = run("published", "--published", "papers")
    assert code == 2
    assert err == f"Error: {block('mistakes')}"


def test_the_numbers_that_the_page_states_are_those_of_the_code() -> None:
    from rwkvclip_eval.report.conformance import ALLOWED_IMAGES, ALLOWED_POINTS

    assert f"by at most {ALLOWED_POINTS} point, or by what two images count" in " ".join(PAGE.split())
    assert ALLOWED_IMAGES == 2
