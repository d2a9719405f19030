"""Fetches datasets on a machine with internet, so that `run --offline` finds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rwkvclip_eval.data.catalogue import absent_splits, catalogue, choose_variant, record_name
from rwkvclip_eval.data.hub import checked_snapshot, is_complete, snapshot
from rwkvclip_eval.data.open import DATASETS, open_dataset, wds_folder, with_variant
from rwkvclip_eval.data.reading import plain_name
from rwkvclip_eval.data.types import HuggingFaceSource
from rwkvclip_eval.errors import DamagedData, DataNotFound, name_some
from rwkvclip_eval.registry import unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from rwkvclip_eval.data.catalogue import Download, Entry, Variant
    from rwkvclip_eval.data.types import DatasetRef


_EMBEDDED = "ships with scikit-learn, nothing to fetch."


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
    source = _source(record, ref.variant or variant)
    known = source.known
    if known.embedded:
        return f"{record}: {_EMBEDDED}"
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
            return is_complete(root / next(folder for folder in there if folder not in short) / split)
        try:
            return count(split) >= (known.counts.get(split, 1) if short else 1)
        except (DataNotFound, DamagedData):
            return False

    def lacking(wanted: Iterable[str]) -> list[str]:
        return [split for split in wanted if not is_there(split)]

    judged = ref.split or source.entry.evaluation_split
    missing = lacking(
        dict.fromkeys((judged, *fit_splits[:1], *(s for s in fit_splits[1:] if s in known.counts)))
    )
    if not missing:
        return f"{record}: already at {data_root}."
    got = _obtain(source, missing, data_root, snapshot, lambda _: lacking(missing))
    for split in got.published:
        count(split)
    fetched = [known.hub[0]] if got.of_hub else []
    remarks: list[str] = []
    if got.published:
        fetched.append(f"{len(known.downloads)} published files in {data_root / record}")
        remarks = trust_remarks(known.downloads)
    return " ".join([f"{record}: {got.failure}fetched {' and '.join(fetched)}, to {data_root}.", *remarks])


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
    source = _source(record, ref.variant)
    known = source.known
    if known.embedded:
        return f"{record}: {_EMBEDDED}"
    wanted = [plain_name(split, "split") for split in splits or known.counts]
    of_hub = known.on_hub(wanted)
    if unknown := [split for split in wanted if split not in (*of_hub, *known.counts)]:
        raise DataNotFound(
            f"{source.label} has no split {', '.join(unknown)}, but {', '.join(known.counts)}."
        )
    said: list[str] = []

    def checked(repository: str, target: Path, found: Sequence[str]) -> None:
        num_files = checked_snapshot(repository, target, found if splits or known.hub_splits else ())
        said.append(f"{repository} is at {target}; {num_files} files have the hub's size and SHA-256.")
        there = [split for split in found if (target / split).is_dir()]
        said.extend(absent_splits(record, source.variant, known, there, found))

    got = _obtain(
        source, wanted, data_root, checked, lambda there: [s for s in wanted if s not in there], on_progress
    )
    if got.published:
        folder = data_root / record
        unsummed = name_some(download.file for download in known.downloads if not download.has_sum)
        done = f"unpacked and, except {unsummed}, checked" if unsummed else "checked and unpacked"
        said.append(f"{len(known.downloads)} files are at {folder}, {done}.")
        said += trust_remarks(known.downloads)
        said.append(
            f"Shards of them: rwkvclip-eval data prepare {source.label} --from {folder} "
            f"--data-root {data_root}"
        )
    return f"{record}: {got.failure}{' '.join(said)}"


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A version of a dataset of the catalogue.

    Attributes:
        name: record name of the dataset.
        variant: name of the version.
        entry: what the catalogue says of the dataset.
        known: what it says of the version.
    """

    name: str
    variant: str
    entry: Entry
    known: Variant

    @property
    def label(self) -> str:
        """Dataset and version, as the command line takes them."""
        return f"{self.name}@{self.variant}"

    @property
    def by_hand(self) -> str:
        """How to get it otherwise, a sentence."""
        if self.entry.by_hand:
            return f"By hand: rwkvclip-eval data list {self.name} says how."
        return f"By hand: see {self.entry.homepage}"


def _source(record: str, variant: str | None) -> _Source:
    """Return a version of a dataset, the first where None is asked for; raises as `choose_variant`."""
    entry = catalogue()[record]
    chosen = choose_variant(record, entry, variant)
    return _Source(name=record, variant=chosen, entry=entry, known=entry.variant(chosen))


class _Obtained(NamedTuple):
    """Where the splits of a dataset came from.

    Attributes:
        of_hub: those the hub gave.
        published: those that the published files hold.
        failure: why the hub gave none, ending so that what came of it can follow; empty where it gave some.
    """

    of_hub: Sequence[str]
    published: Sequence[str]
    failure: str


def _obtain(
    source: _Source,
    splits: Sequence[str],
    data_root: Path,
    from_hub: Callable[[str, Path, Sequence[str]], None],
    lacking: Callable[[Sequence[str]], Sequence[str]],
    on_progress: Callable[[int, int, str], None] | None = None,
) -> _Obtained:
    """Fetch splits from the hub, where it has them, and the published files of what is lacking then.

    Args:
        source: the dataset.
        splits: what is wanted.
        data_root: gets wds_NAME from the hub, and NAME with published files.
        from_hub: fetches splits of a repository into a folder.
        lacking: given the splits that the hub gave, says what is lacking.
        on_progress: see `download_dataset`.

    Raises:
        DataNotFound: neither has it; where both were tried, the text tells both failures.
        DamagedData: what came cannot be right.
        OutputError: it cannot be written.
    """
    known, failure = source.known, ""
    of_hub, rest = known.on_hub(splits), splits
    if of_hub:
        repository = known.hub[0]
        try:
            from_hub(repository, data_root / repository.rpartition("/")[2], of_hub)
        except DataNotFound as error:
            if not known.downloads:
                raise
            failure, of_hub = f"{error} Then: ", []
        rest = lacking(of_hub)
    if rest and not known.downloads:
        raise DataNotFound(
            f"{source.label}, split {' and '.join(rest)}, cannot be fetched automatically. {source.by_hand}"
        )
    if rest:
        try:
            _fetch_published(source, data_root / source.name, on_progress)
        except DataNotFound as error:
            raise DataNotFound(f"{failure}{error} {source.by_hand}") from error
    return _Obtained(of_hub, rest, failure)


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


def _fetch_published(
    source: _Source, folder: Path, on_progress: Callable[[int, int, str], None] | None
) -> None:
    """Fetch, check and unpack the published files."""
    from rwkvclip_eval.data.archives import unpack
    from rwkvclip_eval.data.http import fetch_file

    for download in source.known.downloads:
        unpack(fetch_file(download, folder, on_progress))
