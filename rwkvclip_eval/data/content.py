"""What tells an image whatever source it comes from: a digest of its content, which pairs runs over one set.

The id of a sample is the first half of the SHA-256 (hex) of its image file where that has lost something of
the picture (JPEG, most WebP), since decoders differ in the last bit. Of any other file, of arrays and of
datasets of a user's own it is `px-` and the same of size and RGB pixels, so that an array and files made of
it are one. An image that a split holds several times is `ID`, `ID#2`, …, in order of what it is said to show,
then of the split.

Files are read once. What they gave lies in the cache folder, under the fingerprint of the split, which any
other image changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import TYPE_CHECKING, Any

from rwkvclip_eval.data.limit import SubsetDataset
from rwkvclip_eval.data.reading import TEXT_LIMIT_BYTES
from rwkvclip_eval.data.samples import SampleDataset, decode_image, default_cache_dir, targets
from rwkvclip_eval.errors import DamagedData, OutputError
from rwkvclip_models.disk import write_text
from rwkvclip_models.files import read_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from PIL.Image import Image

    from rwkvclip_eval.data.types import Dataset

DIGEST_CHARS = 32
FORMAT_VERSION = 2
REPORT_EVERY = 500


def content_ids(
    dataset: Dataset,
    cache_dir: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str | None]:
    """Return the id of every sample of a split, in its order; None where its image cannot be read now.

    Args:
        dataset: the split.
        cache_dir: keeps the digests; the user's cache folder by default. If it cannot be written, they are
            computed each time.
        on_progress: called with images read and their number.
    """
    name = hashlib.sha256(dataset.info.fingerprint.encode()).hexdigest()
    path = (cache_dir or default_cache_dir()) / "data" / f"{name}.content"
    about = hashlib.sha256(json.dumps([FORMAT_VERSION, list(dataset.keys)]).encode()).hexdigest()
    digests = _kept(path, about, len(dataset)) or [""] * len(dataset)
    unknown = [index for index, digest in enumerate(digests) if not digest]
    for done, index in enumerate(unknown, start=1):
        digests[index] = _digest(dataset, index)
        if done % REPORT_EVERY == 0 or done == len(unknown):
            on_progress(done, len(unknown))
    if any(digests[index] for index in unknown):
        body = "".join(f"{digest}\n" for digest in digests)
        # A full disk costs reading again next time, nothing else.
        with contextlib.suppress(OutputError):
            write_text(path, f"{about} {hashlib.sha256(body.encode()).hexdigest()}\n{body}")
    return _numbered(digests, targets(dataset.labels, dataset.captions))


def _kept(path: Path, about: str, count: int) -> list[str] | None:
    """Return the digests that `path` holds of these very samples, empty where one was not known."""
    try:
        content = read_bytes(path, limit=TEXT_LIMIT_BYTES, what="list of digests")
        head, _, body = content.decode("ascii").partition("\n")
    except ValueError:  # A UserError is one.
        return None
    digests = body.splitlines()
    whole = head == f"{about} {hashlib.sha256(body.encode()).hexdigest()}"
    return digests if whole and len(digests) == count else None


def _digest(dataset: Dataset, index: int) -> str:
    """Return the digest of one image, or nothing where it cannot be read."""
    try:
        content = _content(dataset, index)
        if not isinstance(content, bytes):
            return _digest_of_pixels(content)
    except MemoryError:
        raise
    except Exception:  # Whatever a source or library raises, the number was made without this image's id.
        return ""
    if not _is_lossy(content):
        with contextlib.suppress(DamagedData):
            return _digest_of_pixels(content)
    return hashlib.sha256(content).hexdigest()[:DIGEST_CHARS]


def _is_lossy(content: bytes) -> bool:
    """Return whether the content of an image file is JPEG, JPEG 2000 or the lossy kind of WebP."""
    jpeg = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")
    webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    return content.startswith(jpeg) or (webp and b"VP8L" not in content[12:64])


def _digest_of_pixels(content: bytes | Image) -> str:
    """Return the digest of a picture as encoders get it.

    Raises:
        DamagedData: it is none.
    """
    image = decode_image(content, "image")
    pixels = f"{image.size} ".encode() + image.tobytes()
    return f"px-{hashlib.sha256(pixels).hexdigest()[:DIGEST_CHARS]}"


def _content(dataset: Dataset, index: int) -> bytes | Image:
    """Return the image file's bytes, or the image where the source has no file of it alone."""
    if isinstance(dataset, SubsetDataset):
        return _content(dataset.parent, dataset.indices[index])
    if not isinstance(dataset, SampleDataset):
        return dataset.image(index)
    # A reader that decodes may still know the file.
    content: bytes | Image = getattr(dataset.images, "encoded", dataset.images.read)(index)
    return content


def _numbered(digests: Sequence[str], wanted: Sequence[Any]) -> list[str | None]:
    same: dict[str, list[int]] = {}
    for index, digest in enumerate(digests):
        same.setdefault(digest, []).append(index)
    ids: list[str | None] = [digest or None for digest in digests]
    for digest, rows in same.items():
        if digest and len(rows) > 1:
            ordered = sorted(rows, key=lambda i: json.dumps(wanted[i]))
            for number, index in enumerate(ordered[1:], start=2):
                ids[index] = f"{digest}#{number}"
    return ids
