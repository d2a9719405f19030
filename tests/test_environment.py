import getpass
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import rwkvclip_eval
from rwkvclip_eval.environment import PACKAGES, environment, git_state
from rwkvclip_eval.version import __version__


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=A", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_versions_and_hardware_are_told_as_json():
    facts = json.loads(json.dumps(environment(), allow_nan=False))
    assert facts["python"] == platform.python_version()
    assert facts["packages"]["rwkvclip-eval"] == __version__
    assert set(facts["packages"]) == set(PACKAGES)
    assert facts["packages"]["torch"]
    assert facts["cpu"]["model"]
    assert facts["cpu"]["num_cores"] >= 1
    assert facts["cpu"]["num_threads"] >= 1
    assert facts["memory_bytes"] > 1e8


def test_no_folder_host_or_user_of_the_machine_is_named():
    text = json.dumps(environment())
    assert str(Path(rwkvclip_eval.__file__).parents[1]) not in text
    assert str(Path.home()) not in text or str(Path.home()) == "/"
    values = [v for v in json.loads(text).values() if isinstance(v, str)]
    assert platform.node() not in values
    assert not any(f"/{getpass.getuser()}/" in v for v in values)


def test_a_checkout_tells_its_commit_and_whether_it_is_clean(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    assert git_state(package) is None
    (package / "module.py").write_text("x = 1\n")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    state = git_state(package)
    assert len(state["commit"]) == 40
    assert state["clean"]
    (package / "module.py").write_text("x = 2\n")
    assert not git_state(package)["clean"]


def test_a_package_installed_inside_a_foreign_checkout_has_no_commit(tmp_path):
    git(tmp_path, "init")
    (tmp_path / ".gitignore").write_text("venv\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    installed = tmp_path / "venv"
    installed.mkdir()
    (installed / "module.py").write_text("x = 1\n")
    assert git_state(installed) is None


def test_the_environment_is_told_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from rwkvclip_eval.environment import environment\n"
        "facts = environment()\n"
        "assert facts['gpus'] == [] and facts['cpu']['num_threads'] is None and facts['cpu']['model']"
    )
    paths = os.pathsep.join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": paths})
