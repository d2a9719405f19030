"""Promises of the layout: who may import whom, what ships, what must not exist."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import rwkvclip_eval
import rwkvclip_train  # noqa: F401  # puts its own old paths into the table
from rwkvclip_models.moved import NAMES, PATHS
from rwkvclip_models.moved import PACKAGES as PACKAGES_NOW

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "rwkvclip_models": ROOT / "models" / "rwkvclip_models",
    "rwkvclip_eval": ROOT / "rwkvclip_eval",
    "rwkvclip_train": ROOT / "train" / "rwkvclip_train",
}
MODEL_LIBRARIES = ("open_clip", "transformers", "timm")

HALL = {
    *("__init__", "__main__", "console", "digits", "environment", "errors", "memory", "moved", "offline"),
    *("printable", "progress", "protocols", "registry", "schema", "version", "yaml_file"),
}
"""Modules of rwkvclip_eval that every room may use."""

MAY_USE = {
    "cli": {
        "run",
        "plan",
        "features",
        "data",
        "encoders",
        "records",
        "report",
        "compare",
        "doctor",
        "bench",
        "exchange",
    },
    "exchange": {"encoders", "data", "records", "report"},
    "run": {"plan", "features", "tasks", "data", "encoders", "records"},
    "plan": {"tasks", "data", "records"},
    "features": {"encoders", "data"},
    "tasks": {"metrics", "logistic", "data", "records"},
    "logistic": set(),
    "metrics": set(),
    "encoders": set(),
    "data": set(),
    "records": set(),
    "compare": {"records", "metrics"},
    "report": {"records", "metrics", "compare"},
    "doctor": {"bench"},
    "bench": {"encoders", "metrics", "records"},
}
"""Room of rwkvclip_eval → those it may import. ARCHITECTURE.md has the same table."""

PARTS = {
    ("tasks", "data"): {"data.types"},
    ("report", "metrics"): {"metrics.intervals", "metrics.calibration", "metrics.ratios"},
    ("bench", "metrics"): {"metrics.ratios"},
    ("exchange", "data"): {"data.catalogue"},
}
"""Where a room may use only parts of another."""


def imports_of(path: Path) -> set[str]:
    """Return every import of a file, those inside functions and for types alone included."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


def module_name(path: Path) -> str:
    for package, folder in PACKAGES.items():
        if path.is_relative_to(folder):
            parts = path.relative_to(folder).with_suffix("").parts
            return ".".join((package, *parts)).removesuffix(".__init__")
    raise AssertionError(path)


def graph() -> dict[str, set[str]]:
    """Return module → modules of ours that it imports; of `from package import module` the module alone."""
    paths = {module_name(path): path for package in PACKAGES for path in files(package)}
    found = {}
    for name, path in paths.items():
        used = {n for n in imports_of(path) if n in paths}
        whole = {n for n in used if any(other.startswith(n + ".") for other in used)}
        found[name] = used - whole - {name}
    return found


def circles(edges: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Return the groups of nodes of which each reaches each other."""

    def reached(start: str) -> set[str]:
        seen, ahead = set(), [start]
        while ahead:
            for node in edges.get(ahead.pop(), ()):
                if node not in seen:
                    seen.add(node)
                    ahead.append(node)
        return seen

    ways = {node: reached(node) for node in edges}
    found = {
        frozenset(n for n in ways[node] if node in ways.get(n, ())) for node in edges if node in ways[node]
    }
    return [sorted(circle) for circle in found]


def room(module: str) -> str:
    """Return the room of a module of rwkvclip_eval, "" for the hall."""
    part = module.split(".")[1] if "." in module else ""
    return part if part in MAY_USE else ""


def starts(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def test_the_hall_holds_its_own_modules_and_every_room_stands_in_the_table() -> None:
    folder = PACKAGES["rwkvclip_eval"]
    assert {path.stem for path in folder.glob("*.py")} == HALL
    assert {path.parent.name for path in folder.glob("*/__init__.py")} == set(MAY_USE)


def test_rooms_use_the_rooms_that_the_table_allows() -> None:
    wrong = [
        f"{module} → {used}"
        for module, uses in graph().items()
        if module.startswith("rwkvclip_eval.") and not starts(module, ("rwkvclip_eval.moved",))
        for used in uses
        if used.startswith("rwkvclip_eval.") and not allowed(module, used)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_table_allows_no_more_than_is_used() -> None:
    used = {(room(module), room(other)) for module, others in graph().items() for other in others}
    unused = [(here, there) for here in MAY_USE for there in MAY_USE[here] if (here, there) not in used]
    assert not unused


def allowed(module: str, used: str) -> bool:
    here, there = room(module), room(used)
    if there in ("", here):
        return True
    parts = tuple(f"rwkvclip_eval.{part}" for part in PARTS.get((here, there), (there,)))
    return bool(here) and there in MAY_USE[here] and starts(used, parts)


def test_no_room_reaches_itself_through_others() -> None:
    assert circles(MAY_USE) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_no_imports_go_in_a_circle() -> None:
    assert circles(graph()) == []


def test_packages_import_one_way() -> None:
    later = {"rwkvclip_models": ("rwkvclip_eval", "rwkvclip_train"), "rwkvclip_eval": ("rwkvclip_train",)}
    found = [
        (module_name(path), name)
        for package, forbidden in later.items()
        for path in files(package)
        for name in imports_of(path)
        if starts(name, forbidden)
    ]
    # The one way back: the quickstart trains, and nothing of training is loaded before it is asked for.
    assert {module for module, _ in found} == {"rwkvclip_eval.cli.main"}
    assert {name for _, name in found} == {
        "rwkvclip_train.quickstart",
        "rwkvclip_train.quickstart.run_quickstart",
    }


TRAINING_MAY_USE = (
    *("data", "plan.suite", "encoders.spec", "exchange.trackers", "records.metrics", "records.titles"),
    *("encoders.open_clip_config", "encoders.hugging_face_config", "encoders.tokens_first"),
)


def test_training_uses_the_hall_the_public_interface_and_what_the_table_says() -> None:
    public = tuple(f"rwkvclip_eval.{name}" for name in rwkvclip_eval.__all__)
    rooms = tuple(f"rwkvclip_eval.{name}" for name in (*HALL, *TRAINING_MAY_USE))
    for path in files("rwkvclip_train"):
        for name in imports_of(path):
            if starts(name, ("rwkvclip_eval",)) and name != "rwkvclip_eval":
                assert starts(name, (*public, *rooms)), f"{path}: {name}"


def test_what_is_shown_and_kept_needs_no_torch() -> None:
    for part in ("records", "compare", "report"):
        for path in (PACKAGES["rwkvclip_eval"] / part).rglob("*.py"):
            assert not [n for n in imports_of(path) if starts(n, ("torch", *MODEL_LIBRARIES))], path


def test_only_adapters_import_a_model_library() -> None:
    for path in files("rwkvclip_eval"):
        if "encoders" in path.parts:
            continue
        assert not [n for n in imports_of(path) if starts(n, MODEL_LIBRARIES)], path


def test_the_console_and_its_bars_alone_draw() -> None:
    drawing = {
        module_name(path)
        for package in PACKAGES
        for path in files(package)
        if any(starts(name, ("rich", "tqdm")) for name in imports_of(path))
    }
    assert drawing == {"rwkvclip_eval.console", "rwkvclip_eval.progress"}


def test_one_place_says_what_a_name_may_be_meant_for() -> None:
    guessing = {
        module_name(path) for package in PACKAGES for path in files(package) if "difflib" in imports_of(path)
    }
    assert guessing == {"rwkvclip_models.errors"}


def test_a_room_says_what_it_is_for_in_one_sentence() -> None:
    for name in MAY_USE:
        text = ast.get_docstring(ast.parse((PACKAGES["rwkvclip_eval"] / name / "__init__.py").read_text()))
        assert text and text.partition("\n")[0].endswith("."), name


@pytest.mark.parametrize("old", sorted(PATHS))
def test_old_paths_lead_to_the_names_that_were_there(old: str) -> None:
    for home in PATHS[old]:
        importlib.import_module(home)
    sys.modules.pop(old, None)
    with pytest.warns(FutureWarning, match=f"{old} has moved"):
        importlib.import_module(old)


@pytest.mark.parametrize("package", sorted(PACKAGES_NOW))
def test_packages_that_were_modules_give_their_names_with_a_warning(package: str) -> None:
    module = importlib.import_module(package)
    for home in PACKAGES_NOW[package]:
        there = importlib.import_module(home)
        [name, *_] = [
            name
            for name, value in vars(there).items()
            if getattr(value, "__module__", "") == home and not hasattr(type(module), name)
            if name not in vars(module)
        ]
        with pytest.warns(FutureWarning, match=f"{package} gives {name} no more: import"):
            assert getattr(module, name) is getattr(there, name)
    with pytest.raises(AttributeError, match="no attribute 'never_there'"):
        module.never_there  # noqa: B018  # asking is what fails


@pytest.mark.parametrize("old", sorted(NAMES))
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_old_names_lead_to_the_names_now(old: str) -> None:
    (home, _, name), (new_home, _, new) = old.rpartition("."), NAMES[old].rpartition(".")
    found = getattr(importlib.import_module(home), name)
    assert getattr(found, new, found) is getattr(importlib.import_module(new_home), new)


FRESH = {
    "models": "import rwkvclip_models.ops.linear, rwkvclip_models.ops.bi_wkv6 as old; old.bi_wkv6",
    "eval, everything": "from rwkvclip_eval.results import *; Record, PRIMARY, load_results",
    "eval, everything of three homes": "from rwkvclip_eval.runner import *; RunOptions, run_unit",
    "eval, the command line": "from rwkvclip_eval.cli import main; main(); raise SystemExit('unreached')",
    "eval, the command line by its module": "from rwkvclip_eval import cli; cli.main()",
    "train": "import rwkvclip_train.losses, rwkvclip_train.schedule, rwkvclip_train.digit_texts",
    "train, a package": "from rwkvclip_train.data import Pairs",
}


@pytest.mark.parametrize("what", FRESH)
def test_a_fresh_process_imports_old_paths_with_a_warning(what: str) -> None:
    # In a process that imported anything else before, its finder could be there already.
    code = f"import sys; sys.argv[1:] = ['--version']; {FRESH[what]}"
    done = python("-W", "always", "-c", code)
    assert done.returncode == 0, done.stderr
    assert "FutureWarning: rwkvclip_" in done.stderr


def test_models_load_nothing_of_the_evaluation() -> None:
    code = "import sys, rwkvclip_models; sys.exit(any(n.startswith('rwkvclip_eval') for n in sys.modules))"
    assert python("-c", code).returncode == 0


def python(*options: str) -> subprocess.CompletedProcess[str]:
    path = ":".join(str(ROOT / folder) for folder in (".", "models", "train"))
    return subprocess.run(
        [sys.executable, *options], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )


def test_a_function_called_like_an_old_module_beside_it_still_runs(monkeypatch) -> None:
    package = importlib.import_module("rwkvclip_models.ops")
    monkeypatch.setattr(package, "bi_wkv6", package.bi_wkv6)
    monkeypatch.delitem(sys.modules, "rwkvclip_models.ops.bi_wkv6", raising=False)
    with pytest.warns(FutureWarning, match="rwkvclip_models.ops.operator"):
        old = importlib.import_module("rwkvclip_models.ops.bi_wkv6")
    with pytest.raises(ValueError, match="expects r to be"):
        package.bi_wkv6(None, None, None, None, None)
    assert old.bi_wkv6 is importlib.import_module("rwkvclip_models.ops.operator").bi_wkv6


def test_cuda_holds_no_python_file() -> None:
    assert not list((ROOT / "cuda").rglob("*.py"))


def test_suites_holds_yaml_only() -> None:
    assert {p.suffix for p in (ROOT / "suites").iterdir()} == {".yaml"}


@pytest.mark.parametrize(
    "module",
    [
        "rwkvclip_eval",
        "rwkvclip_eval.cli.main",
        "rwkvclip_eval.compare.paired",
        "rwkvclip_eval.report",
        "rwkvclip_eval.exchange.imported_run",
        "rwkvclip_eval.exchange.trackers",
        "rwkvclip_eval.exchange.upload",
        "rwkvclip_eval.records.schema",
        "rwkvclip_models.errors",
    ],
)
def test_importing_this_loads_no_torch(module: str) -> None:
    assert python("-c", f"import sys, {module}; sys.exit('torch' in sys.modules)").returncode == 0
