"""The official golden numbers' recipes, imported from where they lie."""

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def official(parity):
    """`inputs` and `recipe` modules, configurations, manifests and weights of the official code."""

    def module(name):
        spec = importlib.util.spec_from_file_location(f"parity_{name}", parity / f"{name}.py")
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded

    recipe = module("recipe")

    def manifest(name):
        return json.loads((parity / f"manifest_{name}.json").read_text())

    return SimpleNamespace(
        inputs=module("inputs"),
        configs=json.loads((parity / "configs.json").read_text()),
        manifest=manifest,
        state=lambda name: {k: torch.tensor(recipe.fill(k, s)) for k, s in manifest(name).items()},
        golden=np.load(parity / "model_tiny.npz"),
    )


@pytest.fixture
def nano_config():
    """A configuration small enough for any machine."""
    return {
        "input_size": 32,
        "image_depth": 2,
        "image_embed_dims": 32,
        "image_patch_size": 8,
        "image_hidden_rate": 2,
        "image_num_heads": 2,
        "ctx_len": 12,
        "vocab_size": 64,
        "head_size": 16,
        "n_layer": 2,
        "n_embd": 32,
        "dim_ffn": 64,
    }
