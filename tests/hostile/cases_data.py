"""Cases of data: shards, folders, manifests, captions, tables, published files."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cases_inputs import cases, run
from data_files import TIB, huge_png, npy, npy_header, png, shard, sparse_tar
from harness import FOUND, Case
from mutations import CONTROL, Change, file_damages, in_json, in_places, written

TAR = "data/wds_x/test/0.tar"
VERIFY = ("data", "verify", "x", "--data-root", "data")
SHARDS = ("shards.yaml", "rwkv.json", "data/wds_x")

Members = Sequence[tuple[str, bytes]]


def _members(*labels: bytes, end: str = "cls") -> Members:
    return [m for i, label in enumerate(labels) for m in ((f"s{i}.png", png(i)), (f"s{i}.{end}", label))]


def _tar(*members: tuple[str, bytes], path: str = TAR) -> Change:
    return lambda work: shard(work / path, members)


def _link(kind: bytes, target: str) -> Change:
    def change(work: Path) -> None:
        with tarfile.open(work / TAR, "w") as archive:
            info = tarfile.TarInfo("s0.png")
            info.type, info.linkname = kind, target
            archive.addfile(info)
            info = tarfile.TarInfo("s0.cls")
            info.size = 1
            archive.addfile(info, io.BytesIO(b"0"))

    return change


def _index(make: Callable[[Path], object]) -> Change:
    def change(work: Path) -> None:
        path = work / "data/wds_x/test/.rwkvclip-index.parquet"
        path.unlink()
        make(path)

    return change


LABELS = {
    "a label of 30 digits": b"9" * 30,
    "a label of 5,000 digits": b"9" * 5000,
    "a label of 2e9": b"2000000000",
    "a label below 0": b"-1",
    "a label that is a text": b"owl",
    "a label that is NaN": b"nan",
    "a label with a fraction": b"1.5",
    "an empty label": b"",
    "a label of NUL": b"\0",
    "a label of megabytes": b"1" * (17 << 20),
    "a label beyond the classes": b"7",
}
SHARD_CHANGES: dict[str, Change] = {
    **{name: _tar(*_members(b"0", label)) for name, label in LABELS.items()},
    "a member of a tebibyte": lambda w: sparse_tar(w / TAR, "s0.png", TIB),
    "a link member of a gibibyte": lambda w: sparse_tar(w / TAR, "s0.png", 1 << 30, tarfile.SYMTYPE),
    "a long name of a gibibyte": lambda w: sparse_tar(w / TAR, "x", 1 << 30, tarfile.GNUTYPE_LONGNAME),
    "a header of a gibibyte": lambda w: sparse_tar(w / TAR, "x", 1 << 30, tarfile.XHDTYPE),
    "a link to a file outside": _link(tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link outside": _link(tarfile.LNKTYPE, "../../../outside/secret.png"),
    "a device": _link(tarfile.CHRTYPE, ""),
    "a key twice": _tar(*_members(b"0"), *_members(b"1")),
    "an image without label": _tar(
        ("s0.png", png()), *_members(b"0")[:0], ("s1.png", png(1)), ("s1.cls", b"1")
    ),
    "a label without image": _tar(("s0.cls", b"1")),
    "no members": _tar(),
    "an image that is none": _tar(("s0.png", b"not an image"), ("s0.cls", b"0")),
    "an image that is a page": _tar(("s0.png", b"<html></html>"), ("s0.cls", b"0")),
    "an empty image": _tar(("s0.png", b""), ("s0.cls", b"0")),
    "half an image": _tar(("s0.png", png(1, 64)[:90]), ("s0.cls", b"0")),
    "an image of 10^10 pixels": _tar(("s0.png", huge_png()), ("s0.cls", b"0")),
    "a name with control characters": _tar((f"{CONTROL.replace(chr(0), '')}.png", b"x"), ("s1.cls", b"0")),
    "a name that leads elsewhere": _tar(
        ("../../../outside/s0.png", png()), ("../../../outside/s0.cls", b"x")
    ),
    "a name that is not UTF-8": _tar(("s\udcff0.png", b"x"), ("s\udcff0.cls", b"0")),
    "a name of 60,000 letters": _tar(("x" * 60_000 + ".png", b"x"), ("x" * 60_000 + ".cls", b"0")),
    "captions for labels": _tar(*_members(b"a red owl", end="txt")),
    "a billion shards": written("data/wds_x/test/nshards.txt", "1000000000\n"),
    "−1 shards": written("data/wds_x/test/nshards.txt", "-1\n"),
    "a shard more than there is": written("data/wds_x/test/nshards.txt", "2\n"),
    "shards of 5,000 digits": written("data/wds_x/test/nshards.txt", "9" * 5000),
    "shards that are NaN": written("data/wds_x/test/nshards.txt", "nan"),
    "a kind nobody knows": written("data/wds_x/dataset_type.txt", "video"),
    "a kind of control characters": written("data/wds_x/dataset_type.txt", CONTROL),
    "another kind": written("data/wds_x/dataset_type.txt", "retrieval"),
    "no class names": written("data/wds_x/classnames.txt", ""),
    "too few class names": written("data/wds_x/classnames.txt", "a\n"),
    "class names of other bytes": written("data/wds_x/classnames.txt", b"\xff\xfe\na\nb\n"),
    "class names of megabytes": written("data/wds_x/classnames.txt", "x" * (20 << 20)),
    "class names of control characters": written("data/wds_x/classnames.txt", "a\nb\x1b[31m\x07\nc\n"),
    "a template without a place": written("data/wds_x/zeroshot_classification_templates.txt", "a\n"),
    "a template of attributes": written(
        "data/wds_x/zeroshot_classification_templates.txt", "{c.__class__} {0}\n"
    ),
    "templates of megabytes": written(
        "data/wds_x/zeroshot_classification_templates.txt", "{c}\n" * (6 << 20)
    ),
    "an index that is a page": _index(lambda p: p.write_text("<html></html>")),
    "an index that is a pipe": _index(os.mkfifo),
    "an index that is a device": _index(lambda p: p.symlink_to("/dev/zero")),
    "an index that is a folder": _index(Path.mkdir),
}


def shards() -> Iterator[Case]:
    argv = run("shards.yaml")
    yield from cases("shards", argv, SHARDS, file_damages(TAR))
    yield from cases("shards", argv, SHARDS, SHARD_CHANGES)
    for name in (
        "nshards.txt",
        "../classnames.txt",
        "../dataset_type.txt",
        "../zeroshot_classification_templates.txt",
    ):
        path = os.path.normpath(f"data/wds_x/test/{name}")
        places = in_places(path)
        yield from cases(f"shards: {Path(path).name}", argv, SHARDS, places)
    few = ("half", "noise", "a pipe", "a link to /dev/zero", "gzip of it", "a web page", "twice")
    damages = {name: change for name, change in file_damages(TAR).items() if name in few}
    yield from cases("data verify", VERIFY, SHARDS, damages | SHARD_CHANGES, codes=FOUND)
    parts = ("captioned-shards.yaml", "rwkv.json", "data/wds_r")
    captions = {
        "captions that are not UTF-8": b"\xff\xfe",
        "captions of a surrogate": b"\xed\xa0\x80",
        "no captions": b"",
        "only line ends": b"\n\n",
        "captions of NUL": b"\0\0",
        "captions of megabytes": b"x" * (17 << 20),
        "200,000 captions": b"a\n" * 200_000,
    }
    for name, text in captions.items():
        change = _tar(*_members(b"a red owl", text, end="txt"), path="data/wds_r/test/0.tar")
        yield Case(
            kind="captions in shards",
            name=name,
            argv=run("captioned-shards.yaml"),
            parts=parts,
            change=change,
        )
    arrays = {
        "an array of objects": npy(np.array([None, {}], dtype=object)),
        "an array of 7 TiB": npy_header((1 << 40,)),
        "an array of negative shape": npy_header((-5,)),
        "an array of texts": npy(np.array(["a", "b", "c"])),
        "an array of two axes": npy(np.zeros((2, 2))),
        "an array of fours": npy(np.array([4, 4, 4])),
        "an array of NaN": npy(np.array([np.nan, 0, 1])),
        "an array of another length": npy(np.array([0, 1])),
        "no array": b"x",
        "an archive of arrays": b"PK\x03\x04" + bytes(60),
    }
    parts = ("rwkv.json", "data/wds_m")
    for name, content in arrays.items():
        change = _tar(*_members(npy(np.array([1, 0, 1])), content, end="npy"), path="data/wds_m/test/0.tar")
        yield Case(
            kind="marks in shards",
            name=name,
            argv=("data", "verify", "m", "--data-root", "data"),
            parts=parts,
            change=change,
            codes=FOUND,
        )


FOLDER_CHANGES: dict[str, Change] = {
    "no folder": lambda w: (w / "data/birds").rename(w / "tmp/birds"),
    "a file for the folder": lambda w: (
        (w / "data/birds").rename(w / "tmp/birds"),
        (w / "data/birds").write_text("x"),
    ),
    "an empty class": lambda w: (w / "data/birds/zebra").mkdir(),
    "a folder that leads to itself": lambda w: (w / "data/birds/owl/again").symlink_to(".."),
    "a class that is a loop": lambda w: (w / "data/birds/zebra").symlink_to("zebra"),
    "an image that is a page": written("data/birds/owl/x.png", "<html></html>"),
    "an image of 10^10 pixels": written("data/birds/owl/x.png", huge_png()),
    "an image that is a pipe": lambda w: os.mkfifo(w / "data/birds/owl/x.png"),
    "an image that is a device": lambda w: (w / "data/birds/owl/x.png").symlink_to("/dev/zero"),
    "an image that is a broken link": lambda w: (w / "data/birds/owl/x.png").symlink_to("gone"),
    "an image that is a folder": lambda w: (w / "data/birds/owl/x.png").mkdir(),
    "an image of a gibibyte": lambda w: _sparse(w / "data/birds/owl/x.png", 1 << 30),
    "an empty image": written("data/birds/owl/x.png", ""),
    "a text that is an image": written("data/birds/owl/x.png", b"GIF89a" + b"\xff" * 20),
    "a name that is not UTF-8": lambda w: Path(
        os.fsdecode(os.fsencode(w) + b"/data/birds/owl/\xff.png")
    ).write_bytes(b"x"),
    "a name of control characters": lambda w: (w / "data/birds/owl/\x1b[31m\x07.png").write_bytes(b"x"),
    "a class of control characters": lambda w: (w / "data/birds/owl").rename(w / "data/birds/\x1b[31m\x07"),
    "only hidden files": lambda w: [
        p.rename(p.with_name(f".{p.name}")) for p in (w / "data/birds").iterdir()
    ],
}


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as stream:
        stream.truncate(size)


def folders() -> Iterator[Case]:
    parts = ("folder.yaml", "rwkv.json", "data/birds/owl", "data/birds/wren")
    yield from cases("image folder", run("folder.yaml"), parts, FOLDER_CHANGES)
    yield from cases("image in a folder", run("folder.yaml"), parts, file_damages("data/birds/owl/a.png"))
    prepare = ("data", "prepare", "birds", "--from", "data/birds", "--data-root", "out", "--split", "test")
    few = {n: c for n, c in FOLDER_CHANGES.items() if n not in ("an image of a gibibyte",)}
    yield from cases("data prepare of a folder", prepare, parts, few)


ROW = "owl/a.png,owl"
MANIFESTS: dict[str, str | bytes] = {
    "an absolute path": "image,label\n/etc/passwd,x\n",
    "a path outside": "image,label\n../../../outside/secret.png,x\n",
    "a path outside by the way": "image,label\nowl/../../../../outside/secret.png,x\n",
    "a path with NUL": "image,label\nowl/a\0.png,x\n",
    "a path that is absent": "image,label\nowl/zzz.png,x\n",
    "a path of 200,000 letters": f"image,label\n{'x' * 100_000},x\n",
    "a path that is a folder": "image,label\nowl,x\n",
    "a column twice": "image,label,label\nowl/a.png,x,y\n",
    "an unknown column": "image,label,surprise\nowl/a.png,x,y\n",
    "no column of images": "label\nx\n",
    "no target": "image\nowl/a.png\n",
    "label and caption": "image,label,caption\nowl/a.png,x,y\n",
    "a label of 2e9": "image,label\nowl/a.png,2000000000\n",
    "a label of 30 digits": f"image,label\nowl/a.png,{'9' * 30}\n",
    "a label of 5,000 digits": f"image,label\nowl/a.png,{'9' * 5000}\n",
    "a label of 200,000 letters": f"image,label\nowl/a.png,{'x' * 200_000}\n",
    "an empty label": "image,label\nowl/a.png,\n",
    "a row too long": "image,label\nowl/a.png,x,y,z\n",
    "a row too short": "image,label\nowl/a.png\n",
    "an open quote": 'image,label\nowl/a.png,"' + "x\n" * 100_000,
    "a key twice": "image,label,key\nowl/a.png,x,1\nwren/b.png,y,1\n",
    "a header alone": "image,label\n",
    "a split there is not": "image,label,split\nowl/a.png,x,dev\n",
    "a label of control characters": "image,label\nowl/a.png,\x1b[31m\x07\nowl/zzz.png,x\n",
    "a label beyond the marks": "image,label\nowl/a.png,5;900000000\n",
    "only NUL": b"\0" * 64,
    "200,000 columns": ",".join(["image", "label", *(f"c{i}" for i in range(200_000))]) + "\n",
}


def manifests() -> Iterator[Case]:
    parts = ("manifest.yaml", "rwkv.json", "data/birds")
    argv = run("manifest.yaml")
    path = "data/birds/labels.csv"
    yield from cases("manifest", argv, parts, file_damages(path, text=True))
    yield from cases("manifest", argv, parts, {n: written(path, t) for n, t in MANIFESTS.items()})
    prepare = ("data", "prepare", "birds", "--from", path, "--data-root", "out", "--split", "test")
    few = (
        "an absolute path",
        "a path outside",
        "a label of 2e9",
        "a column twice",
        "an open quote",
        "only NUL",
    )
    changes = {name: written(path, MANIFESTS[name]) for name in few}
    yield from cases("data prepare of a manifest", prepare, parts, changes)


CAPTION_FIELDS = [("a.png",), ("b.png",)]
CAPTION_VALUES: dict[str, Any] = {
    "null": None,
    "a number": 3,
    "an empty list": [],
    "a list of numbers": [1],
    "a mapping": {"x": 1},
    "200,000 letters": "x" * 200_000,
    "half a surrogate pair": "\ud800",
    "an empty text": "",
}


def captions() -> Iterator[Case]:
    parts = ("pictures.yaml", "rwkv.json", "data/pictures")
    path = "data/pictures/captions.csv"
    yield from cases("captions.csv", run("pictures.yaml"), parts, file_damages(path, text=True))
    texts = {
        "a path outside": "image,caption\n../../../outside/secret.png,x\n",
        "an absolute path": "image,caption\n/etc/passwd,x\n",
        "an image without captions": "image,caption\na.png,x\n",
        "an empty caption": "image,caption\na.png,\nb.png,x\nc.png,y\n",
        "a caption of 200,000 letters": f"image,caption\na.png,{'x' * 200_000}\n",
        "another header": "file,text\na.png,x\n",
    }
    yield from cases(
        "captions.csv", run("pictures.yaml"), parts, {n: written(path, t) for n, t in texts.items()}
    )
    parts = ("pictures-json.yaml", "rwkv.json", "data/pictures_json")
    path, argv = "data/pictures_json/captions.json", run("pictures-json.yaml")
    yield from cases("captions.json", argv, parts, file_damages(path, text=True))
    changes = in_json(path, CAPTION_FIELDS, {k: v for k, v in CAPTION_VALUES.items()})
    changes |= {
        "a path outside": written(path, '{"../../../outside/secret.png": "x"}'),
        "an absolute path": written(path, '{"/etc/passwd": "x"}'),
        "a name twice": written(path, '{"a.png": "x", "a.png": "y", "b.png": "x", "c.png": "x"}'),
        "a list": written(path, "[1]"),
        "a number": written(path, "3"),
    }
    yield from cases("captions.json", argv, parts, changes)


def _table(**columns: Any) -> Change:
    def change(work: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        images = [{"bytes": png(i), "path": f"{i}.png"} for i in range(3)]
        made = pa.table({"image": images, "label": ["owl", "wren", "wren"]} | columns)
        pq.write_table(made, work / "data/table/data.parquet")

    return change


def _no_image(name: str) -> Change:
    return _table(image=[{"bytes": None, "path": name}] * 3)


def tables() -> Iterator[Case]:
    parts = ("table.yaml", "rwkv.json", "data/table")
    path, argv = "data/table/data.parquet", run("table.yaml")
    changes = file_damages(path) | {
        "rows that name a file outside": _no_image("../../../outside/secret.png"),
        "rows with an absolute path": _no_image("/etc/passwd"),
        "rows with a path of NUL": _no_image("a\0b"),
        "rows without an image": _table(image=[None, None, None]),
        "images that are texts": _table(image=["x", "y", "z"]),
        "images that are numbers": _table(image=[1, 2, 3]),
        "images that are no images": _table(image=[{"bytes": b"x", "path": "a"}] * 3),
        "images of 10^10 pixels": _table(image=[{"bytes": huge_png(), "path": "a"}] * 3),
        "labels that are null": _table(label=[None, "a", "b"]),
        "labels below zero": _table(label=[-5, 0, 1]),
        "labels of 2^60": _table(label=[1 << 60, 0, 1]),
        "labels that are lists": _table(label=[[1], [2], [3]]),
        "labels that are NaN": _table(label=[float("nan"), 1.0, 2.0]),
        "labels of control characters": _table(label=[CONTROL, "a", "b"]),
        "labels of megabytes": _table(label=["x" * (2 << 20), "a", "b"]),
        "no labels": lambda w: _only_images(w / path),
        "no rows": _table(image=[], label=[]),
    }
    yield from cases("parquet", argv, parts, changes)


def _only_images(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [{"bytes": png(), "path": "a"}]}), path)


def all_cases() -> Iterator[Case]:
    for make in (shards, folders, manifests, captions, tables):
        yield from make()
