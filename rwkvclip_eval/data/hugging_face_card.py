"""What local Hugging Face data say of themselves, looked at before the `datasets` library believes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rwkvclip_eval.data.reading import MOST_CLASSES, below
from rwkvclip_eval.errors import DamagedData, shown
from rwkvclip_eval.yaml_file import YAML_LIMIT_BYTES, parse_yaml
from rwkvclip_models.files import read_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CARD = "README.md"
_INFOS = "dataset_infos.json"


def check_card(path: Path) -> None:
    """Refuse what a file says of its data where the library would take it at its word.

    Args:
        path: regular file of a local dataset: its card, its older description in JSON, a table, or any other.

    Raises:
        DamagedData: it names files that do not lie below its folder, or more classes than are read.
    """
    if path.name == CARD:
        said = _front_matter(path)
        for place in _strings_of_configs(said):
            if "://" in place:
                raise DamagedData(f"{path}: {shown(place)} is no path below {path.parent}.")
            below(path.parent, place, str(path))
    elif path.name == _INFOS:
        about = read_bytes(path, limit=YAML_LIMIT_BYTES, what="description of a dataset", error=DamagedData)
        said = _json(path, about)
    elif path.suffix == ".parquet":
        said = _of_table(path)
    else:
        return
    _check_classes(said, path)


def _front_matter(path: Path) -> Any:
    content = read_bytes(path, limit=YAML_LIMIT_BYTES, what="dataset card", error=DamagedData)
    lines = content.decode("utf-8", "replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    end = next((i for i, line in enumerate(lines[1:], 1) if line.strip() == "---"), len(lines))
    return parse_yaml("\n".join(lines[1:end]), str(path), error=DamagedData)[1]


def _of_table(path: Path) -> Any:
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError):  # The library says so itself.
        return None
    return _json(path, metadata.get(b"huggingface", b"null"))


def _json(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedData(f"{path}: its description of the data is no JSON: {str(error)[:200]}.") from error


def _strings_of_configs(said: Any) -> Iterator[str]:
    """Yield the names of files and folders in a card's `configs`, with the names of splits between them."""
    configs = said.get("configs") if isinstance(said, dict) else None
    for config in configs if isinstance(configs, list) else ():
        if isinstance(config, dict):
            yield from _strings([config.get("data_files"), config.get("data_dir")])


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)


def _check_classes(said: Any, path: Path) -> None:
    """Refuse numbers of classes for which the library would make names without end."""
    todo = [said]
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo += value
        elif isinstance(value, dict):
            todo += value.values()
            count, names = value.get("num_classes"), value.get("names")
            if isinstance(count, int) and count > MOST_CLASSES:
                raise DamagedData(f"{path}: {count} classes; at most {MOST_CLASSES} are read.")
            if isinstance(names, dict) and (odd := set(map(str, names)) - set(map(str, range(len(names))))):
                raise DamagedData(
                    f"{path}: names of classes have the number {shown(min(odd))}; expected 0 to "
                    f"{len(names) - 1}."
                )
