"""Module paths and names of before there were rooms: they go on for one more release, with a warning.

Plugins written for an earlier version run; each old path says once where its names are now. The three
packages add theirs when they are imported, so that none of them loads another for it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from functools import partial
from importlib.machinery import ModuleSpec
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATHS: dict[str, tuple[str, ...]] = {
    "rwkvclip_models.ops.bi_wkv6": ("rwkvclip_models.ops.operator",),
    "rwkvclip_models.ops.linear": ("rwkvclip_models.matmul",),
}
"""Old path → where its names are now; of the packages that were imported."""

PACKAGES: dict[str, tuple[str, ...]] = {}
"""Modules that are packages of the same name now → where their names are."""

NAMES: dict[str, str] = {
    "rwkvclip_models.ops.linear": "rwkvclip_models.matmul.linear",
    "rwkvclip_models.ops.pack": "rwkvclip_models.matmul.pack",
    "rwkvclip_models.ops.fused.MOVES": "rwkvclip_models.ops.eager.MOVES",
    "rwkvclip_models.ops.fused.Moves": "rwkvclip_models.ops.eager.Moves",
    "rwkvclip_models.ops.fused.Shift": "rwkvclip_models.ops.eager.Shift",
    "rwkvclip_models.ops.fused.shift_delta": "rwkvclip_models.ops.eager.shift_delta",
}
"""Old name, of a module that is still there or of an old path → the name now."""

_NEXT = "The old {} goes in the next release."


def install(
    paths: Mapping[str, tuple[str, ...]],
    packages: Mapping[str, tuple[str, ...]] | None = None,
    names: Mapping[str, str] | None = None,
) -> None:
    """Let old paths import; costs a run that uses none of them nothing but a look into a dictionary.

    Args:
        paths: added to `PATHS`.
        packages: added to `PACKAGES`.
        names: added to `NAMES`.
    """
    PATHS.update(paths)
    PACKAGES.update(packages or {})
    NAMES.update(names or {})
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def forward(name: str) -> None:
    """Let the module or package `name`, which calls this while it is imported, still give its old names."""
    vars(sys.modules[name])["__getattr__"] = partial(_forwarded, name)


def make_callable(name: str) -> None:
    """Let the module `name`, whose place in its package was a function's of its name, be called as that."""
    sys.modules[name].__class__ = _Old


def elsewhere(name: str, attribute: str) -> Any:
    """Return what a module or package called `name` had as `attribute`, from where it is now.

    Raises:
        AttributeError: it never had it.
    """
    homes = PATHS.get(name) or PACKAGES.get(name, ())
    if attribute == "__all__" and homes:
        renamed = {old.removeprefix(f"{name}.") for old in NAMES if old.rpartition(".")[0] == name}
        return sorted(renamed.union(*(_public(importlib.import_module(home)) for home in homes)))
    if (new := NAMES.get(f"{name}.{attribute}")) is not None:
        home, _, attribute = new.rpartition(".")
        return getattr(importlib.import_module(home), attribute)
    # Homes are imported when a name is asked for: all at once could go in a circle.
    for home in homes if not attribute.startswith("__") else ():
        found = getattr(importlib.import_module(home), attribute, None)
        if found is not None:
            return found
    raise AttributeError(f"module {name!r} has no attribute {attribute!r}")


def _public(module: ModuleType) -> list[str]:
    """Return the names that a star import of a module gives, without what it has itself from elsewhere."""
    own = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
        if not isinstance(value, type | FunctionType) or value.__module__ == module.__name__
    }
    return list(getattr(module, "__all__", own))


def _forwarded(name: str, attribute: str) -> Any:
    whole = f"{name}.{attribute}"
    if name in PACKAGES and not attribute.startswith("_") and importlib.util.find_spec(whole):
        return importlib.import_module(whole)
    found = elsewhere(name, attribute)
    new = NAMES.get(whole) or f"{attribute} from {' or '.join(PACKAGES[name])}"
    warnings.warn(
        f"{name} gives {attribute} no more: import {new} instead. {_NEXT.format('path')}",
        FutureWarning,
        stacklevel=2,
    )
    return found


class _Old(ModuleType):
    """Can be called as the function of its name: importing it takes that function's place in the package."""

    def __call__(self, *operands: Any, **options: Any) -> Any:
        name = self.__name__.rpartition(".")[2]
        if self.__name__ not in PATHS:
            warnings.warn(
                f"{self.__name__} is a module: call {name} of it. {_NEXT.format('way')}",
                FutureWarning,
                stacklevel=2,
            )
        return getattr(self, name)(*operands, **options)


# Neither has a base of `importlib.abc`, which loads `tempfile` and more at every start.
class _Loader:
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Old(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        warnings.warn(
            f"{name} has moved: import {' or '.join(PATHS[name])} instead. {_NEXT.format('path')}",
            FutureWarning,
            stacklevel=2,
        )
        module.__dict__.update(__getattr__=partial(elsewhere, name), __path__=[])


class _Finder:
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in PATHS:
            return None
        return ModuleSpec(fullname, _Loader(), is_package=True)  # type: ignore[arg-type]  # load_module is old
