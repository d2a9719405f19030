"""What is built and installed: the long description, links, citation, and a command without dependencies."""

from __future__ import annotations

import email
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from rwkvclip_models.dependencies import what_to_install

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "https://example.org/owner/project"


def hook() -> ModuleType:
    pytest.importorskip("hatchling", reason="needs hatchling, which makes the wheel")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def targets(markdown: str) -> list[str]:
    """Return where links and pictures of Markdown and HTML lead."""
    markdown = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)", markdown) + re.findall(r"(?:src|href)=[\"']([^\"']+)", markdown)


def test_the_wheels_long_description_has_no_relative_link_and_no_picture_beside_it(tmp_path: Path) -> None:
    wheels = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling, which makes the wheel")
    (wheel,) = wheels.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
        assert not [name for name in archive.namelist() if "hatch_build" in name]
    description = str(metadata.get_payload())
    assert "rwkvclip-eval run zero-shot-11" in description
    assert len(targets(description)) >= 2
    assert [t for t in targets(description) if not t.startswith(("https://", "http://"))] == []
    assert metadata["Author"] == "rwkvclip-eval developers"
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_links_are_made_of_the_one_address_and_left_out_while_it_is_empty(tmp_path: Path) -> None:
    module = hook()
    (tmp_path / "README.md").write_text(
        "![A screen](docs/a.png)\n\nSee [the notes](NOTES.md) [x](https://x.org).\n"
    )
    for address, expected, urls in (
        ("", "See the notes [x](https://x.org).\n", {}),
        (
            f"{ADDRESS}/",
            f"![A screen]({ADDRESS}/raw/main/docs/a.png)\n\n"
            f"See [the notes]({ADDRESS}/blob/main/NOTES.md) [x](https://x.org).\n",
            {
                "Homepage": ADDRESS,
                "Issues": f"{ADDRESS}/issues",
                "Changelog": f"{ADDRESS}/blob/main/CHANGELOG.md",
            },
        ),
    ):
        metadata: dict[str, object] = {}
        module.CustomMetadataHook(str(tmp_path), {"address": address}).update(metadata)
        assert metadata["readme"] == {"content-type": "text/markdown", "text": expected}
        assert metadata["urls"] == urls
    every = targets(module.long_description((ROOT / "README.md").read_text(encoding="utf-8"), ADDRESS))
    relative = {t for t in targets((ROOT / "README.md").read_text(encoding="utf-8")) if "://" not in t}
    assert relative and all((ROOT / target).exists() for target in relative)
    assert {t.split("/main/")[1] for t in every if t.startswith(ADDRESS)} == relative


def test_the_citation_names_the_paper_as_it_was_published() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["authors"] == [{"name": "rwkvclip-eval developers"}]
    (paper,) = cited["references"]
    assert paper["title"] == "RWKV-CLIP: A Robust Vision-Language Representation Learner"
    assert [a["family-names"] for a in paper["authors"]] == ["Gu", "Yang", "An", "Feng", "Liu", "Cai", "Deng"]
    assert paper["url"] == "https://arxiv.org/abs/2406.06973"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["authors"] == cited["authors"]
    assert project["license"] == cited["license"]


@pytest.mark.parametrize("module", ["rwkvclip_eval", "rwkvclip_train"])
def test_without_its_dependencies_a_command_says_what_to_install(tmp_path: Path, module: str) -> None:
    """-S leaves out every installed package."""
    paths = os.pathsep.join(str(ROOT / folder) for folder in (".", "models", "train"))
    done = subprocess.run(
        [sys.executable, "-S", "-m", module, "--help"],
        env={"PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(
        r"Error: this Python has no module '\w+', which rwkvclip-eval needs\. Install .* -m pip install "
        r"rwkvclip-eval; in a checkout: .* -m pip install --editable \.\n",
        done.stderr,
    ), done.stderr


def test_a_dependency_that_one_command_lacks_is_said_too(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking() -> None:
        raise ModuleNotFoundError("No module named 'yaml'", name="yaml")

    monkeypatch.setattr("rwkvclip_eval.plan.suite.list_suites", lacking)
    code, _, err = run("suites")
    assert code == 2
    assert "has no module 'yaml'" in err and "Traceback" not in err


def test_a_module_of_ours_that_is_missing_is_a_defect_and_not_told_to_be_installed() -> None:
    assert what_to_install(ModuleNotFoundError("x", name="rwkvclip_eval.gone")) is None
    assert what_to_install(ModuleNotFoundError("x")) is None


def test_the_programs_begin_where_a_missing_package_is_told() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {
        "rwkvclip-eval": "rwkvclip_eval.__main__:main",
        "rwkvclip-train": "rwkvclip_train.__main__:main",
    }
