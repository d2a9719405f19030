"""The page on training data: its ten commands run, and it names what there is."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from pair_files import jpeg

from rwkvclip_eval.cli import main as evaluation
from rwkvclip_eval.data.reading import MAX_PIXELS
from rwkvclip_train import cli as training
from rwkvclip_train.data.index import PAIR, SPAN
from rwkvclip_train.data.source import LONGEST

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "training-data.md").read_text(encoding="utf-8")
OWN = PAGE.partition("## Train on your pairs")[2]


def blocks(language, text=PAGE):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def images(folder, count, first):
    folder.mkdir(parents=True)
    rows = [f"{i}.jpg,a picture of number {first + i}\n" for i in range(count)]
    for i in range(count):
        (folder / f"{i}.jpg").write_bytes(jpeg(first + i))
    (folder / "pairs.csv").write_text("image,caption\n" + "".join(rows))


def test_the_ten_commands_lead_from_pairs_to_a_report(tmp_path, monkeypatch, no_pdf):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RWKVCLIP_EVAL_CACHE", str(tmp_path / "cache"))
    images(tmp_path / "pairs" / "train", 12, 0)
    images(tmp_path / "pairs" / "test", 4, 100)
    Path("pairs/train/3.jpg").write_bytes(jpeg(3)[:300])
    recipe, suite = blocks("yaml", OWN)
    shorter = {"steps: 600": "steps: 2", "batch_size: 64": "batch_size: 4", "step_000600": "step_000002"}
    shorter |= {"--step 100": "--step 1", "--size 64 --images 64": "--size 16 --images 4 --rounds 1"}
    [commands] = blocks("bash", OWN)
    for old, new in shorter.items():
        assert old in recipe + commands
        recipe, commands = recipe.replace(old, new), commands.replace(old, new)
    Path("mine.yaml").write_text(recipe)
    Path("held-out.yaml").write_text(suite)
    lines = commands.splitlines()
    assert len(lines) == 10
    codes = []
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        with pytest.raises(SystemExit) as left:
            (training if program == "rwkvclip-train" else evaluation).main()
        codes.append(left.value.code)
    assert codes == [0, 1, *[0] * 8]
    assert Path("broken.txt").read_text().startswith("pairs.csv:3.jpg\t")
    assert "pairs.csv:3.jpg" not in Path("step.html").read_text()
    assert Path("report/index.html").is_file()


def test_the_page_names_every_command_limit_and_size():
    commands = {command.name for command in training.data_app.registered_commands}
    assert set(re.findall(r"rwkvclip-train data ([a-z]+)", PAGE)) == commands
    assert f"more than {MAX_PIXELS:,} pixels" in PAGE
    assert f"longer than {LONGEST:,} characters" in PAGE
    assert f"has {PAIR.itemsize} bytes a pair" in PAGE
    assert f"`spans.bin` {SPAN.itemsize} bytes a text" in PAGE
