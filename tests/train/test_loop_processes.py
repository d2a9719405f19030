"""Several processes, and passes of one, take one step together: equal gradients, one fate, one message."""

import signal
import socket
import subprocess
import time

import pytest
import torch
from safetensors.torch import load_file
from train_runs import (
    Run,
    environment,
    free_port,
    import_all,
    keys_done,
    lines,
    ranks,
    train_command,
    wait_for_step,
    write_recipe,
)

from rwkvclip_train import loop
from rwkvclip_train.loop import train
from rwkvclip_train.recipe import load_recipe

OPEN_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
MODELS = {"rwkv-clip": {}, "open_clip": {"model": {"family": "open_clip", "config": OPEN_CLIP}}}


def gradients(folder, num_processes, **changes):
    """Return the loss of the last step, and name → gradient as the optimizer is handed it in each process."""
    import_all()
    recipe = write_recipe(folder, **{"steps": 2, "precision": "fp64", "clip_norm": 1e9} | changes)
    started = ranks(
        num_processes, recipe, "--out", folder / "out", output=folder / "said", keep_gradients=folder
    )
    for one in started:
        code, said = one.wait()
        assert code == 0, said
    found = [torch.load(folder / f"gradients.{rank}.pt") for rank in range(num_processes)]
    for other in found[1:]:
        assert all(torch.equal(other[name], found[0][name]) for name in found[0])
    return lines(folder / "out")[-1]["loss"], found[0]


def largest_difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("family", MODELS)
def test_processes_and_passes_give_the_gradients_of_the_whole_batch(tmp_path, family):
    loss, whole = gradients(tmp_path / "whole", 1, **MODELS[family])
    assert max(float(gradient.abs().max()) for gradient in whole.values()) > 1e-3
    for num_processes, num_passes in ((2, 1), (4, 1), (1, 2), (1, 4), (2, 2)):
        folder = tmp_path / f"{num_processes}x{num_passes}"
        other, parts = gradients(folder, num_processes, accumulation=num_passes, **MODELS[family])
        assert other == pytest.approx(loss, abs=1e-12)
        assert largest_difference(whole, parts) < 1e-10
        keys = [f / "out" / "training" / "tiny.keys" for f in (folder, tmp_path / "whole")]
        assert keys[0].read_bytes() == keys[1].read_bytes()


def test_checkpointed_activations_give_the_same_gradients(tmp_path):
    _, whole = gradients(tmp_path / "whole", 1)
    _, again = gradients(tmp_path / "again", 1, activation_checkpointing=True)
    assert largest_difference(whole, again) < 1e-12


def test_official_towers_have_one_over_world_size_of_the_gradients_and_the_logit_scale_all(tmp_path):
    _, whole = gradients(tmp_path / "whole", 1, steps=1)
    quirks = {"tower_gradients_over_world_size": True}
    for num_processes in (1, 2):
        folder = tmp_path / f"official-{num_processes}"
        _, official = gradients(folder, num_processes, steps=1, world_size=2, quirks=quirks)
        for name, gradient in official.items():
            factor = 1.0 if name == "logit_scale" else 0.5
            torch.testing.assert_close(gradient, factor * whole[name], rtol=1e-9, atol=1e-12)


def test_a_locked_tower_stays_and_the_other_learns_in_two_processes(tmp_path):
    code, said = Run(
        write_recipe(tmp_path, steps=1), "--out", tmp_path / "first", output=tmp_path / "said"
    ).wait()
    assert code == 0, said
    first = tmp_path / "first" / "models" / "tiny" / "step_000001.safetensors"
    recipe = write_recipe(tmp_path, steps=2, init=str(first), lock=["image"], accumulation=2)
    for one in ranks(2, recipe, "--out", tmp_path / "out", output=tmp_path / "said"):
        code, said = one.wait()
        assert code == 0, said
    before, after = (
        load_file(first),
        load_file(tmp_path / "out" / "models" / "tiny" / "step_000002.safetensors"),
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not any(name.startswith("image_model.") for name in moved)


def test_a_locked_text_tower_keeps_the_weights_that_official_parameters_would_round(tmp_path):
    code, said = Run(
        write_recipe(tmp_path, steps=3), "--out", tmp_path / "first", output=tmp_path / "said"
    ).wait()
    assert code == 0, said
    first = tmp_path / "first" / "models" / "tiny" / "step_000003.safetensors"
    before = load_file(first)
    decays = [name for name in before if name.startswith("text_model.") and name.endswith("time_decay")]
    assert any(not torch.equal(before[name], before[name].bfloat16().float()) for name in decays)
    recipe = write_recipe(tmp_path, steps=1, init=str(first), lock=["text"], flavour="official")
    code, said = Run(recipe, "--out", tmp_path / "out", output=tmp_path / "said").wait()
    assert code == 0, said
    after = load_file(tmp_path / "out" / "models" / "tiny" / "step_000001.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("text_model."))


def test_two_processes_killed_at_step_20_go_on_as_one(tmp_path):
    recipe = write_recipe(tmp_path, steps=30)
    code, said = Run(recipe, "--out", tmp_path / "whole", output=tmp_path / "said").wait()
    assert code == 0, said
    out = tmp_path / "out"
    for one in ranks(2, recipe, "--out", out, output=tmp_path / "said", dies_at={0: 21, 1: 21}):
        assert one.wait()[0] != 0
    assert keys_done(out) == 20
    code, said = Run(recipe, "--out", out, output=tmp_path / "said").wait()
    assert code == 0, said
    for one, other in zip(lines(out), lines(tmp_path / "whole"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
    keys = [folder / "training" / "tiny.keys" for folder in (out, tmp_path / "whole")]
    assert keys[0].read_bytes() == keys[1].read_bytes()


def test_when_one_of_two_is_killed_the_other_ends_and_the_last_checkpoint_loads(tmp_path):
    recipe = write_recipe(tmp_path, steps=30, checkpoint_every=5)
    out = tmp_path / "out"
    started = time.monotonic()
    leader, other = ranks(2, recipe, "--out", out, output=tmp_path / "said", dies_at={1: 13})
    assert other.wait()[0] == -signal.SIGKILL
    code, said = leader.wait(60)
    assert time.monotonic() - started < 60
    assert code not in (0, 143)
    assert "lost the others" in said
    assert "Traceback" not in said
    assert "FutureWarning" not in said
    code, said = Run(recipe, "--out", out, output=tmp_path / "said").wait()
    assert code == 0, said
    assert [line["step"] for line in lines(out)] == list(range(1, 31))


def test_sigterm_to_one_of_two_stops_both_after_one_step(tmp_path):
    recipe = write_recipe(tmp_path, steps=40)
    out = tmp_path / "out"
    started = ranks(2, recipe, "--out", out, output=tmp_path / "said", slow_s=0.02)
    wait_for_step(out, 5)
    started[1].signal(signal.SIGTERM)
    assert [one.wait()[0] for one in started] == [143, 143]
    step = keys_done(out)
    assert 5 <= step < 40
    assert (out / "models" / "tiny" / f"step_{step:06d}.safetensors").exists()


def test_two_processes_twice_into_one_folder_are_refused_with_one_message(tmp_path):
    recipe = write_recipe(tmp_path, steps=30)
    out = tmp_path / "out"
    first = ranks(2, recipe, "--out", out, output=tmp_path / "first", slow_s=0.05)
    wait_for_step(out, 2)
    ends = [one.wait() for one in ranks(2, recipe, "--out", out, output=tmp_path / "second")]
    assert all(code != 0 for code, _ in ends)
    assert sum(said.count("Another process is training into") for _, said in ends) == 1
    # Where torch was loaded before, as here, its own log may tell of the peer that ended first.
    assert sum(said.count("Error: ") for _, said in ends) == 1
    assert [one.wait()[0] for one in first] == [0, 0]
    assert keys_done(out) == 30


def test_an_error_of_all_processes_is_one_message(tmp_path):
    recipe = write_recipe(tmp_path, batch_size=9)
    ends = [one.wait() for one in ranks(2, recipe, "--out", tmp_path / "out", output=tmp_path / "said")]
    assert [code for code, _ in ends] == [2, 2]
    assert sum(said.count("cannot be shared equally by 2 processes") for _, said in ends) == 1


def test_a_port_in_use_is_one_message(tmp_path):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        environ = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        recipe = write_recipe(tmp_path)
        code, said = Run(recipe, "--out", tmp_path / "out", output=tmp_path / "said", environ=environ).wait()
    assert code == 2
    assert f"Port {port} is in use" in said
    assert said.count("Error") == 1


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "ranks count from 0"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK must be a whole number"),
    ],
)
def test_an_environment_that_says_nonsense_is_one_message(tmp_path, environ, said):
    environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    code, output = Run(
        write_recipe(tmp_path), "--out", tmp_path / "out", output=tmp_path / "said", environ=environ
    ).wait()
    assert code == 2
    assert said in output


def test_a_world_size_of_a_job_scheduler_alone_starts_one_process(tmp_path):
    recipe = write_recipe(tmp_path, steps=1)
    environ = {"WORLD_SIZE": "4", "RANK": "3"}
    code, said = Run(recipe, "--out", tmp_path / "out", output=tmp_path / "said", environ=environ).wait()
    assert code == 0, said


def test_processes_that_see_other_folders_are_refused(tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path, steps=1)
    port = str(free_port())
    started = [
        Run(
            *(recipe, "--out", tmp_path / "out", "--seed", rank),
            output=tmp_path / f"said.{rank}",
            environ={"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        )
        for rank in range(2)
    ]
    ends = [one.wait() for one in started]
    assert all(code == 2 for code, _ in ends)
    assert sum(said.count("sees another run than rank 0") for _, said in ends) == 1


@pytest.mark.slow
def test_torchrun_with_two_processes_twice_into_one_folder_never_runs_two_copies(tmp_path):
    recipe = write_recipe(tmp_path, steps=600, checkpoint_every=200)
    out = tmp_path / "out"
    command = train_command(recipe, "--out", out, processes=2)
    first = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for_step(out, 1, 300)
    second = subprocess.run(command, env=environment(), check=False, capture_output=True, text=True)
    assert second.returncode != 0
    assert second.stderr.count("Another process is training into") == 1
    assert first.wait(600) == 0
    assert keys_done(out) == 600
    assert [line["step"] for line in lines(out)] == list(range(1, 601))


def test_train_called_outside_the_main_thread_listens_to_no_signal(tmp_path):
    import threading

    recipe = load_recipe(write_recipe(tmp_path, steps=1))
    left = []
    thread = threading.Thread(target=lambda: left.append(train(recipe, tmp_path / "out", progress=False)))
    thread.start()
    thread.join()
    assert left[0].num_steps == 1
    assert loop.StopSignal().requested is False


def test_when_the_first_of_two_is_killed_the_other_says_so(tmp_path):
    recipe = write_recipe(tmp_path, steps=30, checkpoint_every=5)
    leader, other = ranks(2, recipe, "--out", tmp_path / "out", output=tmp_path / "said", dies_at={0: 13})
    assert leader.wait()[0] == -signal.SIGKILL
    code, said = other.wait(60)
    assert code not in (0, 143)
    assert "lost the others" in said
