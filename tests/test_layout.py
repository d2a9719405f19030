"""Promises of the layout: who may import whom, what ships, what must not exist."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "rwkvclip_models": ROOT / "models" / "rwkvclip_models",
    "rwkvclip_eval": ROOT / "rwkvclip_eval",
    "rwkvclip_train": ROOT / "train" / "rwkvclip_train",
}
MODEL_LIBRARIES = ("open_clip", "transformers", "timm")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


def starts(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def test_models_import_neither_eval_nor_train() -> None:
    for path in files("rwkvclip_models"):
        assert not [n for n in imports_of(path) if starts(n, ("rwkvclip_eval", "rwkvclip_train"))], path


def test_eval_imports_train_only_for_the_quickstart() -> None:
    users = [p for p in files("rwkvclip_eval") if any(starts(n, ("rwkvclip_train",)) for n in imports_of(p))]
    assert [p.name for p in users] == ["cli.py"]
    names = {n for n in imports_of(users[0]) if starts(n, ("rwkvclip_train",))}
    assert names == {"rwkvclip_train.quickstart", "rwkvclip_train.quickstart.run_quickstart"}


def test_train_uses_only_data_and_the_public_interface_of_eval() -> None:
    shared = ("console", "data", "disk", "errors", "registry", "results", "schema", "yaml_text")
    shared += ("encoders.hugging_face_config", "encoders.open_clip_config")
    allowed = tuple(f"rwkvclip_eval.{module}" for module in shared)
    for path in files("rwkvclip_train"):
        for name in imports_of(path):
            if not starts(name, ("rwkvclip_eval",)) or name == "rwkvclip_eval":
                continue
            public = name.removeprefix("rwkvclip_eval.") in __import__("rwkvclip_eval").__all__
            assert public or starts(name, allowed), f"{path}: {name}"


def test_metrics_see_arrays_only() -> None:
    for path in (PACKAGES["rwkvclip_eval"] / "metrics").glob("*.py"):
        inner = [n for n in imports_of(path) if starts(n, ("rwkvclip_eval", "rwkvclip_models"))]
        assert not [n for n in inner if not starts(n, ("rwkvclip_eval.metrics", "rwkvclip_eval.errors"))], (
            path
        )


def test_reports_see_records_only() -> None:
    allowed = (
        "rwkvclip_eval.report",
        "rwkvclip_eval.records.schema",
        "rwkvclip_models.disk",
        "rwkvclip_eval.errors",
        "rwkvclip_eval.printable",
        "rwkvclip_eval.protocols",
        "rwkvclip_eval.version",
        "rwkvclip_models.files",
        "rwkvclip_models.resources",
    )
    for path in (PACKAGES["rwkvclip_eval"] / "report").rglob("*.py"):
        inner = [n for n in imports_of(path) if starts(n, ("rwkvclip_eval", "rwkvclip_models"))]
        assert not [n for n in inner if not starts(n, allowed)], path
        assert not [n for n in imports_of(path) if starts(n, ("torch", *MODEL_LIBRARIES))], path


def test_only_adapters_import_a_model_library() -> None:
    for path in files("rwkvclip_eval"):
        if "encoders" in path.parts:
            continue
        assert not [n for n in imports_of(path) if starts(n, MODEL_LIBRARIES)], path


def test_cuda_holds_no_python_file() -> None:
    assert not list((ROOT / "cuda").rglob("*.py"))


def test_suites_holds_yaml_only() -> None:
    assert {p.suffix for p in (ROOT / "suites").iterdir()} == {".yaml"}


@pytest.mark.parametrize(
    "module",
    [
        "rwkvclip_eval",
        "rwkvclip_eval.cli.main",
        "rwkvclip_eval.report",
        "rwkvclip_eval.records.schema",
        "rwkvclip_models.errors",
    ],
)
def test_importing_this_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    path = ":".join(str(ROOT / folder) for folder in (".", "models", "train"))
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, check=False)
    assert done.returncode == 0
