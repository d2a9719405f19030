"""A valid small world: one file or folder of every kind that the program reads, made once and copied."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[1]
for _folder in ("data/formats", "report", "integration"):
    if str(TESTS / _folder) not in sys.path:
        sys.path.append(str(TESTS / _folder))

NANO: dict[str, Any] = {
    "input_size": 16,
    "image_depth": 1,
    "image_embed_dims": 16,
    "image_patch_size": 8,
    "image_hidden_rate": 1,
    "image_num_heads": 2,
    "ctx_len": 77,
    "vocab_size": 49408,
    "head_size": 8,
    "n_layer": 1,
    "n_embd": 16,
    "dim_ffn": 32,
}
OPEN_CLIP: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 8, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
UNIT = "tiny.zero_shot_retrieval.pictures.standard"


def suite(*datasets: str, task: str = "zero_shot_classification") -> str:
    """A suite of one task over entries written as YAML flow mappings."""
    lines = "".join(f"      - {entry}\n" for entry in datasets)
    return f"name: mine\ntasks:\n  - task: {task}\n    datasets:\n{lines}"


COLOURS = '{name: colours, folder: data/colours, class_names: [red, green, blue], templates: ["a {c}"]}'
BIRDS = "{name: birds, source: {kind: %s}, templates: ['a {c}']}"
SUITES = {
    "suite.yaml": suite(COLOURS),
    "prompts.yaml": suite(
        "{name: colours, folder: data/colours, prompts: {labels: label.json, templates: template.json}}"
    ),
    "shards.yaml": suite("{name: x, source: {kind: webdataset, path: data/wds_x}}"),
    "captioned-shards.yaml": suite(
        "{name: r, source: {kind: webdataset, path: data/wds_r}}", task="zero_shot_retrieval"
    ),
    "folder.yaml": suite("{name: birds, folder: data/birds, templates: ['a {c}']}"),
    "pictures.yaml": suite("{name: pictures, folder: data/pictures}", task="zero_shot_retrieval"),
    "pictures-json.yaml": suite("{name: pictures, folder: data/pictures_json}", task="zero_shot_retrieval"),
    "manifest.yaml": suite(BIRDS % "manifest, path: data/birds/labels.csv"),
    "captions-manifest.yaml": suite(
        "{name: pictures, source: {kind: manifest, path: data/pictures/captions.csv}}",
        task="zero_shot_retrieval",
    ),
    "table.yaml": suite(BIRDS % "hugging_face, path: parquet, data_files: 'data/table/*.parquet'"),
}
RECIPE = """\
name: tiny
model:
  family: rwkv-clip
  config: %s
data:
  - {dataset: x, split: test, texts: templates}
steps: 2
batch_size: 2
lr: 0.001
log_every: 1
checkpoint_every: 1
"""


def build(world: Path, environment: dict[str, str]) -> Path:
    """Make the world in an empty folder and return it; a run and a training run of the program are in it."""
    from data_files import png

    world.mkdir(parents=True, exist_ok=True)
    (world / "picture.png").write_bytes(png(3))
    for name, text in SUITES.items():
        (world / name).write_text(text)
    (world / "rwkv.json").write_text(json.dumps(NANO))
    (world / "clip.json").write_text(json.dumps(OPEN_CLIP))
    (world / "recipe.yaml").write_text(RECIPE % json.dumps(NANO))
    (world / "label.json").write_text(json.dumps({"colours": ["blue", "green", "red"]}))
    (world / "template.json").write_text(json.dumps({"colours": ["a {}"]}))
    _weights(world)
    _hugging_face(world)
    _images(world / "data", png)
    _published(world / "data" / "from")
    _report_runs(world / "runs")
    for command in (
        [
            "rwkvclip_eval",
            "run",
            "suite.yaml",
            "-m",
            "rwkv.json=random:0",
            "--out",
            "runs/real",
            "--no-report",
        ],
        ["rwkvclip_train", "recipe.yaml", "--out", "trained", "--data-root", "data", "--quiet"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=world,
            env=environment | {"RWKVCLIP_EVAL_CACHE": str(world / "cache"), "TMPDIR": str(world)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return world


def _weights(world: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from rwkvclip_models import RWKVCLIP, load_config

    torch.manual_seed(0)
    state = RWKVCLIP(load_config(NANO)).state_dict()
    torch.save(state, world / "weights.pt")
    save_file(
        {key: value.contiguous().clone() for key, value in state.items()}, world / "weights.safetensors"
    )


def _hugging_face(world: Path) -> None:
    import torch
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    folder = world / "hf"
    signs = list(bytes_to_unicode().values())
    merges = [("c", "a"), ("ca", "t</w>")]
    tokens = [*signs, *(s + "</w>" for s in signs), *("".join(m) for m in merges)]
    vocabulary = {t: i for i, t in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    CLIPTokenizer(vocab=vocabulary, merges=merges).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    ids = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
    config = CLIPConfig(
        text_config=tower | ids | {"vocab_size": len(tokenizer), "max_position_embeddings": 20},
        vision_config=tower | {"image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    CLIPImageProcessor(**size).save_pretrained(folder)


def _images(data: Path, png: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from data_files import npy, shard, wds

    for i, name in enumerate(("red", "green", "blue")):
        for j in range(2):
            path = data / "colours" / name / f"{j}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(40 * i + j))
    for i, name in enumerate(("owl/a.png", "wren/b.png", "wren/c.png")):
        path = data / "birds" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    (data / "birds" / "labels.csv").write_text(
        "image,label\nowl/a.png,owl\nwren/b.png,wren\nwren/c.png,wren\n"
    )
    rows = {"a.png": "a red owl", "b.png": "a green wren", "c.png": "a blue wren"}
    for folder in ("pictures", "pictures_json"):
        (data / folder).mkdir()
        for i, name in enumerate(rows):
            (data / folder / name).write_bytes(png(i))
    text = "".join(f"{name},{caption}\n" for name, caption in rows.items())
    (data / "pictures" / "captions.csv").write_text(f"image,caption\n{text}")
    (data / "pictures_json" / "captions.json").write_text(json.dumps(rows))
    folder = wds(data, 0, 1, 2, 1)
    (folder / "test" / "nshards.txt").write_text("1\n")
    members = [
        (f"s{i}.{end}", png(i) if end == "png" else f"text {i}\n".encode())
        for i in range(3)
        for end in ("png", "txt")
    ]
    shard(data / "wds_r" / "test" / "0.tar", members)
    (data / "wds_r" / "dataset_type.txt").write_text("retrieval")
    marks = [
        m for i in range(3) for m in ((f"s{i}.png", png(i)), (f"s{i}.npy", npy(np.array([i % 2, 1, 0]))))
    ]
    shard(data / "wds_m" / "test" / "0.tar", marks)
    for name, text in (("dataset_type", "multilabel"), ("classnames", "a\nb\nc\n")):
        (data / "wds_m" / f"{name}.txt").write_text(text)
    (data / "table").mkdir()
    images = [{"bytes": png(i), "path": f"{i}.png"} for i in range(3)]
    table = pa.table({"image": images, "label": ["owl", "wren", "wren"]})
    pq.write_table(table, data / "table" / "data.parquet")


def _published(root: Path) -> None:
    import array_miniatures as arrays
    import captioned_miniatures as captioned
    import miniatures as files

    arrays.cifar10(root / "cifar10")
    arrays.mnist(root / "mnist", packed=True)
    arrays.mnist(root / "mnist-plain", packed=False)
    arrays.stl10(root / "stl10")
    arrays.fer2013(root / "fer2013")
    arrays.pcam(root / "pcam")
    cars = [(1, 2, 3, 4, i, f"{i:05d}.jpg") for i in range(1, 4)]
    files.cars(root / "cars", [f"car {i}" for i in range(196)], cars, cars)
    memes = [{"id": i, "img": f"img/{i}.png", "label": i % 2, "text": "x"} for i in range(3)]
    files.hateful_memes(root / "hateful_memes", {"train": memes, "dev_seen": memes, "test_seen": memes})
    captioned.flickr(root / "flickr8k", "flickr8k")
    files.kitti(root / "kitti")


def _report_runs(runs: Path) -> None:
    from probe_runs import probe_record, write_curve_of
    from report_runs import CAPTIONS, record, write_curve, write_examples, write_run

    kinds = {"task": "zero_shot_retrieval", "dataset": "pictures"}
    records = [
        record("tiny", value=0.5, metric="image_retrieval_recall@1", n=4, unit=UNIT, **kinds),
        record("tiny", value=0.6, n=10),
    ]
    write_run(runs / "made", records)
    write_examples(runs / "made", UNIT, CAPTIONS[:2], images=12)
    write_curve(runs / "made", "tiny", steps=40)
    unit = "tiny.linear_probe.cifar10.standard"
    write_run(runs / "probe", [probe_record("tiny", "cifar10", 0.8, unit=unit)])
    write_curve_of(runs / "probe", unit, best=1.0, peak=0.9)
