"""The smallest configurations of which models are built in the tests."""

from typing import Any

RWKV_CLIP: dict[str, Any] = {
    "input_size": 32,
    "image_depth": 2,
    "image_embed_dims": 32,
    "image_patch_size": 16,
    "image_hidden_rate": 2,
    "image_num_heads": 2,
    "ctx_len": 77,
    "vocab_size": 49408,
    "head_size": 16,
    "head_size_divisor": 8,
    "n_layer": 2,
    "n_embd": 32,
    "dim_att": 32,
    "dim_ffn": 64,
    "drop_path_rate": 0.0,
}
OPEN_CLIP: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
