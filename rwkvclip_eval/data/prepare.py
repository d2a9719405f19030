"""Writes an opened split as webdataset shards, in the layout that `webdataset.py` reads.

Shards are written under temporary names and renamed when whole, and every byte of them follows from the
source alone, so an interrupted run continued and an uninterrupted one leave the same files. nshards.txt comes
first: until the last shard is there, opening the split says what is missing.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from rwkvclip_eval.data.catalogue import canonical_name, catalogue, choose_variant, record_name
from rwkvclip_eval.data.checksums import SUMS_NAME, write_sums
from rwkvclip_eval.data.folder import SUFFIXES, open_folder
from rwkvclip_eval.data.formats import reader_of
from rwkvclip_eval.data.manifest import open_manifest
from rwkvclip_eval.data.reading import damage_named, plain_name, read_text
from rwkvclip_eval.data.samples import WHERE_LENGTH, FileReader, Split, Undecodable, decode_image
from rwkvclip_eval.data.types import SPLITS
from rwkvclip_eval.data.webdataset import TARGET_SUFFIX, ShardReader, open_webdataset
from rwkvclip_eval.errors import (
    DamagedData,
    DataNotFound,
    NoSuchSplit,
    OutputError,
    name_some,
    nearest,
    refuse_newer,
    shortened,
)
from rwkvclip_models.disk import atomic_path, file_digest, write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rwkvclip_eval.data.types import DatasetRef

SAMPLES_PER_SHARD = 2000
STATE_NAME, STATE_VERSION = ".prepare.json", 1


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One split as shards.

    Attributes:
        folder: `DATA_ROOT/wds_NAME`.
        split: folder of the shards in it.
        num_samples: images.
        num_shards: in all.
        num_written: shards written by this call; the others were there.
        fingerprint: of the shards as opened.
        remark: what is to be said against it, empty where nothing.
    """

    folder: Path
    split: str
    num_samples: int
    num_shards: int
    num_written: int
    fingerprint: str
    remark: str = ""


def prepare_dataset(
    ref: DatasetRef,
    source: Path,
    data_root: Path,
    splits: Sequence[str] = (),
    *,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    on_progress: Callable[[int, int, str], None] | None = None,
    cache_dir: Path | None = None,
) -> tuple[list[Prepared], dict[str, DataNotFound]]:
    """Write splits of a dataset's published files (else an image folder, else shards) below `data_root`.

    Args:
        ref: name and variant.
        source: the folder of the files.
        data_root: gets `wds_NAME` or `wds_NAME@VARIANT`.
        splits: which; all that the source has by default.
        samples_per_shard: images in each shard but the last.
        on_progress: called with (images done, images in all, what).
        cache_dir: keeps fingerprints; the user's cache folder by default.

    Returns:
        The splits written, and split → reason for those the source does not have: `NoSuchSplit` where it
        does not claim to, else what it lacks.

    Raises:
        DataNotFound: the source has none of the splits, or not one that was asked for.
        DamagedData: the source contradicts itself or the catalogue.
        OutputError: the disk is full, the folder cannot be written or holds something else.
    """
    if not source.is_dir() and not (source.is_file() and source.suffix == ".csv"):
        raise DataNotFound(
            f"--from {source} is no folder and no .csv file; give the folder of the unpacked published files."
        )
    record, name = record_name(ref.name), canonical_name(ref.name)
    entry = catalogue()[record] if record is not None else None
    variant = choose_variant(name, entry, ref.variant) if entry else ref.variant or "default"
    known = entry.variant(variant) if entry else None
    folder = data_root / prepared_folder(name, variant, known.webdataset if known else ())
    if folder.resolve() == source.resolve():
        raise OutputError(f"--from {source} is the folder the shards would go to; give another data root.")
    opened: dict[str, Split] = {}
    absent: dict[str, DataNotFound] = {}
    for split in splits or _default_splits(name, source):
        try:
            with damage_named(f"{source}, split {split},"):
                opened[split] = open_source(name, source, split, variant, cache_dir)
        except DataNotFound as error:
            if splits:
                raise
            absent[split] = error
    if not opened:
        reasons = [str(error) for error in absent.values() if not isinstance(error, NoSuchSplit)]
        raise DataNotFound(" ".join(dict.fromkeys(reasons or map(str, absent.values()))))
    remarks = {}
    for split, found in opened.items():
        if entry is not None and (kind := entry.kind_of(variant)) != found.kind:
            raise DamagedData(f"{name}: the catalogue says {kind}, {source} holds {found.kind} data.")
        expected = known.counts.get(split) if known else None
        count = len(found.keys)
        if expected is not None and count > expected:
            raise DamagedData(
                f"{name}@{variant} {split}: the catalogue knows {expected} images, {source} holds {count}. "
                "Name the variant it is (see `rwkvclip-eval data list`), or give it a name of its own."
            )
        short = expected is not None and count < expected
        remarks[split] = f"{count} of the {expected} images that the catalogue knows" if short else ""
        if entry is None and (near := nearest(name, catalogue(), cutoff=0.8)):
            remarks[split] = (
                f"{name} is not in the catalogue, so it was read as it lies; {near[0]} would be known"
            )
    _check_space(opened, folder)
    done = []
    for split, found in opened.items():
        made = write_split(found, folder, split, samples_per_shard, on_progress, cache_dir)
        done.append(replace(made, remark="; ".join(filter(None, (made.remark, remarks[split])))))
    return done, absent


def prepared_folder(name: str, variant: str, webdataset: Sequence[str]) -> str:
    """Return the name of the folder that gets the shards; one of `webdataset`, where there are any.

    Raises:
        UserError: name or variant would make another folder.
    """
    # As opening by name does: one folder, whatever the name.
    name = plain_name(name.replace("/", "-"), "dataset name")
    plain_name(variant, "variant")
    own = f"wds_{name}" if variant == "default" else f"wds_{name}@{variant}"
    return own if own in webdataset or not webdataset else webdataset[0]


def open_source(name: str, source: Path, split: str, variant: str, cache_dir: Path | None) -> Split:
    """Open one split of files as published, of shards, of an image folder, or of a CSV manifest."""
    if source.is_file() and source.suffix == ".csv":
        return open_manifest(source, source.parent, split, cache_dir=cache_dir)
    reader = reader_of(name)
    # Published files can be tars too; those of shards are counted.
    if any(source.glob("*/nshards.txt" if reader is not None else "*/*.tar")):
        return open_webdataset(source, split, cache_dir)
    if reader is not None:
        return reader(source, split, variant, cache_dir)
    return open_folder(source, split, None, cache_dir)


def _default_splits(name: str, source: Path) -> Sequence[str]:
    if reader_of(name) is not None or source.is_file():
        return SPLITS
    # A folder without splits would open as each of them.
    return [s for s in SPLITS if (source / s).is_dir()] or ["test"]


def write_split(
    found: Split,
    folder: Path,
    split: str,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    on_progress: Callable[[int, int, str], None] | None = None,
    cache_dir: Path | None = None,
) -> Prepared:
    """Write `found` to `folder`/`split`, continuing what an earlier call began.

    Raises:
        OutputError: it cannot be written, or holds another source's shards.
        DamagedData: the shards do not read back as the source.
        UserError: the split's name would make another folder.
    """
    from filelock import FileLock, Timeout

    where = folder / plain_name(split, "split")
    try:
        where.mkdir(parents=True, exist_ok=True)
        with FileLock(where / ".prepare.lock", timeout=0):
            return _write_locked(found, folder, split, samples_per_shard, on_progress, cache_dir)
    except Timeout as error:
        raise OutputError(f"Another `data prepare` is writing {where}; wait for it to end.") from error
    except OSError as error:
        raise OutputError(f"Cannot write {where}: {error.strerror or error}.") from error


def _write_locked(
    found: Split,
    folder: Path,
    split: str,
    samples_per_shard: int,
    on_progress: Callable[[int, int, str], None] | None,
    cache_dir: Path | None,
) -> Prepared:
    where, n = folder / split, len(found.keys)
    starts = range(0, n, samples_per_shard)
    _claim(found, where, samples_per_shard)
    for name, text in _beside(found).items():
        _write_once(folder / name, text)
    write_text(where / "nshards.txt", f"{len(starts)}\n")
    keys = _member_keys(found.keys)
    written = 0
    for number, start in enumerate(starts):
        path = where / f"{number}.tar"
        stop = min(start + samples_per_shard, n)
        if not path.is_file():
            (where / SUMS_NAME).unlink(missing_ok=True)
            with atomic_path(path) as temporary, tarfile.open(temporary, "w") as archive:
                for i in range(start, stop):
                    suffix, content = _image_file(found, i)
                    _add(archive, f"{keys[i]}.{suffix}", content)
                    _add(archive, f"{keys[i]}.{TARGET_SUFFIX[found.kind]}", _target(found, i))
                    if on_progress is not None:
                        on_progress(i + 1, n, f"{folder.name}/{split}")
            written += 1
        elif on_progress is not None:
            on_progress(stop, n, f"{folder.name}/{split}")
    if not (where / SUMS_NAME).is_file():
        shards = [f"{number}.tar" for number in range(len(starts))]
        write_sums(where, {shard: file_digest(where / shard) for shard in shards})
    back = open_webdataset(folder, split, cache_dir)
    _check_back(found, back, where)
    assert isinstance(back.images, ShardReader)
    damaged = [key for key, size in zip(found.keys, back.images.sizes, strict=True) if not size]
    return Prepared(
        folder=folder,
        split=split,
        num_samples=n,
        num_shards=len(starts),
        num_written=written,
        fingerprint=back.fingerprint,
        remark=(
            f"{len(damaged)} of {n} could not be decoded and are damaged images in the shards, which runs "
            f"leave out with --allow-missing {len(damaged)}: {name_some(damaged)}"
            if damaged
            else ""
        ),
    )


def _claim(found: Split, where: Path, samples_per_shard: int) -> None:
    """Refuse a folder that holds shards of another source or size."""
    about = json.dumps([found.fingerprint, found.kind, found.class_names, found.templates])
    identity = hashlib.sha256(about.encode()).hexdigest()
    said = {"version": STATE_VERSION, "source": identity, "samples_per_shard": samples_per_shard}
    text = f"{json.dumps(said)}\n"
    state = where / STATE_NAME
    if any(where.glob("*.tar")):
        if not state.is_file():
            raise OutputError(
                f"{where} holds shards that `data prepare` did not write; move that folder away."
            )
        if (there := read_text(state)) != text:
            refuse_newer(there, "version", STATE_VERSION, str(state))
            raise OutputError(
                f"{where} holds shards of another source, or of another --samples-per-shard "
                f"(this source: {found.fingerprint[:12]}, {samples_per_shard} a shard). Give the same ones "
                "to continue, or move that folder away."
            )
        return
    write_text(state, text)


def _beside(found: Split) -> dict[str, str]:
    """Return the small files beside the splits: name → text."""
    texts = {"dataset_type.txt": f"{found.kind}\n"}
    if found.class_names is not None:
        texts["classnames.txt"] = "".join(f"{c}\n" for c in found.class_names)
    if found.templates is not None:
        texts["zeroshot_classification_templates.txt"] = "".join(f"{t}\n" for t in found.templates)
    return texts


def _write_once(path: Path, text: str) -> None:
    if not path.is_file():
        write_text(path, text)
    elif read_text(path) != text:
        raise OutputError(f"{path} says something else than this source; move {path.parent} away.")


def _member_keys(keys: Sequence[str]) -> list[str]:
    """Return keys that member names can carry: the source's without file ending, else numbers.

    A reader of shards takes the first dot of a name's last part for the key's end.
    """
    made = []
    for key in keys:
        path = PurePosixPath(key)
        stem = path.with_suffix("") if path.suffix.lower() in SUFFIXES else path
        made.append(stem.with_name(stem.name.replace(".", "_")).as_posix() if stem.name else "")
    unusable = any(not key or key.startswith("/") or ".." in PurePosixPath(key).parts for key in made)
    if unusable or max(Counter(made).values(), default=1) > 1:
        return [f"s{i:07d}" for i in range(len(keys))]
    return made


def _image_file(found: Split, index: int) -> tuple[str, bytes]:
    """Return file ending and bytes: the source's own, or a PNG of the same pixels.

    Of what the source cannot decode, no bytes: a damaged image, as a broken file would be.
    """
    where = shortened(f"sample {found.keys[index]!r} ({found.images.where(index)})", WHERE_LENGTH)
    try:
        content = found.images.read(index)
    except Undecodable:
        return "png", b""
    except (OSError, SyntaxError, ValueError) as error:
        raise DataNotFound(f"Cannot read {where}: {error}.") from error
    if isinstance(content, bytes):
        if content.startswith(b"\xff\xd8\xff"):
            return "jpg", content
        if content.startswith(b"\x89PNG\r\n\x1a\n"):
            return "png", content
        if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            return "webp", content
        image = decode_image(content, where)
    else:
        image = content if content.mode == "L" else decode_image(content, where)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "png", stream.getvalue()


def _target(found: Split, index: int) -> bytes:
    if found.captions is not None:
        return "\n".join(_one_line(found.captions[index])).encode()
    assert found.labels is not None
    if found.kind == "classification":
        return str(int(found.labels[index])).encode()
    stream = io.BytesIO()
    np.save(stream, found.labels[index].astype(np.int64), allow_pickle=False)
    return stream.getvalue()


def _one_line(captions: Sequence[str]) -> list[str]:
    return [" ".join(caption.splitlines()) for caption in captions]


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    # A fresh TarInfo has no time, owner or group of this machine.
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _check_back(found: Split, back: Split, where: Path) -> None:
    if found.captions is not None:
        same = back.captions == [_one_line(c) for c in found.captions]
    else:
        assert found.labels is not None and back.labels is not None
        same = np.array_equal(found.labels, back.labels)
    if not same or (back.class_names, back.templates) != (found.class_names, found.templates):
        raise DamagedData(
            f"{where} does not read back as its source: empty captions, or class names with blanks around "
            "them or line breaks. Mend the source and prepare it into an empty folder."
        )


def _check_space(opened: Mapping[str, Split], folder: Path) -> None:
    """Refuse to begin where the images alone are larger than the free space, if their sizes are known."""
    needed = 0
    for split, found in opened.items():
        if isinstance(found.images, FileReader):
            needed += sum(path.stat().st_size for path in found.images.paths)
        elif isinstance(found.images, ShardReader):
            needed += int(found.images.sizes.sum())
        needed -= sum(path.stat().st_size for path in (folder / split).glob("*.tar"))
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OutputError(
            f"{folder} needs at least {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free there."
        )
