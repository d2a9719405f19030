import hashlib
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rwkvclip_models import (
    RWKVCLIP,
    CheckpointError,
    checkpoint_sha256,
    load_model,
    read_checkpoint,
    save_checkpoint,
)


class Executes:
    """Touches a file when unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def model(nano_config):
    return load_model(nano_config, seed=1)


def assert_same_weights(state, expected):
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_saved_weights_come_back(nano_config, model, tmp_path, suffix):
    path = tmp_path / "sub" / f"model{suffix}"
    save_checkpoint(model, path)
    assert_same_weights(load_model(nano_config, path).state_dict(), model.state_dict())
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_pt_file_is_a_plain_state_dict_as_official_ones_are(model, tmp_path):
    save_checkpoint(model, tmp_path / "model.pt")
    plain = torch.load(tmp_path / "model.pt", weights_only=True)
    assert type(plain) is dict
    assert list(plain) == list(model.state_dict())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_removed(nano_config, model, tmp_path, prefix):
    torch.save({prefix + k: v for k, v in model.state_dict().items()}, tmp_path / "m.pt")
    assert_same_weights(load_model(nano_config, tmp_path / "m.pt").state_dict(), model.state_dict())


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_training_checkpoints_are_unwrapped(nano_config, model, tmp_path, wrapper):
    content = {"epoch": 3, "name": "run", wrapper: model.state_dict(), "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "epoch_3.pt")
    assert_same_weights(load_model(nano_config, tmp_path / "epoch_3.pt").state_dict(), model.state_dict())


def test_averaged_weights_are_taken_on_request(tmp_path):
    last, averaged = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
    torch.save({"model": last, "model_ema": {"module": averaged}}, tmp_path / "c.pt")
    assert read_checkpoint(tmp_path / "c.pt")["w"].tolist() == [0, 0]
    assert read_checkpoint(tmp_path / "c.pt", ema=True)["w"].tolist() == [1, 1]
    torch.save({"model": last}, tmp_path / "d.pt")
    with pytest.raises(CheckpointError, match=r"no averaged \(EMA\) weights. It holds: model"):
        read_checkpoint(tmp_path / "d.pt", ema=True)


def test_bfloat16_tensors_become_the_wanted_dtype(nano_config, model):
    state = {k: v.bfloat16() if "time_decay" in k else v for k, v in model.state_dict().items()}
    loaded = load_model(nano_config, state)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    key = "text_model.blocks.0.att.time_decay"
    assert torch.equal(loaded.state_dict()[key], state[key].float())


def test_a_loaded_model_trains_and_leaves_the_given_weights_alone(nano_config, model):
    state = {k: v.clone() for k, v in model.state_dict().items()}
    loaded = load_model(nano_config, state)
    assert not loaded.training
    assert all(p.requires_grad and p.is_leaf for p in loaded.parameters())
    with torch.no_grad():
        loaded.logit_scale.zero_()
    assert float(state["logit_scale"]) != 0


def test_every_misfit_is_listed_at_once(nano_config, model):
    state = dict(model.state_dict())
    for layer in (0, 1):
        del state[f"text_model.blocks.{layer}.att.gate.weight"]
    state["visual.proj"] = torch.zeros(2)
    state["image_model.pos_embed"] = torch.zeros(1, 4, 32)
    with pytest.raises(CheckpointError) as caught:
        load_model(nano_config, state)
    text = str(caught.value)
    assert "Missing (2): text_model.blocks.{0,1}.att.gate.weight." in text
    assert "Unexpected (1): visual.proj." in text
    assert "image_model.pos_embed is [1, 4, 32], expected [1, 16, 32]" in text


def test_the_configuration_that_fits_is_named(official):
    state = {k: torch.empty(s, device="meta") for k, s in official.manifest("B16").items()}
    with pytest.raises(CheckpointError, match="weights fit the configuration 'rwkv-clip-b16'"):
        load_model("rwkv-clip-b32", state)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(nano_config, model, value):
    model.text_model.blocks[1].ln1.weight.data[3] = value
    with pytest.raises(CheckpointError, match=r"NaN or infinity in 1 tensors: text_model\.blocks\.1\.ln1"):
        load_model(nano_config, model.state_dict())


def test_a_file_that_would_execute_code_is_refused_and_executes_nothing(nano_config, model, tmp_path):
    touched = tmp_path / "touched"
    torch.save({"state_dict": model.state_dict(), "extra": Executes(touched)}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="could execute code: refused"):
        load_model(nano_config, tmp_path / "m.pt")
    assert not touched.exists()


def write_html(path):
    path.write_text("\n<!DOCTYPE html><html><body>Sign in</body></html>")


def write_truncated_pt(path):
    torch.save({"w": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def write_truncated_legacy_pt(path):
    torch.save({"w": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:2000])


def write_truncated_safetensors(path):
    save_file({"w": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def write_torchscript(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)


BAD_FILES = [
    (write_html, "is a web page"),
    (write_torchscript, "is a TorchScript program"),
    (write_truncated_pt, "damaged or cut short"),
    (write_truncated_legacy_pt, "damaged"),
    (write_truncated_safetensors, "damaged or cut short"),
    (lambda p: p.write_bytes(b""), "is empty"),
    (lambda p: p.write_bytes(b"\x00" * 600), "neither a PyTorch nor a safetensors file"),
    (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0"), "git lfs pull"),
    (lambda p: p.mkdir(), "is a folder"),
    (lambda p: None, "No checkpoint at"),
    (lambda p: torch.save([1, 2], p), "holds no weights"),
    (lambda p: torch.save({"epoch": 1}, p), "holds no weights.*It holds: epoch"),
]


@pytest.mark.parametrize(("write", "message"), BAD_FILES)
def test_a_file_that_is_no_checkpoint_is_one_clear_error(tmp_path, write, message):
    path = tmp_path / "model.pt"
    write(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_safetensors_are_known_by_content_not_by_name(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "weights.pt")
    assert read_checkpoint(tmp_path / "weights.pt")["w"].tolist() == [1, 1]


@pytest.mark.parametrize("address", ["hf://owner/repo", "hf://owner", "hf://owner//file"])
def test_hub_addresses_of_another_form_are_refused(address):
    with pytest.raises(CheckpointError, match="Expected hf://owner/repo/file"):
        read_checkpoint(address)


def test_a_hub_file_absent_from_the_cache_is_not_fetched_offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="fetching is switched off"):
        read_checkpoint("hf://owner/absent-repo/model.pt", offline=True)


def test_the_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "f.pt").write_bytes(b"abc")
    assert checkpoint_sha256(tmp_path / "f.pt") == hashlib.sha256(b"abc").hexdigest()


def test_saving_refuses_other_suffixes_and_unwritable_places(model, tmp_path):
    with pytest.raises(CheckpointError, match=r"\.safetensors or \.pt"):
        save_checkpoint(model, tmp_path / "model.bin")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Cannot write"):
        save_checkpoint(model, tmp_path / "file" / "model.pt")


def test_pretrained_folders_round_trip(model, tmp_path):
    model.save_pretrained(tmp_path / "hub")
    assert {p.name for p in (tmp_path / "hub").iterdir()} >= {"config.json", "model.safetensors"}
    assert json.loads((tmp_path / "hub" / "config.json").read_text()) == model.config.to_dict()
    again = RWKVCLIP.from_pretrained(tmp_path / "hub")
    assert_same_weights(again.state_dict(), model.state_dict())
    assert not again.training


def test_importing_the_package_does_not_import_torch():
    names = "rwkvclip_models, rwkvclip_models.errors, rwkvclip_models.resources"
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
    )


def test_an_archive_cut_to_its_first_bytes_is_damaged_and_not_called_unsafe(tmp_path):
    path = tmp_path / "cut.pt"
    path.write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)
