"""Published files that somebody else made: nothing run, nothing outside, no flood."""

from __future__ import annotations

import gzip
import pickle
import pickletools
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from data_files import TIB, png

from rwkvclip_eval.data.formats import arrays, reader_of
from rwkvclip_eval.data.formats.array_pickle import load_pickle
from rwkvclip_eval.data.formats.mat_files import load_mat
from rwkvclip_eval.errors import DamagedData

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("little_memory")]

DEEP = "[" * 100_000


def cifar(root: Path, content: bytes) -> Path:
    path = root / "cifar-10-batches-py" / "test_batch"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def python_object(name: str, *arguments: Any) -> bytes:
    """A pickle of a mapping whose `data` is a call."""
    call = pickle.dumps(arguments, protocol=2)[2:-1]
    return b"\x80\x02}U\x04data" + f"c{name}\n".encode() + call + b"Rs."


class Attack:
    def __init__(self, *how: Any) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return self.how


PICKLES: dict[str, bytes] = {
    "array of pointers": python_object("numpy\nndarray", (1,), "O", b"\x41" * 8),
    "dtype of objects": python_object("numpy\ndtype", "O"),
    "objects in protocol 5": pickle.dumps({"data": np.array([None, {}])}, protocol=5),
    "objects in protocol 2": pickle.dumps({"data": np.array([None, {}])}, protocol=2),
    "texts": pickle.dumps({"data": np.array(["a"])}),
    "records": pickle.dumps({"data": np.zeros(2, dtype=[("a", "f4")])}),
    "system": python_object("posix\nsystem", "touch PWNED"),
    "eval": python_object("builtins\neval", "1"),
    "getattr": python_object("builtins\ngetattr", "a", "b"),
    "instance": b"(lp0\n(ios\nsystem\n.",
    "object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "persistent": b"Pid\n.",
    "extension": b"\x82\x01.",
    "state of a text": b"\x80\x02U\x01a}b.",
    "bytes of an exbibyte": b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b".",
    "text of a tebibyte": b"\x80\x04\x8d" + struct.pack("<Q", TIB) + b".",
    "lists in lists": b"\x80\x02" + b"]" * 1_000_002 + b".",
    "nothing": b"",
    "a mark": b"(.",
    "stack empty": b".",
    "no end": b"\x80\x02}",
    "unknown name": b"\x80\x02h\x07.",
    "wrong bytes": pickle.dumps({"data": np.zeros(4)}, protocol=2)[:-40] + b".",
    "a list": pickle.dumps([1]),
    "a number of many digits": b"I" + b"9" * 5000 + b"\n.",
}


@pytest.mark.parametrize("what", PICKLES)
def test_a_pickle_of_something_else_is_one_message_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = cifar(tmp_path, PICKLES[what])
    with pytest.raises(DamagedData, match="test_batch") as caught:
        load_pickle(path)
    assert len(str(caught.value)) < 2000
    assert not Path("PWNED").exists()


def test_a_place_in_memory_takes_no_more_than_itself(tmp_path: Path) -> None:
    assert load_pickle(cifar(tmp_path, b"\x80\x02}r\xff\xff\xff\x7f.")) == {}


def test_no_unpickler_reads_what_is_published() -> None:
    from rwkvclip_eval.data import formats

    for path in Path(str(formats.__file__)).parent.rglob("*.py"):
        assert "import pickle\n" not in path.read_text(), path


def test_an_array_without_its_state_is_damage(tmp_path: Path) -> None:
    whole = pickle.dumps({"data": np.zeros(3)}, protocol=2)
    (place,) = [place for op, _, place in pickletools.genops(whole) if op.name == "BUILD"][-1:]
    state = max(p for op, _, p in pickletools.genops(whole) if op.name == "MARK" and p < place)
    with pytest.raises(DamagedData):
        load_pickle(cifar(tmp_path, whole[:state] + b"s."))


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=">i4").reshape(2, 3), np.asfortranarray(np.eye(3)), np.array(7)]
)
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_of_plain_numbers_are_read_in_every_protocol(
    tmp_path: Path, array: np.ndarray, protocol: int
) -> None:
    path = cifar(tmp_path, pickle.dumps({"data": array, "n": [1, "a", b"b", None, True]}, protocol=protocol))
    read = load_pickle(path)
    np.testing.assert_array_equal(read["data"], array)
    assert read["data"].dtype == array.dtype
    assert read["n"] == [1, "a", b"b", None, True]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ((2051, 1 << 31, 1 << 31, 4), "the header says"),
        ((2051, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF), "the header says"),
        ((2049, 5), "no idx file"),
    ],
)
def test_an_idx_header_that_does_not_fit_is_damage(
    tmp_path: Path, header: tuple[int, ...], said: str
) -> None:
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(struct.pack(f">{len(header)}I", *header))
    with pytest.raises(DamagedData, match=said):
        reader_of("mnist")(tmp_path, "test", "default", tmp_path)


def test_a_packed_file_that_unpacks_to_everything_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "ARRAY_LIMIT_BYTES", 1 << 20)
    packed = gzip.compress(bytes(1 << 21))
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (tmp_path / name).write_bytes(packed)
    with pytest.raises(DamagedData, match="unpacks to more"):
        reader_of("mnist")(tmp_path, "test", "default", tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(packed[:1000])
    with pytest.raises(DamagedData, match="cannot be unpacked"):
        reader_of("mnist")(tmp_path, "test", "default", tmp_path)


def matlab(elements: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + elements


def test_a_matlab_file_that_unpacks_to_everything_is_refused(tmp_path: Path) -> None:
    packed = zlib.compress(bytes(100 << 20), 9)
    path = tmp_path / "labels.mat"
    path.write_bytes(matlab(struct.pack("<II", 15, len(packed)) + packed))
    with pytest.raises(DamagedData, match="unpacks to more"):
        load_mat("flowers", path, "labels")
    for content in (b"", matlab(b"\xff" * 64), matlab(struct.pack("<II", 14, 1 << 31)), b"MATLAB 7.3"):
        path.write_bytes(content)
        with pytest.raises(DamagedData, match=r"labels\.mat"):
            load_mat("flowers", path, "labels")


def pcam(root: Path, make: Callable[[h5py.File], object], labels: object = (0, 1)) -> None:
    with h5py.File(root / "camelyonpatch_level_2_split_test_x.h5", "w") as file:
        make(file)
    with h5py.File(root / "camelyonpatch_level_2_split_test_y.h5", "w") as file:
        file["y"] = labels


PIXELS = np.zeros((2, 4, 4, 3), np.uint8)


def outside(file: h5py.File) -> None:
    file.create_dataset("x", PIXELS.shape, np.uint8, external=[("/etc/passwd", 0, PIXELS.size)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(PIXELS.shape, np.uint8)
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", PIXELS.shape)
    file.create_virtual_dataset("x", layout)


def linked(file: h5py.File) -> None:
    file["x"] = h5py.ExternalLink("/etc/passwd", "x")


H5 = {
    "another file's bytes": outside,
    "a virtual set": virtual,
    "a link to another file": linked,
    "a group": lambda file: file.create_group("x"),
    "numbers": lambda file: file.create_dataset("x", data=PIXELS.astype(float)),
    "other axes": lambda file: file.create_dataset("x", data=PIXELS[0]),
    "a tebibyte": lambda file: file.create_dataset("x", (2, 1 << 20, 1 << 20, 3), np.uint8, chunks=True),
    "texts": lambda file: file.create_dataset("x", data=["a", "b"]),
    "nothing": lambda file: None,
}


@pytest.mark.parametrize("what", H5)
def test_an_hdf5_file_of_something_else_is_damage(tmp_path: Path, what: str) -> None:
    pcam(tmp_path, H5[what])
    with pytest.raises(DamagedData, match="camelyonpatch"):
        reader_of("pcam")(tmp_path, "test", "default", tmp_path)


@pytest.mark.parametrize("labels", [(0.5, 1.0), (0, 1, 0), [b"a", b"b"], 7])
def test_hdf5_labels_that_do_not_fit_are_damage(tmp_path: Path, labels: object) -> None:
    pcam(tmp_path, lambda file: file.create_dataset("x", data=PIXELS), labels)
    with pytest.raises(DamagedData, match="camelyonpatch"):
        reader_of("pcam")(tmp_path, "test", "default", tmp_path)


def food101(root: Path, text: str) -> Any:
    for name in ("food-101/meta/train.json", "food-101/images/pie/1.jpg", "secret.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())
    (root / "food-101" / "meta" / "train.json").write_text(text)
    return reader_of("food101")(root, "train", "default", root)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"pie": ["../../secret"]}', "is no path below"),
        ('{"pie": [7]}', "expected food101"),
        ('{"pie": "pie/1"}', "expected food101"),
        (DEEP, "recursion limit"),
        ('["pie/1"]', "expected food101"),
    ],
)
def test_a_published_list_that_makes_no_sense_is_one_message(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DamagedData, match=said):
        food101(tmp_path, text)


def test_entities_of_an_annotation_are_not_resolved(tmp_path: Path) -> None:
    base = tmp_path / "VOC2007"
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (base / folder).mkdir(parents=True)
    (base / "ImageSets" / "Main" / "test.txt").write_text("a\n")
    (base / "JPEGImages" / "a.jpg").write_bytes(png())
    laughs = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'
    huge = (
        "<annotation><object><name>cat</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>2000000000</xmax>"
        "<ymax>9</ymax></bndbox></object></annotation>"
    )
    for text in (laughs, huge, "<a>" * 100_000, "\0"):
        (base / "Annotations" / "a.xml").write_text(text)
        with pytest.raises(DamagedData, match=r"a\.xml"):
            reader_of("voc2007")(tmp_path, "test", "crops", tmp_path)
    (base / "ImageSets" / "Main" / "test.txt").write_text("../../../secret\n")
    with pytest.raises(DamagedData, match="is no path below"):
        reader_of("voc2007")(tmp_path, "test", "crops", tmp_path)


def test_images_of_another_size_than_mnists_are_damage(tmp_path: Path) -> None:
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, 2, 1, 1) + bytes(2))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, 2) + bytes(2))
    with pytest.raises(DamagedData, match="holds images of 1 x 1 pixels, MNIST's have 28 x 28"):
        arrays.open_mnist(tmp_path, "test", "default", tmp_path)
