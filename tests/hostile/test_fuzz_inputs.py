"""Random damage to each kind of text file and model file: one message or what it says, never anything else.

Seeded, and slow: `pytest -m slow tests/hostile/test_fuzz_inputs.py`.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from rwkvclip_eval.data.prompts import resolve_prompts
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.encoders import load_encoder
from rwkvclip_eval.errors import CheckpointError, ConfigError, OutputError, SuiteError, UserError
from rwkvclip_eval.plan.suite import parse_suite
from rwkvclip_eval.plan.units import plan
from rwkvclip_eval.report import write_report
from rwkvclip_eval.report.formats.csv import results_csv, table_csv
from rwkvclip_eval.report.formats.html import render_page
from rwkvclip_eval.report.formats.latex import latex
from rwkvclip_eval.report.formats.markdown import markdown
from rwkvclip_eval.report.headline import write_headline
from rwkvclip_eval.report.loading import load_runs
from rwkvclip_eval.report.paper_tables import paper_tables
from rwkvclip_eval.report.tables import build_tables
from rwkvclip_models import read_checkpoint
from rwkvclip_models.torch_file import check_torch_file
from rwkvclip_train.recipe import RecipeError, load_recipe

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from report_runs import record, write_curve, write_examples, write_run

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("little_memory")]
MOST_S = 10
"""What one file of some KB may take; a hang is longer."""


def fuzz(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
    )


ODD_TEXTS = st.sampled_from(
    ["", " ", "\x00", "\x1b[31m", "\u202e", "\ud800", "../../x", "/etc/passwd", "$(touch PWNED)", "x" * 3000,
     "a:b", "nan", "1e999", "9" * 5000, "%s%n", "{c}", "{", "=1+1", "cifar10", "default", "@", ":"]
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([0, -1, 2**31, 2**63, 10**30, 1e300, -0.0]),
    st.floats(), ODD_TEXTS, st.text(max_size=8),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD_TEXTS, inner, max_size=3),
    max_leaves=6,
)
LIKELY = st.one_of(st.integers(0, 100), st.floats(0, 1), st.sampled_from(["x", "test", "mean"]), st.none())
# Whole numbers: those between 0 and 1 are mostly 0, which is one place.
PLACE = st.integers(0, 2**16)
PLACES = st.lists(st.tuples(PLACE, st.one_of(VALUES, LIKELY, st.booleans())), min_size=1, max_size=3)
INTERESTING = st.sampled_from(
    [b"", b"\0", b"\xff", b"\0" * 8, b"\xff" * 8, b"PK\3\4", b"PK\1\2", b"{", b'"', b"9" * 30, b"\x80\x02",
     *(struct.pack("<Q", n) for n in (0, 8, 1 << 31, 1 << 40, 1 << 62)), b"&a [*a]", b"<<: *a", b"- ", b"\n"]
)  # fmt: skip
EDITS = st.lists(
    st.tuples(PLACE, st.one_of(INTERESTING, st.binary(max_size=12)), st.integers(0, 16)),
    min_size=1,
    max_size=5,
)


LIKE: dict[type, list[Any]] = {
    str: ["", "x", "\x1b[31m", "../../x", "x" * 999, "=1", "a@b", "{c}", "cifar10@x", "test", "recall@5"],
    int: [0, 1, 2, 7, 16, 64, 77, 100, 2**31, 10**15],
    float: [0.0, 1.0, -1.0, 0.5, 1e-30, 1e15, 1e-300, 99.0],
    bool: [True, False],
}


def edited(content: bytes, edits: list[tuple[int, bytes, int]]) -> bytes:
    """Replace some bytes by others, here and there."""
    for number, new, length in edits:
        place = number % (len(content) + 1)
        content = content[:place] + new + content[place + length :]
    return content


def with_others(value: Any, places: list[tuple[int, Any]]) -> Any:
    """Return a JSON value with some of the values in it replaced."""
    value = json.loads(json.dumps(value))
    for number, new in places:
        holders: list[tuple[Any, Any]] = []
        waiting = [value]
        while waiting:
            one = waiting.pop()
            keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
            holders += [(one, key) for key in keys]
            waiting += [one[key] for key in keys]
        if holders:
            holder, key = holders[number // 2 % len(holders)]
            alike = LIKE.get(type(holder[key]))
            # Of the same type every other time, to come past the schema.
            holder[key] = alike[number // 7 % len(alike)] if alike and number % 2 else new
    return value


def outcome(call: Callable[[], Any], *kinds: type[UserError]) -> Any:
    """Return what a call gives, None where it says in one short message of these kinds what is wrong."""
    clock = time.monotonic()
    try:
        return call()
    except UserError as error:
        assert isinstance(error, kinds)
        assert len(str(error)) < 2000
        return None
    finally:
        assert time.monotonic() - clock < MOST_S


SUITE = {
    "name": "s",
    "description": "d",
    "tasks": [
        {
            "task": "zero_shot_classification",
            "protocol": ["standard", "clip-benchmark"],
            "datasets": [
                "cifar10",
                {"name": "sun397", "variant": "partition1", "split": "test", "metric": "top1_accuracy"},
                {
                    "name": "b",
                    "folder": "b",
                    "class_names": ["owl"],
                    "templates": ["a {c}"],
                    "prompts": "dataset",
                },
                {"name": "c", "source": {"kind": "clip_benchmark", "name": "cifar10", "root": "."}},
                {"name": "d", "source": {"kind": "hugging_face", "path": "a/b", "image": "image"}},
            ],
        },
        {
            "task": "few_shot_linear_probe",
            "options": {"C": 0.5, "shots": [1, 4], "num_seeds": 3, "seed": 1, "normalize": True},
            "datasets": ["cifar10"],
        },
    ],
    "averages": [{"name": "a", "task": "zero_shot_classification", "datasets": ["cifar10", "sun397"]}],
}


@fuzz(1500)
@given(PLACES)
def test_a_suite_with_other_values_is_a_suite_or_one_message(places: Any) -> None:
    content = json.dumps(with_others(SUITE, places))
    outcome(lambda: plan(parse_suite(content)), SuiteError)


@fuzz(1000)
@given(EDITS)
def test_a_suite_with_other_bytes_is_a_suite_or_one_message(edits: Any) -> None:
    content = edited(json.dumps(SUITE, indent=1).encode(), edits).decode("utf-8", "replace")
    outcome(lambda: plan(parse_suite(content)), SuiteError)


RECIPE = {
    "name": "r",
    "model": {"family": "rwkv-clip", "config": {"n_layer": 1}},
    "data": [{"dataset": "digits", "texts": ["a {c}"], "repeat": 2}],
    "augmentation": {"crop_area": [0.5, 1.0]},
    "steps": 3, "batch_size": 2, "lr": 0.1, "betas": [0.9, 0.98], "seed": 1,
}  # fmt: skip


@fuzz(800)
@given(PLACES)
def test_a_recipe_with_other_values_is_a_recipe_or_one_message(places: Any) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "r.yaml"
        path.write_bytes(json.dumps(with_others(RECIPE, places)).encode())
        outcome(lambda: load_recipe(path), RecipeError)


RWKV = {
    "input_size": 16, "image_depth": 1, "image_embed_dims": 16, "image_patch_size": 8, "image_hidden_rate": 1,
    "image_num_heads": 2, "ctx_len": 77, "vocab_size": 49408, "head_size": 8, "n_layer": 1, "n_embd": 16,
    "dim_ffn": 32, "drop_path_rate": 0.1,
}  # fmt: skip
OPEN_CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 8, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
    "init_logit_scale": 2.0,
}
HUGGING_FACE = {
    "model_type": "clip_vision_model",
    "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 16, "patch_size": 8,
    "intermediate_size": 8, "hidden_act": "gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip


@pytest.mark.parametrize("prefix, config", [("", RWKV), ("open_clip:", OPEN_CLIP), ("hf:", HUGGING_FACE)])
def test_a_configuration_with_other_values_is_a_model_or_one_message(prefix: str, config: Any) -> None:
    @fuzz(250)
    @given(PLACES)
    def check(places: Any) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / ("config.json" if prefix == "hf:" else "c.json")
            path.write_bytes(json.dumps(with_others(config, places)).encode())
            size = json.dumps({"image_processor_type": "ViTImageProcessor", "size": 16})
            (Path(folder) / "preprocessor_config.json").write_text(size)
            spec = f"hf:{folder}=random:0" if prefix == "hf:" else f"{prefix}{path}=random:0"
            outcome(lambda: load_encoder(spec, offline=True), UserError)

    check()


@fuzz(400)
@given(EDITS)
def test_a_configuration_with_other_bytes_is_a_model_or_one_message(edits: Any) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "c.json"
        path.write_bytes(edited(json.dumps(RWKV).encode(), edits))
        outcome(lambda: load_encoder(f"{path}=random:0"), ConfigError, UserError)


def torch_bytes(*, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    state = {f"blocks.{i}.w": torch.arange(6.0).reshape(2, 3) + i for i in range(3)}
    content = {"epoch": 1, "state_dict": state}
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


CHECKPOINTS = {
    "zip": torch_bytes(),
    "legacy": torch_bytes(legacy=True),
    "safetensors": save({f"blocks.{i}.w": torch.arange(6.0).reshape(2, 3) for i in range(3)}),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_checkpoint_with_other_bytes_is_read_or_one_message(kind: str) -> None:
    @fuzz(700)
    @given(EDITS)
    def check(edits: Any) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "m.pt"
            path.write_bytes(edited(CHECKPOINTS[kind], edits))
            state = outcome(lambda: read_checkpoint(path), CheckpointError)
            assert state is None or all(isinstance(value, torch.Tensor) for value in state.values())
            if kind == "zip":
                outcome(lambda: check_torch_file(path), CheckpointError)

    check()


def run_directory(folder: Path) -> Path:
    unit = "a.zero_shot_retrieval.x.standard"
    notes = {"l2": 1.0, "std": 0.1, "shots": 4, "seeds": 3, "chance": 0.1, "num_train": 5, "l2_at_edge": 1}
    run = write_run(
        folder / "run",
        [
            record("a", "x", task="zero_shot_retrieval", metric="text_retrieval_recall@1", unit=unit),
            record("a", "y", notes=notes, model_info={"step": 4, "spec": "a=step_4.pt"}),
            record(
                "b", "y", 0.4, metric="top1_accuracy_4_shot", model_info={"step": 5, "spec": "b=step_5.pt"}
            ),
        ],
        averages=[
            {"name": "m", "task": "zero_shot_classification", "protocol": "standard", "datasets": ["y"]}
        ],
    )
    write_examples(run, unit, ["one"])
    write_curve(run, "a", steps=40)
    return run


def show(run: Path) -> None:
    """Make all of a report but its drawings, which take a second each."""
    loaded = load_runs([run])
    tables = build_tables(loaded.entries, loaded.averages)
    headline = write_headline(loaded, tables)
    published = paper_tables(tables, headline.models)
    results_csv(loaded.entries).encode()
    table_csv(tables).encode()
    latex(tables).encode()
    markdown(loaded, tables, headline, [], published).encode()
    render_page(loaded, tables, headline, [], published).encode()


FILES = ["results.jsonl", "run.json", "examples/a.zero_shot_retrieval.x.standard.json", "training/a.jsonl"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_run_with_other_values_is_shown_or_one_message(name: str) -> None:
    with TemporaryDirectory() as folder:
        run = run_directory(Path(folder))
        whole = (run / name).read_text()
        lines = whole.splitlines() if name.endswith("l") else [whole]

        @fuzz(400)
        @given(st.integers(0, 10**6), PLACES)
        def check(number: int, places: Any) -> None:
            number %= len(lines)
            changed = json.dumps(with_others(json.loads(lines[number]), places))
            (run / name).write_text("\n".join([*lines[:number], changed, *lines[number + 1 :]]) + "\n")
            outcome(lambda: show(run), OutputError)

        check()


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_run_with_other_bytes_is_shown_or_one_message(name: str) -> None:
    with TemporaryDirectory() as folder:
        run = run_directory(Path(folder))
        whole = (run / name).read_bytes()

        @fuzz(300)
        @given(EDITS)
        def check(edits: Any) -> None:
            (run / name).write_bytes(edited(whole, edits))
            outcome(lambda: show(run), OutputError)

        check()


def test_records_with_other_values_are_drawn_or_one_message() -> None:
    with TemporaryDirectory() as folder:
        run = run_directory(Path(folder))
        lines = (run / "results.jsonl").read_text().splitlines()

        @fuzz(25)
        @given(st.integers(0, 2), PLACES)
        def check(number: int, places: Any) -> None:
            changed = json.dumps(with_others(json.loads(lines[number]), places))
            (run / "results.jsonl").write_text("\n".join([*lines[:number], changed, *lines[number + 1 :]]))
            outcome(lambda: write_report([run], Path(folder) / "report"), OutputError)

        check()


@fuzz(500)
@given(PLACES)
def test_prompts_with_other_values_are_texts_or_one_message(places: Any) -> None:
    with TemporaryDirectory() as folder:
        content = with_others({"digits": ["a", "b"], "mnist": ["c"]}, places)
        (Path(folder) / "label.json").write_bytes(json.dumps(content).encode())
        ref = DatasetRef.model_validate({"name": "digits", "prompts": {"labels": "label.json"}})
        names = outcome(lambda: resolve_prompts(ref, None, None, Path(folder)), UserError)
        assert names is None or all(isinstance(name, str) for name in names[0])
