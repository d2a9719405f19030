"""What `data list` says: what the catalogue knows, what the data root holds, and how to get the rest."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from rwkvclip_eval.data.absence import ROOT_UNKNOWN, obtain_command
from rwkvclip_eval.data.catalogue import Entry, canonical_name, catalogue, choose_variant, record_name
from rwkvclip_eval.data.formats import READERS
from rwkvclip_eval.data.open import check_data_root, with_variant
from rwkvclip_eval.errors import DamagedData, UserError
from rwkvclip_eval.registry import unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from rwkvclip_eval.data.catalogue import Variant
    from rwkvclip_eval.data.types import DatasetRef


@dataclass(frozen=True, kw_only=True)
class CatalogueRow:
    """One line of `data list`: a dataset × variant and whether the data root has it.

    Attributes:
        name: record name.
        variant: which of the versions in circulation.
        title: name for readers.
        kind: what its labels or captions make it.
        num_test: images of the evaluation split; None for folders the catalogue does not know.
        metric: name of the one the field reports for it.
        found: folder below the data root, `embedded`, or empty where it is not there.
        obtain: the command that gets it, or says how to.
        licence: as its home states it.
        homepage: address.
        size_gb: GB to fetch, `~` before an estimate; `?` where nobody says it.
        terms: what one must accept or ask for first.
    """

    name: str
    variant: str
    title: str
    kind: str
    num_test: int | None
    metric: str
    found: str
    obtain: str
    licence: str
    homepage: str
    size_gb: str
    terms: str

    @property
    def label(self) -> str:
        """The name that commands take."""
        return self.name if self.variant == "default" else f"{self.name}@{self.variant}"

    @property
    def state(self) -> str:
        """Where it is, or in a word how it is got."""
        if self.found or not self.obtain:
            return self.found
        how = "download" if " data download " in self.obtain else "by hand"
        return f"no: {how}" + (f" ({self.terms})" if self.terms else "")


def catalogue_rows(data_root: Path | None) -> list[CatalogueRow]:
    """Return every dataset × variant of the catalogue, then webdataset folders it does not know.

    Raises:
        DataNotFound: the data root is not a folder.
    """
    check_data_root(data_root)
    rows = []
    known_folders: set[str] = set()
    for name, entry in catalogue().items():
        for variant_name, variant in entry.variants.items():
            known_folders.update(variant.webdataset)
            rows.append(_row(name, variant_name, (entry.evaluation_split,), data_root))
    for folder in sorted(data_root.glob("wds_*")) if data_root is not None else []:
        if folder.is_dir() and not any(fnmatchcase(folder.name, known) for known in known_folders):
            rows.append(_unknown_row(folder))
    return rows


def rows_of(
    wanted: Iterable[tuple[DatasetRef, str | None, Sequence[str]]], data_root: Path | None
) -> list[CatalogueRow]:
    """Return a row for each dataset that a suite uses; those of its own have neither size nor licence.

    Args:
        wanted: reference, variant that the protocol means, and the splits that are needed.
        data_root: where they are looked for.

    Raises:
        DataNotFound: the data root is not a folder.
    """
    check_data_root(data_root)
    rows = []
    for given, variant, splits in wanted:
        ref = with_variant(given)
        record = record_name(ref.name)
        if record is None or ref.source is not None or ref.folder is not None:
            rows.append(_own_row(ref, data_root))
            continue
        chosen = choose_variant(record, catalogue()[record], ref.variant or variant)
        rows.append(_row(record, chosen, splits, data_root))
    return rows


def _row(name: str, variant_name: str, splits: Sequence[str], data_root: Path | None) -> CatalogueRow:
    entry = catalogue()[name]
    variant = entry.variant(variant_name)
    return CatalogueRow(
        name=name,
        variant=variant_name,
        title=entry.title,
        kind=entry.kind_of(variant_name),
        num_test=variant.counts[entry.evaluation_split],
        metric=entry.metric_of(variant_name),
        found=_found(name, variant, splits, data_root),
        obtain="" if variant.embedded else obtain_command(name, variant_name, data_root),
        licence=entry.licence,
        homepage=entry.homepage,
        size_gb=entry.size_of(variant_name),
        terms=entry.terms,
    )


def _found(name: str, variant: Variant, splits: Sequence[str], data_root: Path | None) -> str:
    """Return the folders that hold all of `splits`; nothing where one is nowhere."""
    if variant.embedded:
        return "embedded"
    if data_root is None:
        return ""
    published = (variant.clip_benchmark, name) if variant.clip_benchmark or name in READERS else ()
    whole = [folder for folder in filter(None, published) if (data_root / folder).is_dir()]
    found: dict[str, None] = {}
    for split in splits:
        shards = [folder for folder in variant.webdataset if (data_root / folder / split).is_dir()]
        if not shards and not whole:
            return ""
        found[(shards or whole)[0]] = None
    return " + ".join(found)


def _own_row(ref: DatasetRef, data_root: Path | None) -> CatalogueRow:
    """Return the row of a set that a suite brings itself or finds by its folder's name."""
    short = canonical_name(ref.name)
    folder = data_root / f"wds_{short}" if data_root is not None else None
    there = folder is not None and folder.is_dir() and ref.source is None and ref.folder is None
    if there and folder is not None:
        return _unknown_row(folder)
    kind = ref.source.kind if ref.source is not None else "folder" if ref.folder is not None else ""
    return _bare_row(short, "the suite's own", "", f"the suite's {kind}" if kind else "")


def _unknown_row(folder: Path) -> CatalogueRow:
    from rwkvclip_eval.data.webdataset import dataset_type

    title = "not in the catalogue: runs unverified"
    try:
        kind: str = dataset_type(folder)
    except DamagedData as error:
        kind, title = "unknown", str(error)
    return _bare_row(folder.name.removeprefix("wds_"), title, kind, folder.name)


def _bare_row(name: str, title: str, kind: str, found: str) -> CatalogueRow:
    return CatalogueRow(
        name=name,
        variant="default",
        title=title,
        kind=kind,
        num_test=None,
        metric="image_retrieval_recall@1" if kind == "retrieval" else "top1_accuracy",
        found=found,
        obtain="",
        licence="",
        homepage="",
        size_gb="",
        terms="",
    )


def describe(name: str, data_root: Path | None) -> str:
    """Return all that the catalogue says of a dataset: versions, licence, and how to get it, step by step.

    Raises:
        UserError: the catalogue does not know it.
    """
    record = record_name(name.partition("@")[0])
    if record is None:
        raise UserError(unknown_name("dataset", name, catalogue()))
    entry = catalogue()[record]
    check_data_root(data_root)
    facts = [
        ("kind", entry.kind),
        ("home", entry.homepage),
        ("licence", entry.licence),
        ("first", entry.terms),
        ("other names", ", ".join(entry.aliases)),
    ]
    lines = [f"{record}: {entry.title}", *(f"  {what}: {text}" for what, text in facts if text)]
    lines += ["Versions:", *_versions(record, entry, data_root)]
    if entry.by_hand:
        root = shlex.quote(str(data_root or ROOT_UNKNOWN))
        lines += [
            "By hand:",
            *(f"  {line}" for line in entry.by_hand.replace("DATA_ROOT", root).splitlines()),
        ]
    if entry.layout:
        lines += ["Files as published:", f"  {entry.layout}"]
    return "\n".join(lines)


def _versions(record: str, entry: Entry, data_root: Path | None) -> list[str]:
    lines = []
    for name, variant in entry.variants.items():
        row = _row(record, name, (entry.evaluation_split,), data_root)
        counts = ", ".join(f"{split} {count:,}" for split, count in variant.counts.items())
        size = f"; {row.size_gb} GB" if row.size_gb not in ("?", "0") else ""
        lines.append(f"  {row.label}: {counts}{size}; {'at ' + row.found if row.found else 'not there'}")
        lines += [f"    {variant.note}"] if variant.note else []
        if variant.sources:
            lines.append(f"    {row.obtain}")
    return lines
