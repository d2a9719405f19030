"""A run that anything stops goes on as if nothing had: the same bytes, by the real command line."""

import json
import signal
import subprocess
import time

import pytest
import torch
from safetensors.torch import load_file
from train_runs import (
    Run,
    environment,
    keys_done,
    left_by,
    lines,
    train_command,
    wait_for_step,
    write_recipe,
)


def run(*arguments, output, **given):
    code, said = Run(*arguments, output=output, **given).wait()
    assert code == 0, said
    return said


def test_a_run_killed_at_any_step_ends_with_the_same_bytes(tmp_path):
    recipe = write_recipe(tmp_path, steps=20, checkpoint_every=6)
    run(recipe, "--out", tmp_path / "whole", output=tmp_path / "said")
    cut = tmp_path / "cut"
    for step, num_workers in ((3, 1), (7, 0), (12, 2), (19, 1)):
        killed = Run(
            *(recipe, "--out", cut, "--num-workers", num_workers), output=tmp_path / "said", dies_at=step
        )
        code, said = killed.wait()
        assert code == -signal.SIGKILL, said
        assert keys_done(cut) == step - 1
    run(recipe, "--out", cut, output=tmp_path / "said")
    assert left_by(cut) == left_by(tmp_path / "whole")
    assert len(lines(cut)) == keys_done(cut) == 20


DIES = """
import os, signal, sys
from rwkvclip_train import log
real = log.RunLog.keys
def keys(self, step, *rest):
    if step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, step, *rest)
log.RunLog.keys = keys
from rwkvclip_train.__main__ import main
main()
"""


@pytest.mark.slow
def test_kill_9_at_five_steps_with_other_workers_each_time_changes_no_byte(tmp_path):
    recipe = write_recipe(tmp_path)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(train_command(recipe, "--out", whole), env=environment(), check=True)
    for step, num_workers in ((7, 1), (19, 3), (33, 0), (48, 2), (55, 4)):
        script = ["-c", DIES.format(step=step)]
        command = train_command(recipe, "--out", cut, "--num-workers", num_workers)
        command[1:3] = script
        assert subprocess.run(command, env=environment(), check=False).returncode == -signal.SIGKILL
        assert keys_done(cut) == step - 1
    subprocess.run(train_command(recipe, "--out", cut, "--num-workers", 1), env=environment(), check=True)
    assert left_by(cut) == left_by(whole)
    assert len(lines(cut)) == keys_done(cut) == 60


@pytest.mark.parametrize(("options", "expected"), [((), 143), (("--sigterm-exit", "0"), 0)])
def test_sigterm_saves_the_step_that_it_logged_last_and_the_run_goes_on_from_it(tmp_path, options, expected):
    recipe = write_recipe(tmp_path, steps=20, checkpoint_every=8, log_every=5)
    out = tmp_path / "out"
    started = Run(recipe, "--out", out, *options, output=tmp_path / "said", slow_s=0.02)
    wait_for_step(out, 10)
    for _ in range(3):
        started.signal(signal.SIGTERM)
        time.sleep(0.001)
    code, said = started.wait()
    assert code == expected, said
    state = torch.load(out / "models" / "tiny" / "resume.pt", weights_only=True)
    step = state["progress"]["step"]
    assert 10 <= step < 20
    assert f"stopped after step {step} of 20, which is saved" in " ".join(said.split())
    assert step == keys_done(out) == lines(out)[-1]["step"]
    assert (out / "models" / "tiny" / f"step_{step:06d}.safetensors").exists()

    run(recipe, "--out", out, output=tmp_path / "said")
    run(recipe, "--out", tmp_path / "whole", output=tmp_path / "said")
    one, other = left_by(out), left_by(tmp_path / "whole")
    assert [line for line in one.pop("log") if line["step"] != step or step % 5 == 0] == other.pop("log")
    assert one == other


def test_a_second_run_into_the_same_folder_is_refused(tmp_path):
    recipe = write_recipe(tmp_path, steps=20)
    first = Run(recipe, "--out", tmp_path / "out", output=tmp_path / "first", slow_s=0.05)
    wait_for_step(tmp_path / "out", 1)
    code, said = Run(recipe, "--out", tmp_path / "out", output=tmp_path / "second").wait()
    assert code == 2
    assert "Another process is training into" in said
    assert first.wait()[0] == 0
    assert keys_done(tmp_path / "out") == 20


@pytest.mark.parametrize(
    ("room", "named"),
    [(2_000_000, "step_000030.safetensors"), (8_000_000, "resume.pt"), (None, "tiny.jsonl")],
    ids=["weights", "state", "log"],
)
def test_a_file_that_finds_no_room_is_one_message_and_the_last_checkpoint_stays(tmp_path, room, named):
    recipe = write_recipe(tmp_path, steps=30, checkpoint_every=27)
    out = tmp_path / "out"
    code, _ = Run(recipe, "--out", out, output=tmp_path / "said", dies_at=28).wait()
    assert code == -signal.SIGKILL
    before = (out / "models" / "tiny" / "resume.pt").read_bytes()
    if room is None:
        # The largest of what is written before the first checkpoint.
        room = (out / "training" / "tiny.jsonl").stat().st_size + 100
    code, said = Run(recipe, "--out", out, output=tmp_path / "said", most_file_bytes=room).wait()
    assert code == 2, said
    assert said.count("Error:") == 1
    assert named in said.replace("\n", "")
    assert "Traceback" not in said
    assert (out / "models" / "tiny" / "resume.pt").read_bytes() == before
    assert not list(out.rglob("*.tmp"))

    run(recipe, "--out", out, output=tmp_path / "said")
    run(recipe, "--out", tmp_path / "whole", output=tmp_path / "said")
    assert left_by(out) == left_by(tmp_path / "whole")


def test_the_last_checkpoints_and_the_best_stay(tmp_path):
    recipe = write_recipe(tmp_path, steps=12, checkpoint_every=2, keep_last=2, keep_best=1)
    out = tmp_path / "out"
    run(recipe, "--out", out, output=tmp_path / "said")
    losses = [line["loss"] for line in lines(out)]
    means = {step: sum(losses[step - 2 : step]) / 2 for step in range(2, 13, 2)}
    best = min((2, 4, 6, 8), key=lambda step: means[step])
    kept = sorted(path.name for path in (out / "models" / "tiny").glob("*.safetensors"))
    # The best of all may be one of the last.
    overall = min(means, key=means.__getitem__)
    expected = {10, 12} | ({best} if overall == best else {overall})
    assert kept == [f"step_{step:06d}.safetensors" for step in sorted(expected)]


def test_a_record_says_which_samples_each_step_took(tmp_path):
    from rwkvclip_train.order import GlobalOrder, batch_keys, keys_digest

    run(write_recipe(tmp_path, steps=3), "--out", tmp_path / "out", output=tmp_path / "said")
    found = (tmp_path / "out" / "training" / "tiny.keys").read_text().splitlines()
    from rwkvclip_eval.data.embedded import digits_samples

    order = GlobalOrder(len(digits_samples("train")), 8, 0)
    for step, line in enumerate(found):
        keys = torch.tensor(batch_keys(order, step)).numpy()
        assert line == f"{step + 1} 0 {keys_digest(keys[:, 0], keys[:, 1]):016x}"


def test_an_export_is_the_state_dict_that_the_official_code_loads(tmp_path):
    from train_runs import TINY

    from rwkvclip_models import load_model

    run(write_recipe(tmp_path, steps=1), "--out", tmp_path / "out", output=tmp_path / "said")
    weights = tmp_path / "out" / "models" / "tiny" / "step_000001.safetensors"
    target = tmp_path / "mine.pt"
    command = train_command("export", weights, target)[:-1]
    done = subprocess.run(command, env=environment(), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    exported = torch.load(target, weights_only=True)
    assert exported.keys() == load_model(TINY, target).state_dict().keys()
    saved = load_file(weights)
    assert all(torch.equal(exported[key], saved[key]) for key in saved)
    assert json.loads((tmp_path / "out" / "models" / "tiny" / "tiny.json").read_text()) == TINY
