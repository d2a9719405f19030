"""Fetches datasets on a machine with internet, so that `run --offline` finds them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkvclip_eval.data.catalogue import absent_splits, catalogue, choose_variant, record_name
from rwkvclip_eval.data.open import DATASETS, open_dataset, wds_folder, with_variant
from rwkvclip_eval.data.reading import plain_name, read_text, whole_number
from rwkvclip_eval.data.types import HuggingFaceSource
from rwkvclip_eval.errors import DamagedData, DataNotFound, name_some
from rwkvclip_eval.registry import unknown_name
from rwkvclip_models.disk import file_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rwkvclip_eval.data.catalogue import Download, Entry, Variant
    from rwkvclip_eval.data.types import DatasetRef


BESIDE_SPLITS = ("classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt")


def prefetch_dataset(
    ref: DatasetRef,
    data_root: Path | None,
    *,
    fit_splits: Sequence[str] = (),
    variant: str | None = None,
    base_dir: Path | None = None,
    cache_dir: Path | None = None,
) -> str:
    """Fetch what `ref` needs and return a sentence that says what was done.

    Hub repositories of webdataset shards go to DATA_ROOT/wds_NAME (resumed where a download broke off), what
    they lack as published files to DATA_ROOT/NAME; datasets of the Hugging Face library into its cache.
    Embedded sets, local folders and what already lies under the data root need nothing.

    Args:
        ref: how the suite names it.
        data_root: where shards and published files go.
        fit_splits: splits that are learned from, beside the one that is judged; of several, the first must
            be there, and the others where the catalogue knows them.
        variant: the protocol's choice, where `ref` makes none.
        base_dir: folder of the suite file.
        cache_dir: keeps fingerprints; the user's cache folder by default.

    Raises:
        DataNotFound: it cannot be fetched (no network, no such repository, to be had by hand only).
        DamagedData: what was fetched or found cannot be read.
        UserError: unknown variant.
    """
    ref = with_variant(ref)

    def count(split: str | None) -> int:
        """Open a split as a run will; return its samples."""
        own = ref if split is None else ref.model_copy(update={"split": split})
        return len(
            open_dataset(own, data_root=data_root, base_dir=base_dir, variant=variant, cache_dir=cache_dir)
        )

    fetches = isinstance(ref.source, HuggingFaceSource)
    own = ref.name in DATASETS or wds_folder(ref.name, data_root) is not None
    record = record_name(ref.name)
    if fetches or (record is None and own and ref.source is None):
        return f"{ref.name}: {_count_all(count, fit_splits)} samples are there."
    if ref.source is not None or ref.folder is not None:
        return f"{ref.name}: local, nothing to fetch."
    if record is None:
        raise DataNotFound(f"{ref.name} is not in the catalogue; give its source in the suite.")
    entry = catalogue()[record]
    chosen = choose_variant(record, entry, ref.variant or variant)
    known = entry.variant(chosen)
    if known.embedded:
        return f"{record}: ships with scikit-learn, nothing to fetch."
    if data_root is None:
        raise DataNotFound(
            f"{record}: there is no data root to fetch it into; give one with --data-root DIR."
        )
    root = data_root

    def is_there(split: str) -> bool:
        there = [folder for folder in known.webdataset if (root / folder / split).is_dir()]
        short = [folder for folder in there if known.short_copy(folder, split)]
        if there != short:
            # A broken-off download has the count of shards, but not all of them.
            return _complete(root / next(folder for folder in there if folder not in short) / split)
        try:
            return count(split) >= (known.counts.get(split, 1) if short else 1)
        except (DataNotFound, DamagedData):
            return False

    judged = ref.split or entry.evaluation_split
    wanted = dict.fromkeys((judged, *fit_splits[:1], *(s for s in fit_splits[1:] if s in known.counts)))
    missing = [split for split in wanted if not is_there(split)]
    if not missing:
        return f"{record}: already at {data_root}."
    fetched, failure, published = [], "", False
    if of_hub := known.on_hub(missing):
        repository = known.hub[0]
        try:
            _snapshot(repository, data_root / repository.rpartition("/")[2], of_hub)
            fetched.append(repository)
        except DataNotFound as error:
            if not known.downloads:
                raise
            failure = f"{error} Then: "
        missing = [split for split in missing if not is_there(split)]
    if missing and known.downloads:
        with _after(failure):
            folder = _fetch_published(record, entry, known, data_root)
        published = True
        fetched.append(f"{len(known.downloads)} published files in {folder}")
        for split in missing:
            count(split)
    elif missing:
        what = f"{record}@{chosen}, split {' and '.join(missing)},"
        raise DataNotFound(f"{what} cannot be fetched automatically. {_by_hand(record, entry)}")
    remarks = trust_remarks(known.downloads) if published else []
    return " ".join([f"{record}: {failure}fetched {' and '.join(fetched)}, to {data_root}.", *remarks])


def _count_all(count: Callable[[str | None], int], fit_splits: Sequence[str]) -> int:
    """Return the samples of the split that is judged (None) and of those learned from, the first required."""
    total = count(None)
    for i, split in enumerate(fit_splits):
        try:
            total += count(split)
        except DataNotFound:
            if i == 0:
                raise
    return total


def download_dataset(
    ref: DatasetRef,
    data_root: Path,
    splits: Sequence[str] = (),
    *,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> str:
    """Fetch a dataset of the catalogue and check every file; return a sentence that says what was done.

    Args:
        ref: name and variant.
        data_root: gets wds_NAME from the hub, and NAME with the published files of what the hub lacks.
        splits: which shards; all by default. Published files come whole.
        on_progress: called with (MiB done, MiB in all, file) for published files.

    Raises:
        DataNotFound: it has no public source, or that cannot be reached.
        DamagedData: what came is not what the hub or the catalogue says, twice over.
        OutputError: it cannot be written.
        UserError: unknown variant.
    """
    ref = with_variant(ref)
    record = record_name(ref.name)
    if record is None:
        raise DataNotFound(unknown_name("dataset", ref.name, catalogue()))
    entry = catalogue()[record]
    variant = choose_variant(record, entry, ref.variant)
    known = entry.variant(variant)
    if known.embedded:
        return f"{record}: ships with scikit-learn, nothing to fetch."
    wanted = [plain_name(split, "split") for split in splits or known.counts]
    of_hub = known.on_hub(wanted)
    rest = [split for split in wanted if split not in of_hub]
    if unknown := [split for split in rest if split not in known.counts]:
        raise DataNotFound(
            f"{record}@{variant} has no split {', '.join(unknown)}, but {', '.join(known.counts)}."
        )
    said, failure = [], ""
    if of_hub:
        repository = known.hub[0]
        target = data_root / repository.rpartition("/")[2]
        try:
            checked = _checked_snapshot(repository, target, of_hub if splits or known.hub_splits else ())
            said.append(f"{repository} is at {target}; {checked} files have the hub's size and SHA-256.")
            said += absent_splits(
                record, variant, known, [s for s in of_hub if (target / s).is_dir()], of_hub
            )
        except DataNotFound as error:
            if not known.downloads:
                raise
            failure, rest = f"{error} Then: ", list(wanted)
    if rest and not known.downloads:
        raise DataNotFound(f"{record}@{variant} cannot be fetched automatically. {_by_hand(record, entry)}")
    if rest:
        with _after(failure):
            folder = _fetch_published(record, entry, known, data_root, on_progress)
        unsummed = name_some(download.file for download in known.downloads if not download.has_sum)
        done = f"unpacked and, except {unsummed}, checked" if unsummed else "checked and unpacked"
        said.append(f"{len(known.downloads)} files are at {folder}, {done}.")
        said += trust_remarks(known.downloads)
        said.append(
            f"Shards of them: rwkvclip-eval data prepare {record}@{variant} --from {folder} "
            f"--data-root {data_root}"
        )
    return f"{record}: {failure}{' '.join(said)}"


def trust_remarks(downloads: Sequence[Download]) -> list[str]:
    """Return a sentence for each thing that keeps a fetched file from being surely its authors'."""
    weak = {
        "No checksum is known of {}: only its kind was checked.": [d for d in downloads if not d.has_sum],
        "By MD5 alone, which finds damage and no forgery: {}.": [
            d for d in downloads if d.has_sum and d.sha256 is None
        ],
        "Over plain http, which anybody on the way can change: {}.": [
            d for d in downloads if d.url.startswith("http://") and d.sha256 is None
        ],
    }
    return [text.format(name_some(d.file for d in found)) for text, found in weak.items() if found]


@contextlib.contextmanager
def _after(failure: str) -> Iterator[None]:
    """Let what fails here say first what failed before it."""
    try:
        yield
    except DataNotFound as error:
        raise DataNotFound(f"{failure}{error}") from error


def _fetch_published(
    record: str,
    entry: Entry,
    known: Variant,
    data_root: Path,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Fetch, check and unpack a variant's published files; return their folder."""
    from rwkvclip_eval.data.archives import unpack
    from rwkvclip_eval.data.http import fetch_file

    folder = data_root / record
    for download in known.downloads:
        try:
            unpack(fetch_file(download, folder, on_progress))
        except DataNotFound as error:
            raise DataNotFound(f"{error} {_by_hand(record, entry)}") from error
    return folder


def _by_hand(record: str, entry: Entry) -> str:
    if entry.by_hand:
        return f"By hand: rwkvclip-eval data list {record} says how."
    return f"By hand: see {entry.homepage}"


def wrong_hub_files(files: Sequence[HubFile], target: Path) -> list[Path]:
    """Return the files that are missing, or of another size or SHA-256 than the hub's."""
    wrong = []
    for file in files:
        path = target / file.name
        same = path.is_file() and path.stat().st_size == file.size
        if not same or (file.sha256 is not None and file_digest(path) != file.sha256):
            wrong.append(path)
    return wrong


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


def _checked_snapshot(repository: str, target: Path, splits: Sequence[str]) -> int:
    """Download, check, fetch wrong files once more; return how many files were checked."""
    _snapshot(repository, target, splits)
    files = _hub_files(repository, target, splits)
    absent = [split for split in splits if not any(f.name.startswith(f"{split}/") for f in files)]
    if absent:
        raise DataNotFound(f"{repository} has no split {', '.join(absent)}.")
    wrong = wrong_hub_files(files, target)
    if wrong:
        for path in wrong:
            path.unlink(missing_ok=True)
        _snapshot(repository, target, splits)
        wrong = wrong_hub_files(files, target)
    if wrong:
        raise DamagedData(
            f"{len(wrong)} files of {repository} came twice with another size or SHA-256 than the hub says: "
            f"{name_some(map(str, wrong))}. Delete them and run the command again later."
        )
    return len(files)


def _hub_files(repository: str, target: Path, splits: Sequence[str]) -> list[HubFile]:
    import fnmatch

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


def _complete(path: Path) -> bool:
    count = path / "nshards.txt"
    if not count.is_file():
        return any(path.glob("*.tar"))
    expected = whole_number(read_text(count))
    return expected is not None and len(list(path.glob("*.tar"))) >= expected


def _snapshot(repository: str, target: Path, splits: Sequence[str]) -> None:
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


def _unreachable(repository: str, target: Path, error: Exception) -> str:
    return (
        f"Cannot fetch {repository} from the Hugging Face hub: {error}. On a machine without internet, "
        f"fetch it elsewhere and copy the folder to {target}."
    )
