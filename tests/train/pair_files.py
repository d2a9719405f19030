"""The same pairs written in every layout of training data, by nothing of ours."""

from __future__ import annotations

import csv
import io
import json
import struct
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from rwkvclip_models import tokenize

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = struct.pack("<I", 0xCED7230A)


@dataclass(frozen=True)
class Made:
    name: str
    jpeg: bytes
    raw: str
    synthetic: str

    @property
    def ids(self) -> np.ndarray[Any, Any]:
        """[154] int64."""
        return tokenize([self.raw, self.synthetic]).numpy().reshape(-1)


def jpeg(number: int, size_px: tuple[int, int] = (48, 32), comment: bytes = b"") -> bytes:
    pixels = np.random.default_rng(number).integers(256, size=(4, 6, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize(size_px).save(stream, "JPEG", quality=90, comment=comment)
    return stream.getvalue()


def with_magic(number: int, *, aligned: bool) -> bytes:
    """A JPEG that holds RecordIO's magic, at a multiple of 4 bytes or not."""
    for pad in range(4):
        made = jpeg(number, comment=b"." * pad + MAGIC + b"..")
        if (made.index(MAGIC) % 4 == 0) == aligned:
            return made
    raise AssertionError


def pairs() -> list[Made]:
    images = [jpeg(0), with_magic(1, aligned=True), with_magic(2, aligned=False), jpeg(3), jpeg(4)]
    return [
        Made(f"p{i}", image, f"raw text {i}", f"a synthetic caption of {i} things")
        for i, image in enumerate(images)
    ]


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def as_tar(folder: Path, made: list[Made], *, texts: str = "json") -> None:
    members: list[tuple[str, bytes]] = []
    for pair in made:
        members.append((f"{pair.name}.jpg", pair.jpeg))
        if texts == "json":
            said = {"raw": pair.raw, "synthetic": [pair.synthetic], "width": 48}
            members.append((f"{pair.name}.json", json.dumps(said).encode()))
        elif texts == "txt":
            members.append((f"{pair.name}.raw.txt", pair.raw.encode()))
            members.append((f"{pair.name}.synthetic.txt", pair.synthetic.encode()))
    write_tar(folder / "0.tar", members)


def record(content: bytes) -> bytes:
    """Parts of one record, as dmlc's RecordIO writer makes them: split at each aligned magic."""
    parts, start = [], 0
    for at in range(0, len(content) // 4 * 4, 4):
        if content[at : at + 4] == MAGIC:
            parts.append(content[start:at])
            start = at + 4
    parts.append(content[start:])
    out = b""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        kind = 0 if len(parts) == 1 else 1 if number == 0 else 3 if last else 2
        out += MAGIC + struct.pack("<I", kind << 29 | len(part)) + part + b"\0" * (-len(part) % 4)
    return out


def as_rec(folder: Path, made: list[Made], *, idx: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    out, places = b"", []
    for i, pair in enumerate(made):
        places.append(f"{i}\t{len(out)}\n")
        labels = pair.ids.astype("<f4")
        out += record(struct.pack("<IfQQ", len(labels), 0.0, i, 0) + labels.tobytes() + pair.jpeg)
    (folder / "train.rec").write_bytes(out)
    if idx:
        (folder / "train.idx").write_text("".join(places))


def as_parquet(folder: Path, made: list[Made], *, rows_per_group: int = 2) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "image": [{"bytes": pair.jpeg, "path": f"{pair.name}.jpg"} for pair in made],
            "raw": [pair.ids[:77].tolist() for pair in made],
            "synthetic": [pair.ids[77:].tolist() for pair in made],
        }
    )
    pq.write_table(table, folder / "0.parquet", row_group_size=rows_per_group)


def as_npy(folder: Path, made: list[Made], *, file: str = "tokens.npy", dtype: str = "int32") -> None:
    """Images in a tar, texts in an array."""
    as_tar(folder, made, texts="")
    np.save(folder / file, np.stack([pair.ids for pair in made]).astype(dtype))


def as_csv(folder: Path, made: list[Made]) -> None:
    """An image folder and a table."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "raw", "synthetic"])
        for pair in made:
            (folder / "images" / f"{pair.name}.jpg").write_bytes(pair.jpeg)
            writer.writerow([f"images/{pair.name}.jpg", pair.raw, pair.synthetic])


LAYOUTS: dict[str, Any] = {
    "tar": as_tar,
    "tar of txt": lambda folder, made: as_tar(folder, made, texts="txt"),
    "rec": as_rec,
    "rec without idx": lambda folder, made: as_rec(folder, made, idx=False),
    "parquet": as_parquet,
    "npy for all": as_npy,
    "npy of a shard": lambda folder, made: as_npy(folder, made, file="0.npy", dtype="float32"),
    "csv": as_csv,
}
