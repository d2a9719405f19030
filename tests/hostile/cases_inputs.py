"""Cases of what describes the work: suites, prompts, model configurations, checkpoints, recipes."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from harness import Case
from mutations import Change, edited, file_damages, in_json, written
from small_world import suite

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

MODEL = ("-m", "rwkv.json=random:0")
RUN = (
    "--data-root",
    "data",
    "--out",
    "out",
    "--no-report",
    "--implementation",
    "torch",
    "--num-workers",
    "0",
)


def cases(
    kind: str,
    argv: Sequence[str],
    parts: Sequence[str],
    changes: Mapping[str, Change],
    **more: Any,
) -> Iterator[Case]:
    """Yield one case per change."""
    for name, change in changes.items():
        yield Case(kind=kind, name=name, argv=argv, parts=parts, change=change, **more)


def run(suite: str, model: Sequence[str] = MODEL) -> tuple[str, ...]:
    return ("run", suite, *model, *RUN)


SHELL = "'; touch PWNED; echo '"
LETTERS = "abcdefghijklmnop"


def _nested(last: str, form: str) -> str:
    lines = [f"a: &a {last}"]
    lines += [f"{b}: &{b} " + form % ",".join([f"*{a}"] * 9) for a, b in itertools.pairwise(LETTERS)]
    return "\n".join(lines)


_ENTRY = "{name: colours, folder: data/colours, class_names: [red, green, blue], templates: ['a {c}']%s}"


def _task(text: str) -> str:
    return f"name: mine\ntasks:\n  - {text}\n"


SUITE_TEXTS: dict[str, str] = {
    "aliases that grow": _nested("[x]", "[%s]"),
    "merges that grow": _nested("{x: 1}", "{<<: [%s]}"),
    "an alias inside itself": "name: &a [*a]",
    "300,000 entries": suite(*["cifar10"] * 300_000),
    "an object of Python": "name: !!python/object/apply:os.system ['touch PWNED']\n",
    "a key twice": "name: a\nname: b\n" + suite("cifar10")[11:],
    "a plugin": "plugin: evil.py\n" + suite("cifar10"),
    "a model of Python": "models: ['python:os:system']\n" + suite("cifar10"),
    "a task named python:": suite("cifar10", task="python:os:system"),
    "a dataset named python:": suite("'python:os:system'"),
    "a split with a shell command": suite(
        f'{{name: x, split: "x://{SHELL}", source: {{kind: clip_benchmark, name: wds/m, root: .}}}}'
    ),
    "a root with a shell command": suite(
        "{name: mscoco_captions, source: {kind: clip_benchmark, root: 'x;touch PWNED;', download: true}}",
        task="zero_shot_retrieval",
    ),
    "a name with a shell command": suite(
        f'{{name: x, source: {{kind: clip_benchmark, name: "wds/{SHELL}"}}}}'
    ),
    "a folder of control characters": suite(_ENTRY.replace("data/colours", '"\\e[31m\\x07"') % ""),
    "a folder with NUL": suite(_ENTRY.replace("data/colours", '"a\\0b"') % ""),
    "a folder that is a device": suite(_ENTRY.replace("data/colours", "/dev/zero") % ""),
    "a folder of 200,000 letters": suite(_ENTRY.replace("data/colours", "x" * 200_000) % ""),
    "a split outside": suite(_ENTRY % ", split: '../../outside'"),
    "a split that is absolute": suite(_ENTRY % ", split: /etc"),
    "a template without a place": suite(_ENTRY.replace("a {c}", "a picture") % ""),
    "a template with a format": suite(_ENTRY.replace("a {c}", "a {c.__class__}") % ""),
    "a template of attributes": suite(_ENTRY.replace("a {c}", "{c} {0.__init__.__globals__}") % ""),
    "class names that are numbers": suite(_ENTRY.replace("[red, green, blue]", "[1, 2, 3]") % ""),
    "two class names for three": suite(_ENTRY.replace("[red, green, blue]", "[a, b]") % ""),
    "no class names": suite(_ENTRY.replace("[red, green, blue]", "[]") % ""),
    "an unknown kind of source": suite("{name: x, source: {kind: ftp, path: data}}"),
    "a source that is a list": suite("{name: x, source: [1]}"),
    "a billion draws": _task(
        "{task: few_shot_linear_probe, options: {num_seeds: 1000000000000}, datasets: [cifar10]}"
    ),
    "a strength that is NaN": _task("{task: linear_probe, options: {C: .nan}, datasets: [cifar10]}"),
    "a strength that is infinite": _task("{task: linear_probe, options: {C: .inf}, datasets: [cifar10]}"),
    "neighbours below one": _task("{task: knn_probe, options: {k: -1}, datasets: [cifar10]}"),
    "neighbours beyond count": _task("{task: knn_probe, options: {k: 1.0e+30}, datasets: [cifar10]}"),
    "tasks that are a text": "name: mine\ntasks: zero_shot_classification\n",
    "no tasks": "name: mine\ntasks: []\n",
    "only a list": "- a\n- b\n",
    "only a number": "12\n",
    "two documents": suite("cifar10") + "---\n" + suite("cifar10"),
    "a date that is none": "name: 2001-99-99\n",
    "a name with a path": "name: ../../x\n" + suite("nothing_there")[11:],
    "an average of nothing": suite("cifar10") + "averages:\n  - {name: a, datasets: []}\n",
    "an unknown protocol": _task(
        "{task: zero_shot_classification, protocol: [no-such], datasets: [cifar10]}"
    ),
    "a Hugging Face script": suite(
        "{name: x, source: {kind: hugging_face, path: script}, templates: ['a {c}'], class_names: [a]}"
    ),
    "a Hugging Face address": suite(
        "{name: x, source: {kind: hugging_face, path: parquet, data_files: 'http://127.0.0.1:9/x'}}"
    ),
    "a Hugging Face path outside": suite(
        "{name: x, source: {kind: hugging_face, path: parquet, data_files: '../outside/*'}}"
    ),
    "a manifest that is a device": suite("{name: x, source: {kind: manifest, path: /dev/zero}}"),
    "a published set of no name": suite("{name: zzz, source: {kind: published, path: data}}"),
    "prompts that are a device": suite(
        _ENTRY.replace("class_names: [red, green, blue], ", "") % ", prompts: {labels: /dev/zero}"
    ),
}


def _with_script(work: Path) -> None:
    folder = work / "script"
    folder.mkdir()
    (folder / "script.py").write_text("import pathlib\npathlib.Path('PWNED').touch()\n")
    (work / "evil.py").write_text("import pathlib\npathlib.Path('PWNED').touch()\n")


def suites() -> Iterator[Case]:
    parts = ("suite.yaml", "data/colours", "rwkv.json")
    damages = file_damages("suite.yaml", text=True)
    yield from cases("suite", run("suite.yaml"), parts, damages)
    for name, text in SUITE_TEXTS.items():

        def change(work: Path, text: str = text) -> None:
            written("suite.yaml", text)(work)
            _with_script(work)

        yield Case(
            kind="suite",
            name=name,
            argv=run("suite.yaml"),
            parts=parts,
            change=change,
        )
    for name in ("aliases that grow", "300,000 entries", "an object of Python", "a plugin", "only a list"):
        yield Case(
            kind="suite",
            name=f"validate: {name}",
            argv=("validate", "suite.yaml"),
            change=written("suite.yaml", SUITE_TEXTS[name]),
        )


PROMPT_FIELDS = [("colours",), ("colours", 1)]


def prompts() -> Iterator[Case]:
    parts = ("prompts.yaml", "label.json", "template.json", "data/colours", "rwkv.json")
    for name in ("label.json", "template.json"):
        yield from cases(name, run("prompts.yaml"), parts, file_damages(name, text=True))
    yield from cases("label.json", run("prompts.yaml"), parts, in_json("label.json", PROMPT_FIELDS))


RECIPE_FIELDS: dict[str, tuple[str, str]] = {
    "no steps": ("steps: 2\n", ""),
    "steps below zero": ("steps: 2", "steps: -2"),
    "steps of 10^30": ("steps: 2", "steps: 1000000000000000000000000000000"),
    "steps that are NaN": ("steps: 2", "steps: .nan"),
    "a batch of one": ("batch_size: 2", "batch_size: 1"),
    "a batch of 10^12": ("batch_size: 2", "batch_size: 1000000000000"),
    "a rate of NaN": ("lr: 0.001", "lr: .nan"),
    "an infinite rate": ("lr: 0.001", "lr: .inf"),
    "a rate that is a text": ("lr: 0.001", "lr: fast"),
    "a name with a path": ("name: tiny", "name: ../../tiny"),
    "a name of control characters": ("name: tiny", 'name: "\\e[31m"'),
    "an unknown key": ("lr: 0.001", "lr: 0.001\nplugin: evil.py"),
    "an unknown family": ("family: rwkv-clip", "family: python"),
    "layers of 10^12": ('"n_layer": 1', '"n_layer": 1000000000000'),
    "width of 10^6": ('"n_embd": 16', '"n_embd": 1000000'),
    "a config that is a text": ("config: {", "config: x\n  y: {"),
    "an unknown dataset": ("dataset: x", "dataset: zzz"),
    "a dataset outside": ("dataset: x", "dataset: ../../outside"),
    "a split outside": ("split: test", "split: ../../outside"),
    "texts of a kind there is not": ("texts: templates", "texts: captions"),
    "texts without a place": ("texts: templates", "texts: [x]"),
    "no data": ("  - {dataset: x, split: test, texts: templates}\n", "  []\n"),
    "an object of Python": ("lr: 0.001", "lr: !!python/object/apply:os.system ['touch PWNED']"),
    "logs every 0 steps": ("log_every: 1", "log_every: 0"),
    "precision of 8 bits": ("log_every: 1", "log_every: 1\nprecision: fp8"),
    "a seed of 10^30": ("log_every: 1", "log_every: 1\nseed: 1000000000000000000000000000000"),
    "a repeat of 10^12": ("texts: templates", "texts: templates, repeat: 1000000000000"),
    "a crop the wrong way": ("log_every: 1", "log_every: 1\naugmentation: {crop_area: [1, 0.5]}"),
    "a crop of NaN": ("log_every: 1", "log_every: 1\naugmentation: {crop_aspect: [.nan, 2]}"),
    "a norm of NaN": ("log_every: 1", "log_every: 1\nclip_norm: .nan"),
}
IN_A_RUN = (
    "dataset",
    "data",
    "split",
    "texts",
    "batch",
    "layers",
    "width",
    "repeat",
    "steps of",
    "seed",
    "crop",
    "norm",
)


def recipes() -> Iterator[Case]:
    check = ("recipe.yaml", "--check")
    train = ("recipe.yaml", "--out", "out", "--data-root", "data", "--quiet", "--threads", "1")
    parts = ("recipe.yaml", "data/wds_x")
    program = {"program": "rwkvclip_train"}
    yield from cases("recipe", check, parts, file_damages("recipe.yaml", text=True), **program)
    for name in ("aliases that grow", "merges that grow", "an alias inside itself"):
        yield Case(
            kind="recipe", name=name, argv=check, change=written("recipe.yaml", SUITE_TEXTS[name]), **program
        )
    for name, (old, new) in RECIPE_FIELDS.items():
        argv = train if any(word in name for word in IN_A_RUN) else check
        yield Case(
            kind="recipe",
            name=name,
            argv=argv,
            parts=parts,
            change=edited("recipe.yaml", old, new),
            **program,
        )


def all_cases() -> Iterator[Case]:
    for make in (suites, prompts, recipes):
        yield from make()
