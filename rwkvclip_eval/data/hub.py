"""Webdataset copies on the Hugging Face hub: which of their files a split needs, fetched and checked."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.data.reading import read_text
from rwkvclip_eval.errors import DamagedData, DataNotFound, name_some
from rwkvclip_eval.schema import whole_number
from rwkvclip_models.disk import file_digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BESIDE_SPLITS = ("classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt")


@dataclass(frozen=True)
class HubFile:
    """What the hub says of one file.

    Attributes:
        name: path in the repository.
        size: in bytes.
        sha256: None for small files, which the hub keeps without one.
    """

    name: str
    size: int
    sha256: str | None


def snapshot(repository: str, target: Path, splits: Sequence[str]) -> None:
    """Download the splits' shards (all where none is named) and the small files beside them.

    Raises:
        DataNotFound: the hub cannot be reached or has no such repository.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        huggingface_hub.snapshot_download(
            repository, repo_type="dataset", local_dir=target, allow_patterns=_patterns(splits)
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise DataNotFound(_unreachable(repository, target, error)) from error


def checked_snapshot(repository: str, target: Path, splits: Sequence[str]) -> int:
    """Download, check, fetch wrong files once more; return how many files were checked.

    Raises:
        DataNotFound: the hub cannot be reached, or has no such repository or split.
        DamagedData: a file came twice with another size or SHA-256 than the hub says.
    """
    snapshot(repository, target, splits)
    files = _files(repository, target, splits)
    absent = [split for split in splits if not any(f.name.startswith(f"{split}/") for f in files)]
    if absent:
        raise DataNotFound(f"{repository} has no split {', '.join(absent)}.")
    wrong = wrong_hub_files(files, target)
    if wrong:
        for path in wrong:
            path.unlink(missing_ok=True)
        snapshot(repository, target, splits)
        wrong = wrong_hub_files(files, target)
    if wrong:
        raise DamagedData(
            f"{len(wrong)} files of {repository} came twice with another size or SHA-256 than the hub says: "
            f"{name_some(map(str, wrong))}. Delete them and run the command again later."
        )
    return len(files)


def wrong_hub_files(files: Sequence[HubFile], target: Path) -> list[Path]:
    """Return the files that are missing, or of another size or SHA-256 than the hub's."""
    wrong = []
    for file in files:
        path = target / file.name
        same = path.is_file() and path.stat().st_size == file.size
        if not same or (file.sha256 is not None and file_digest(path) != file.sha256):
            wrong.append(path)
    return wrong


def is_complete(folder: Path) -> bool:
    """Whether a split's folder holds as many shards as it says; one that says nothing, whether any."""
    count = folder / "nshards.txt"
    if not count.is_file():
        return any(folder.glob("*.tar"))
    expected = whole_number(read_text(count))
    return expected is not None and len(list(folder.glob("*.tar"))) >= expected


def _files(repository: str, target: Path, splits: Sequence[str]) -> list[HubFile]:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = huggingface_hub.HfApi().dataset_info(repository, files_metadata=True)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise DataNotFound(_unreachable(repository, target, error)) from error
    patterns = _patterns(splits)
    return [
        HubFile(each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else None)
        for each in info.siblings or ()
        if any(fnmatch.fnmatch(each.rfilename, pattern) for pattern in patterns)
    ]


def _patterns(splits: Sequence[str]) -> list[str]:
    # A count of shards of a split that is not fetched would make that split look broken off.
    return [*BESIDE_SPLITS, *(f"{split}/*" for split in splits or ("*",))]


def _unreachable(repository: str, target: Path, error: Exception) -> str:
    return (
        f"Cannot fetch {repository} from the Hugging Face hub: {error}. On a machine without internet, "
        f"fetch it elsewhere and copy the folder to {target}."
    )
