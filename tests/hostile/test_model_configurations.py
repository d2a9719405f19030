"""Model configurations that would run code, fetch, flood or lie: one message that says what came."""

import json
import math
import os
import resource
import warnings
from pathlib import Path

import open_clip
import pytest
import torch

from rwkvclip_eval import as_encoder
from rwkvclip_eval.encoders import load_encoder
from rwkvclip_eval.encoders.open_clip_config import read_open_clip_config
from rwkvclip_eval.errors import CheckpointError, ConfigError, UserError
from rwkvclip_models import limits, load_model
from rwkvclip_train.models import build_trainee
from rwkvclip_train.recipe import ModelRecipe

OPEN_CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 8, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
HUGE = 10**12


def open_clip_config(changes):
    config = json.loads(json.dumps(OPEN_CLIP))
    for key, value in changes.items():
        part, _, name = key.rpartition(".")
        (config[part] if part else config)[name] = value
    return config


@pytest.fixture
def remote_code(tmp_path):
    """A folder in Hugging Face's form whose tokenizer, processor and model bring code of their own."""
    folder = tmp_path / "remote"
    folder.mkdir()
    body = f"import pathlib\npathlib.Path({str(tmp_path / 'PWNED')!r}).touch()\n"
    (folder / "evil.py").write_text(body + "class T:\n    pass\n")
    auto = {"AutoConfig": "evil.T", "AutoModel": "evil.T", "AutoTokenizer": ["evil.T", None]}
    auto["AutoImageProcessor"] = "evil.T"
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["evil.T", None]}})
    )
    return folder


@pytest.mark.parametrize(
    "text_cfg",
    [
        {"hf_tokenizer_name": "DIR"},
        {"hf_tokenizer_name": "DIR", "tokenizer_kwargs": {"trust_remote_code": True}},
        {"hf_tokenizer_name": "DIR", "tokenizer_kwargs": {"clean": "lower", "use_fast": False}},
        {"hf_model_name": "DIR", "hf_tokenizer_name": "DIR"},
        {"hf_model_name": "DIR", "hf_model_pretrained": True},
    ],
)
def test_no_open_clip_configuration_runs_code(tmp_path, monkeypatch, remote_code, text_cfg):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    text_cfg = {key: str(remote_code) if value == "DIR" else value for key, value in text_cfg.items()}
    config = OPEN_CLIP | {"text_cfg": OPEN_CLIP["text_cfg"] | text_cfg}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"trust_remote_code|use_fast|read"):
        load_encoder(f"open_clip:{tmp_path / 'cfg.json'}=random:0", offline=True)
    if "hf_model_name" in text_cfg:
        with pytest.raises(ConfigError):
            build_trainee(ModelRecipe(family="open_clip", config=config), seed=0, device=torch.device("cpu"))
    assert not (tmp_path / "PWNED").exists()


def test_no_hugging_face_folder_runs_code(tmp_path, monkeypatch, remote_code):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ConfigError):
        load_encoder(f"hf:{remote_code}=random:0")
    config = json.loads((remote_code / "config.json").read_text()) | {"model_type": "timm_wrapper"}
    config["model_args"] = {"checkpoint_path": "evil.pt"}
    (remote_code / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError):
        load_encoder(f"hf:{remote_code}=random:0")
    assert not (tmp_path / "PWNED").exists()


OPEN_CLIP_MISTAKES = [
    ({"vision_cfg.layers": HUGE}, "vision_cfg.layers is at most 512, got 1000000000000"),
    ({"text_cfg.layers": 513}, "text_cfg.layers is at most 512, got 513"),
    ({"vision_cfg.width": HUGE}, "vision_cfg.width is at most 32768"),
    ({"text_cfg.vocab_size": HUGE}, "text_cfg.vocab_size is at most 1000000"),
    ({"text_cfg.mlp_ratio": 100_000.0}, "text_cfg.mlp_ratio is at most 64, got 100000.0"),
    ({"vision_cfg.patch_size": 4096}, "vision_cfg.patch_size is at most 512, got 4096"),
    ({"text_cfg.context_length": 32_768}, "text_cfg.context_length is at most 8192, got 32768"),
    ({"vision_cfg.image_size": [4096, 4096], "vision_cfg.patch_size": 1}, "gives 16777216 patches"),
    ({"vision_cfg.image_size": 100_000}, "vision_cfg.image_size is at most 4096"),
    ({"embed_dim": 10**5000}, "embed_dim is at most 32768, got a number of more than 60 digits"),
    ({"embed_dim": -8}, "embed_dim: Input should be greater than or equal to 1 (got -8)"),
    ({"vision_cfg.width": 30_000, "vision_cfg.layers": 500, "vision_cfg.head_width": 1}, "at most 2e+10"),
    ({"vision_cfg.layers": "12"}, "vision_cfg.layers: Input should be a valid"),
    ({"vision_cfg.layers": [1, 2]}, "vision_cfg.layers"),
    ({"vision_cfg": 3}, "vision_cfg: Input should be a valid dictionary (got 3)"),
    ({"text_cfg": None}, "text_cfg: Input should be a valid dictionary (got None)"),
    ({"text_cfg.context_length": 0}, "text_cfg.context_length is at least 3 tokens, got 0"),
    ({"text_cfg.context_length": 2}, "text_cfg.context_length is at least 3 tokens, got 2"),
    ({"vision_cfg.patch_size": 17}, "(16 and 17 px) gives 0 patches; 1 to 65536 are encoded"),
    ({"vision_cfg.image_size": [16, 4]}, "gives 0 patches"),
    ({"quick_gelu": 1}, "quick_gelu: Input should be a valid boolean (got 1)"),
    ({"text_cfg.proj_bias": 1}, "text_cfg.proj_bias: Input should be a valid boolean (got 1)"),
    ({"text_cfg.heads": 0}, "cannot build"),
    ({"text_cfg.heads": 3}, "cannot build"),
    ({"vision_cfg.patch_size": 0}, "vision_cfg.patch_size is at least 1, got 0"),
    ({"vision_cfg.mlp_ratio": 1e300}, "vision_cfg.mlp_ratio is at most 64"),
    ({"init_logit_scale": 1e12}, "init_logit_scale is at most 1e+09"),
    ({"init_logit_scale": 100.0}, "100 it is 4.605 = ln 100, not 100"),
    ({"text_cfg.vocab_size": 100}, "text_cfg.vocab_size: expected 49408 or more, the tokens that CLIP's"),
    ({"text_cfg.vocab_size": None}, "text_cfg.vocab_size: expected 49408 or more, the tokens that CLIP's"),
    ({"vision_cfg.patch_dropout": 1.5}, "vision_cfg.patch_dropout: expected 0 ≤ x < 1 (got 1.5)"),
    ({"vision_cfg.patch_dropout": -0.1}, "vision_cfg.patch_dropout: expected 0 ≤ x < 1 (got -0.1)"),
    ({"vision_cfg.layers": 2.0}, "vision_cfg.layers: Input should be a valid integer (got 2.0)"),
    ({"vision_cfg.patch_dropout": "0.5"}, "vision_cfg.patch_dropout: Input should be a valid number"),
    ({"custom_text": "yes"}, "custom_text: Input should be a valid boolean (got 'yes')"),
    ({"evil": 1}, "evil: Extra inputs are not permitted"),
    ({"text_cfg.evil": 1}, "text_cfg.Unknown key 'evil'"),
    ({"vision_cfg.timm_model_name": "local-dir:/x"}, "Unknown timm model 'local-dir:/x'"),
    ({"vision_cfg.timm_model_name": "hf-hub:a/b"}, "Unknown timm model 'hf-hub:a/b'"),
    ({"text_cfg.tokenizer_kwargs": {"bpe_path": "/dev/zero"}}, "tokenizer_kwargs.bpe_path: Extra inputs"),
    ({"text_cfg.tokenizer_kwargs": {"clean": "x"}}, "tokenizer_kwargs.clean: String should match"),
    ({"text_cfg.hf_tokenizer_name": "x" * 20_000}, "text_cfg.hf_tokenizer_name has at most 10000 characters"),
    (
        {"text_cfg.act_kwargs": {"approximate": "evil"}},
        "text tower on 2 texts (token ids up to 49407)",
    ),
    ({"text_cfg.act_kwargs": {"evil": 1}}, "cannot build"),
]


@pytest.mark.parametrize("changes, said", OPEN_CLIP_MISTAKES)
def test_an_open_clip_configuration_that_is_wrong_is_one_short_message(tmp_path, changes, said):
    # Python itself writes out no whole number of more than 4,300 digits.
    text = json.dumps(open_clip_config(changes), default=str) if 10**5000 not in changes.values() else (
        json.dumps(OPEN_CLIP).replace('"embed_dim": 8', f'"embed_dim": {"9" * 4000}')
    )  # fmt: skip
    (tmp_path / "cfg.json").write_text(text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        load_encoder(f"open_clip:{tmp_path / 'cfg.json'}=random:0", offline=True)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


@pytest.mark.parametrize(
    "preprocess",
    [
        *(3, {"size": 100_000}, {"mean": "x"}, {"evil": 1}, {"size": [1e400]}, {"size": [8, 8, 8]}),
        *({"interpolation": "bogus"}, {"resize_mode": "x"}, {"mode": "L"}, {"fill_color": -1}),
        *({"std": [0, 0, 0]}, {"std": [1, 1]}, {"mean": [0]}),
    ],
)
def test_preprocessing_that_is_wrong_is_one_message(tmp_path, preprocess):
    content = {"model_cfg": OPEN_CLIP, "preprocess_cfg": preprocess}
    (tmp_path / "cfg.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"preprocess_cfg|Infinity"):
        load_encoder(f"open_clip:{tmp_path / 'cfg.json'}=random:0")


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "[" * 100_000, '{"a": NaN}', "\xff", "{}", "null"])
@pytest.mark.parametrize("prefix", ["", "open_clip:"])
def test_a_file_that_holds_no_configuration_is_one_message(tmp_path, prefix, text):
    (tmp_path / "cfg.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        load_encoder(f"{prefix}{tmp_path / 'cfg.json'}=random:0")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("prefix", ["", "open_clip:"])
def test_a_pipe_a_device_and_a_huge_file_are_no_configuration(tmp_path, prefix):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "large.json").write_text("[" + " " * (2 << 20) + "]")
    for name, said in (("pipe", "a named pipe"), ("zero", "a device"), ("large", "at most 1048576 are read")):
        with pytest.raises(ConfigError, match=said):
            load_encoder(f"{prefix}{tmp_path / name}.json=random:0")


def test_every_configuration_of_open_clip_itself_is_allowed():
    files = sorted((Path(open_clip.__file__).parent / "model_configs").glob("*.json"))
    assert len(files) > 100
    for file in files:
        read_open_clip_config(file)


RWKV_MISTAKES = [
    ({"n_layer": HUGE}, "n_layer is at most 512, got 1000000000000"),
    ({"image_depth": 10**9}, "image_depth is at most 512"),
    ({"vocab_size": 10**9}, "vocab_size is at most 1000000"),
    ({"ctx_len": 32_768}, "ctx_len is at most 8192"),
    ({"input_size": 4096, "image_patch_size": 1}, r"\(4096 and 1 px\) gives 16777216 patches; 1 to 65536"),
    (
        {"input_size": 4096, "image_patch_size": 4096, "n_embd": 512, "image_embed_dims": 512},
        "image_patch_size is at most 512, got 4096",
    ),
    (
        {"vocab_size": 1_000_000, "n_embd": 4096, "image_embed_dims": 4096},
        r"about 4.\de\+09 parameters; at most 2e\+09 are built",
    ),
    ({"input_size": 10**6}, "input_size is at most 4096"),
    ({"image_hidden_rate": 10**9}, "image_hidden_rate is at most 32768"),
    ({"n_embd": 2**15, "image_embed_dims": 2**15, "n_layer": 500}, r"parameters; at most 2e\+09 are built"),
    ({"n_embd": "16"}, "n_embd must be a whole number of at least 1, got '16'"),
    ({"n_embd": [16]}, r"n_embd must be a whole number of at least 1, got \[16\]"),
    ({"n_embd": 4, "image_embed_dims": 4, "dim_ffn": 0}, "too small for a dim_ffn|head width"),
    ({"image_patch_size": 32}, "16 and 32 px. gives 0 patches; 1 to 65536 are encoded"),
    ({"ctx_len": 1}, "ctx_len must be a whole number of at least 3, got 1"),
    ({"ctx_len": 2}, "ctx_len must be a whole number of at least 3, got 2"),
    ({"with_cp": 1}, "with_cp must be true or false, got 1"),
    ({"image_with_cls_token": 0}, "image_with_cls_token must be true or false, got 0"),
    ({"x" * 5000: 1}, "is unknown"),
    ({"vocab_size": 100}, "vocab_size is 100; CLIP's tokenizer has 49408 tokens"),
]


@pytest.mark.parametrize("changes, said", RWKV_MISTAKES)
def test_an_rwkv_clip_configuration_that_is_wrong_is_one_short_message(tmp_path, nano_config, changes, said):
    (tmp_path / "cfg.json").write_text(json.dumps(nano_config | changes))
    with pytest.raises(UserError, match=said) as caught:
        load_encoder(f"{tmp_path / 'cfg.json'}=random:0")
    assert len(str(caught.value)) < 1000


CLIP = {
    "model_type": "clip",
    "projection_dim": 8,
    "text_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 99},
    "vision_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 32},
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text_config": {"num_hidden_layers": HUGE}}, "text_config.num_hidden_layers is at most 512"),
        ({"vision_config": {"hidden_size": 10**8}}, "vision_config.hidden_size is at most 32768"),
        ({"text_config": {"num_hidden_layers": -1}}, "text_config.num_hidden_layers is at least 0, got -1"),
        ({"text_config": {"vocab_size": HUGE}}, "text_config.vocab_size is at most 1000000"),
        ({"projection_dim": "x"}, "cannot"),
        ({"text_config": 3}, "cannot read"),
        (
            {"text_config": {"max_position_embeddings": 2}},
            "text_config.max_position_embeddings is at least 3 tokens, got 2",
        ),
        ({"vision_config": {"image_size": 16, "patch_size": 32}}, "gives 0 patches"),
        ({"output_hidden_states": 1}, "output_hidden_states must be true or false, got 1"),
        (
            {"vision_config": {"output_attentions": "yes"}},
            "vision_config.output_attentions must be true or false, got 'yes'",
        ),
        ({"vision_config": {"hidden_size": 7, "num_attention_heads": 2}}, "cannot read"),
        ({"attn_implementation": "owner/kernel"}, "attn_implementation must be eager or sdpa"),
        ({"quantization_config": {"quant_method": "x"}}, "quantized weights cannot be read"),
        ({"model_type": "timm_wrapper", "architecture": "resnet18"}, "is a timm_wrapper model"),
        ({"model_type": 3}, "is a 3 model"),
        ({"model_type": ["clip"]}, "knows the dual encoders"),
        ({"vision_config": {"hidden_size": 24_576, "num_hidden_layers": 500}}, "; at most 2e.10 are built"),
    ],
)  # fmt: skip
def test_a_hugging_face_configuration_that_is_wrong_is_one_short_message(tmp_path, changes, said):
    (tmp_path / "config.json").write_text(json.dumps(CLIP | changes))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError, match=said) as caught:
        load_encoder(f"hf:{tmp_path}=random:0")
    assert len(str(caught.value)) < 2000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


def test_a_few_bytes_of_weights_make_no_large_model(tmp_path):
    from safetensors.torch import save_file

    large = CLIP["vision_config"] | {"hidden_size": 8192, "num_hidden_layers": 20}
    (tmp_path / "config.json").write_text(json.dumps(CLIP | {"vision_config": large}))
    save_file({"logit_scale": torch.zeros(())}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"do not fit config\.json, which describes [\d,]+ parameters"):
        load_encoder(f"hf:{tmp_path}")


def test_an_image_processor_makes_no_huge_image(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CLIP))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 10**6, "width": 10**6}})
    )
    with pytest.raises(ConfigError, match=r"is at most 4096, got 1000000"):
        load_encoder(f"hf:{tmp_path}=random:0")


def test_preprocessing_that_divides_by_zero_is_refused_at_load(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CLIP))
    settings = {"image_processor_type": "CLIPImageProcessor", "image_mean": [0, 0, 0], "image_std": [0, 0, 0]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"image_std must be above 0, got \[0, 0, 0\]"):
        load_encoder(f"hf:{tmp_path}=random:0")
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(settings | {"image_std": 1, "do_normalize": 1})
    )
    with pytest.raises(UserError, match=r"do_normalize must be true or false, got 1"):
        load_encoder(f"hf:{tmp_path}=random:0")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": True}))
    with pytest.raises(UserError, match=r"image_mean must be a list of numbers, got True"):
        load_encoder(f"hf:{tmp_path}=random:0")


def test_a_model_for_which_there_is_no_memory_is_refused_before_it_is_built(monkeypatch):
    monkeypatch.setattr(limits, "free_memory", lambda: 10**9)
    limits.check_memory(250_000_000)
    with pytest.raises(ConfigError, match=r"take 1\.2 GB in float32; 1\.0 GB of memory are free"):
        limits.check_memory(300_000_000)
    monkeypatch.setattr(limits, "free_memory", lambda: None)
    limits.check_memory(300_000_000)


def test_free_memory_is_what_the_system_says():
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = limits.free_memory()
    assert free is None or 0 < free <= pages


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_pipe_in_a_hugging_face_folder_is_not_waited_for(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(CLIP))
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="a named pipe"):
        load_encoder(f"hf:{tmp_path}")


@pytest.mark.parametrize("scale", [100.0, 1000.0, -100.0, 14.3])
def test_a_logit_scale_that_is_no_logarithm_is_refused_at_load(tmp_path, nano_config, scale):
    state = load_model(nano_config).state_dict()
    state["logit_scale"].fill_(scale)
    torch.save(state, tmp_path / "m.pt")
    (tmp_path / "rwkv.json").write_text(json.dumps(nano_config))
    with pytest.raises(UserError, match=r"logit_scale\).*4\.605 = ln 100"):
        load_encoder(f"{tmp_path / 'rwkv.json'}={tmp_path / 'm.pt'}")
    (tmp_path / "cfg.json").write_text(json.dumps(OPEN_CLIP | {"init_logit_scale": scale}))
    with pytest.raises(UserError, match="logit_scale"):
        load_encoder(f"open_clip:{tmp_path / 'cfg.json'}=random:0")
    state = open_clip.CLIP(**OPEN_CLIP).state_dict()
    state["logit_scale"].fill_(scale)
    torch.save(state, tmp_path / "own.pt")
    (tmp_path / "own.json").write_text(json.dumps(OPEN_CLIP))
    with pytest.raises(UserError, match="logit_scale"):
        load_encoder(f"open_clip:{tmp_path / 'own.json'}={tmp_path / 'own.pt'}")


@pytest.mark.parametrize("factor", [1e30, 1e38])
def test_weights_that_overflow_are_refused_at_load(tmp_path, nano_config, factor):
    state = load_model(nano_config).state_dict()
    key = "image_model.patch_embed.projection.weight"
    state[key] = state[key] * factor
    torch.save(state, tmp_path / "m.pt")
    (tmp_path / "rwkv.json").write_text(json.dumps(nano_config))
    with pytest.raises(UserError, match=f"infinity in the .*largest weight is {key}|holds NaN or infinity"):
        load_encoder(f"{tmp_path / 'rwkv.json'}={tmp_path / 'm.pt'}")


class Toy(torch.nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.logit_scale = scale
        self.weight = torch.nn.Parameter(torch.ones(1))

    def encode_image(self, pixels):
        return pixels.flatten(1)[:, :4] + self.weight

    def encode_text(self, tokens):
        return tokens.float()[:, :4] + self.weight


@pytest.mark.parametrize("scale", [math.nan, math.inf, -1.0, 0.0, 1e5, "x"])
def test_a_module_in_memory_with_such_a_scale_is_refused_too(scale):
    with pytest.raises((UserError, ValueError), match=r"logit_scale|could not convert"):
        as_encoder(
            Toy(scale),
            name="toy",
            preprocess=lambda image: torch.ones(3, 8, 8),
            tokenize=lambda texts: torch.ones(len(texts), 4, dtype=torch.int64),
        )


def test_a_transform_that_divides_by_zero_is_refused_before_anything_is_encoded():
    with pytest.raises(UserError, match="preprocess gives NaN or infinity; is a standard deviation of it 0"):
        as_encoder(
            Toy(2.0),
            name="toy",
            preprocess=lambda image: torch.full((3, 8, 8), math.nan),
            tokenize=lambda texts: torch.ones(len(texts), 4, dtype=torch.int64),
        )


def test_an_image_of_one_pixel_is_no_internal_error(tmp_path, nano_config):
    (tmp_path / "one.json").write_text(json.dumps(nano_config | {"input_size": 1, "image_patch_size": 1}))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert load_encoder(
            f"{tmp_path / 'one.json'}=random:0", implementation="torch"
        ).info.image_size_px == (1, 1)
