"""Says what to install where a package is missing. Imports nothing but Python's own."""

from __future__ import annotations

import importlib
import shlex
import sys
import traceback
from typing import NoReturn

OURS = ("rwkvclip_eval", "rwkvclip_models", "rwkvclip_train")
EXIT_CODE = 2
INTERNAL = 70
"""Exit code of a defect of ours (`EX_SOFTWARE` of sysexits.h): 1 is the outcome of a check that failed."""
_NO_MEMORY = ("failed to map segment", "annot allocate memory")
"""What loaders of libraries say where memory, or what a process may have of it, is used up."""


def run_main(module: str) -> NoReturn:
    """Run `main` of `module`; where a package it needs is missing, say what to install and exit with 2.

    Where the module cannot be loaded for another reason, print the traceback and exit with `INTERNAL`.

    Args:
        module: of the command line, with its package.
    """
    try:
        command = importlib.import_module(module)
    except ImportError as error:
        text = what_to_install(error)
        if text is None:
            _fail_traced()
        sys.stderr.write(f"Error: {text}\n")
        sys.exit(EXIT_CODE)
    except Exception:  # whatever loading it raised is shown as it is
        _fail_traced()
    sys.exit(command.main())


def _fail_traced() -> NoReturn:
    traceback.print_exc()
    sys.exit(INTERNAL)


def what_to_install(error: ImportError) -> str | None:
    """Return what to do about a module that cannot be imported; None where that is a fault of ours."""
    name = (error.name or "").partition(".")[0]
    if any(word in str(error) for word in _NO_MEMORY):
        return (
            f"there is no memory to load {error.path or name or 'a library'} ({error}). A limit of this "
            "shell (ulimit -v) or of the job may be too low."
        )
    if not isinstance(error, ModuleNotFoundError) or not name or name in OURS:
        return None
    pip = f"{shlex.quote(sys.executable or 'python')} -m pip install"
    return (
        f"this Python has no module {name!r}, which rwkvclip-eval needs. Install the project with what it "
        f"depends on: {pip} rwkvclip-eval; in a checkout: {pip} --editable ."
    )
