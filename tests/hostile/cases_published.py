"""Cases of `data prepare` on the files that authors publish: pickles, idx, mat, h5, tables, JSON."""

from __future__ import annotations

import gzip
import pickle
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from cases_inputs import cases
from harness import Case
from mutations import DEEP, file_damages, in_json, written

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def _call(name: str, *arguments: Any) -> bytes:
    call = pickle.dumps(arguments, protocol=2)[2:-1]
    return b"\x80\x02}U\x04data" + f"c{name}\n".encode() + call + b"Rs."


PICKLES = {
    "a call of the shell": _call("posix\nsystem", "touch PWNED"),
    "a call of eval": _call("builtins\neval", "__import__('os').system('touch PWNED')"),
    "an array of pointers": _call("numpy\nndarray", (1,), "O", b"\x41" * 8),
    "an array of objects": pickle.dumps({"data": np.array([None, {}], dtype=object)}, protocol=2),
    "bytes of an exbibyte": b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b".",
    "lists in lists": b"\x80\x02" + b"]" * DEEP + b".",
    "another type of pixels": pickle.dumps({"data": np.zeros((4, 3072), np.float32), "labels": [0] * 4}, 2),
    "another shape of pixels": pickle.dumps({"data": np.zeros((4, 7), np.uint8), "labels": [0] * 4}, 2),
    "labels beyond the classes": pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [999]}, 2),
    "labels that are texts": pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": ["a"]}, 2),
    "fewer labels": pickle.dumps({"data": np.zeros((4, 3072), np.uint8), "labels": [0]}, 2),
    "a list": pickle.dumps([1], 2),
}


def _idx(*numbers: int, body: bytes = b"") -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers) + body


IDX = {
    "another magic number": _idx(2049, 3, body=bytes(3)),
    "more images than bytes": _idx(2051, 1 << 31, 1 << 31, 4),
    "no pixels": _idx(2051, 0, 0, 0),
    "images of one pixel": _idx(2051, 3, 1, 1, body=bytes(3)),
}
PUBLISHED: dict[str, tuple[str, str, Mapping[str, bytes]]] = {
    "CIFAR pickle": ("cifar10", "cifar-10-batches-py/test_batch", PICKLES),
    "CIFAR names": ("cifar10", "cifar-10-batches-py/batches.meta", {}),
    "idx file": ("mnist-plain", "MNIST/raw/t10k-images-idx3-ubyte", IDX),
    "idx labels": (
        "mnist-plain",
        "MNIST/raw/t10k-labels-idx1-ubyte",
        {"labels of 255": _idx(2049, 3, body=b"\xff" * 3)},
    ),
    "packed idx file": ("mnist", "MNIST/raw/t10k-images-idx3-ubyte.gz", {"a header alone": b"\x1f\x8b"}),
    "mat file": (
        "cars",
        "stanford_cars/cars_test_annos_withlabels.mat",
        {"a version of HDF5": b"MATLAB 7.3 MAT-file" + bytes(500)},
    ),
    "mat names": ("cars", "stanford_cars/devkit/cars_meta.mat", {}),
    "h5 images": ("pcam", "camelyonpatch_level_2_split_test_x.h5", {}),
    "h5 labels": ("pcam", "camelyonpatch_level_2_split_test_y.h5", {}),
    "STL-10 images": ("stl10", "stl10_binary/test_X.bin", {}),
    "STL-10 labels": ("stl10", "stl10_binary/test_y.bin", {"labels of 255": b"\xff" * 4}),
    "FER2013 table": (
        "fer2013",
        "fer2013.csv",
        {
            "no pixels": b"emotion,pixels,Usage\n1,,PrivateTest\n",
            "pixels of 300": b"emotion,pixels,Usage\n1,300 300,PrivateTest\n",
            "an emotion of 9": b"emotion,pixels,Usage\n9,1,PrivateTest\n",
        },
    ),
    "JSON lines": (
        "hateful_memes",
        "dev_seen.jsonl",
        {
            "an image outside": b'{"id": 1, "img": "../../../outside/secret.png", "label": 0, "text": "x"}\n',
            "a label of 7": b'{"id": 1, "img": "img/0.png", "label": 7, "text": "x"}\n',
        },
    ),
    "Karpathy's JSON": (
        "flickr8k",
        "dataset_flickr8k.json",
        {"images that are numbers": b'{"images": [1, 2]}', "no images": b"{}"},
    ),
}
TEXT_FILES = ("FER2013 table", "JSON lines", "Karpathy's JSON")


def published() -> Iterator[Case]:
    for kind, (folder, file, contents) in PUBLISHED.items():
        name = folder.removesuffix("-plain")
        path = f"data/from/{folder}/{file}"
        argv = (
            "data",
            "prepare",
            name,
            "--from",
            f"data/from/{folder}",
            "--data-root",
            "out",
            "--split",
            "test",
        )
        changes = file_damages(path, text=kind in TEXT_FILES)
        changes |= {what: written(path, content) for what, content in contents.items()}
        yield from cases(kind, argv, (f"data/from/{folder}",), changes)
    fields = [
        ("images",),
        ("images", 0),
        ("images", 0, "filename"),
        ("images", 0, "split"),
        ("images", 0, "sentences"),
        ("images", 0, "sentences", 0, "raw"),
    ]
    changes = in_json("data/from/flickr8k/dataset_flickr8k.json", fields)
    argv = (
        "data",
        "prepare",
        "flickr8k",
        "--from",
        "data/from/flickr8k",
        "--data-root",
        "out",
        "--split",
        "test",
    )
    yield from cases("Karpathy's JSON", argv, ("data/from/flickr8k",), changes)
    yield Case(
        kind="packed idx file",
        name="a bomb of 2 GiB",
        argv=(
            "data",
            "prepare",
            "mnist",
            "--from",
            "data/from/mnist",
            "--data-root",
            "out",
            "--split",
            "test",
        ),
        parts=("data/from/mnist",),
        change=_bomb,
    )


def _bomb(work: Path) -> None:
    with gzip.open(work / "data/from/mnist/MNIST/raw/t10k-images-idx3-ubyte.gz", "wb", 1) as stream:
        stream.write(_idx(2051, 1 << 21, 32, 32))
        block = bytes(64 << 20)
        for _ in range(33):
            stream.write(block)


def all_cases() -> Iterator[Case]:
    yield from published()
