import json

import pytest

from rwkvclip_models import ConfigError, RWKVCLIPConfig, config_names, load_config


def test_shipped_configurations_load_by_name():
    assert config_names() == ["rwkv-clip-b16", "rwkv-clip-b32"]
    assert load_config("rwkv-clip-b32").image_patch_size == 32
    assert load_config("rwkv-clip-b16").image_patch_size == 16


def test_shipped_configurations_equal_the_official_ones(official):
    for name, file in (("B32", "rwkv-clip-b32"), ("B16", "rwkv-clip-b16")):
        assert load_config(file) == load_config(official.configs[name])


def test_files_mappings_and_objects_give_the_same(nano_config, tmp_path):
    path = tmp_path / "nano.json"
    path.write_text(json.dumps(nano_config | {"workers": 10, "precision": "bf16", "tiny_att_layer": -999}))
    config = load_config(path)
    assert isinstance(config, RWKVCLIPConfig)
    assert config == load_config(str(path)) == load_config(nano_config) == load_config(config)
    assert load_config(config.to_dict()) == config


def test_widths_left_out_follow_the_embedding(nano_config):
    del nano_config["dim_ffn"]
    config = load_config(nano_config)
    assert (config.dim_att, config.dim_ffn) == (32, 96)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_depth": 0}, "image_depth must be a whole number of at least 1, got 0"),
        ({"n_layer": "6"}, "n_layer must be a whole number"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must be a number in \[0, 1\)"),
        ({"with_cp": 1}, "with_cp must be true or false"),
        ({"image_embed_dims": 64}, r"image_embed_dims \(64\) and n_embd \(32\) must be equal"),
        ({"image_num_heads": 3}, "divisible by 4, got 32 / 3"),
        ({"head_size": 24}, "head_size"),
        ({"image_with_cls_token": True}, "image_with_cls_token = True is not supported"),
        ({"tiny_att_dim": 8}, "tiny_att_dim = 8 is not supported"),
        ({"image_deph": 3}, "'image_deph' is unknown .did you mean 'image_depth'"),
    ],
)
def test_impossible_values_are_refused(nano_config, change, message):
    with pytest.raises(ConfigError, match=message):
        load_config(nano_config | change)


def test_all_missing_keys_are_named_at_once(nano_config):
    del nano_config["n_layer"], nano_config["ctx_len"]
    with pytest.raises(ConfigError, match="ctx_len is missing; n_layer is missing"):
        load_config(nano_config)


def test_unknown_names_suggest_near_ones():
    with pytest.raises(ConfigError, match="Did you mean 'rwkv-clip-b32'"):
        load_config("rwkv-clip-b31")


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_files_that_hold_no_configuration_are_named(tmp_path, content):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ConfigError, match=r"bad\.json"):
        load_config(tmp_path / "bad.json")
