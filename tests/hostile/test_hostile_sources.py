"""Folders, manifests, published files and parquet that somebody else made: nothing outside, no flood."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import pickletools
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import TIB, huge_png, png, wds

from rwkvclip_eval.data.archives import other_content, unpack
from rwkvclip_eval.data.catalogue import Download, catalogue
from rwkvclip_eval.data.checksums import wrong_sums
from rwkvclip_eval.data.download import trust_remarks
from rwkvclip_eval.data.folder import open_folder
from rwkvclip_eval.data.formats import arrays, reader_of
from rwkvclip_eval.data.formats.array_pickle import load_pickle
from rwkvclip_eval.data.formats.mat_files import load_mat
from rwkvclip_eval.data.http import wrong_file
from rwkvclip_eval.data.hugging_face import open_hugging_face
from rwkvclip_eval.data.manifest import open_manifest
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.samples import FileReader, Split, remembered_fingerprint
from rwkvclip_eval.data.types import DatasetRef, HuggingFaceSource
from rwkvclip_eval.data.verify import open_splits, verify_dataset
from rwkvclip_eval.errors import DamagedData, DataNotFound, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("little_memory")]

DEEP = "[" * 100_000


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """A folder of two classes, and a file that is none of theirs."""
    for name in ("owl/a.png", "wren/b.png"):
        path = tmp_path / "birds" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(png(len(name)))
    (tmp_path / "secret.png").write_bytes(png(9))
    return tmp_path / "birds"


# Manifests.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,label\n/etc/passwd,x\n", "line 2: '/etc/passwd' is no path below"),
        ("image,label\n../secret.png,x\n", "line 2: '../secret.png' is no path below"),
        ("image,label\nowl/../../secret.png,x\n", "is no path below"),
        ("image,label\nowl\\..\\..\\secret.png,x\n", "is no path below"),
        ("image,label\nowl/a\0.png,x\n", "is no path below"),
        ("image,label,label\nowl/a.png,x,y\n", "the column 'label' occurs twice"),
        ("image,label\nowl/a.png,2000000000\n", "label 2000000000 for 1000000 classes at most"),
        ("image,label\nowl/a.png," + "9" * 30 + "\n", "label 9+ for 1000000 classes"),
        ("image,label\nowl/a.png," + "9" * 5000 + "\n", "label 9+ for 1000000 classes"),
        ("image,label\nowl/a.png,5;900000000\n", "for 1000000 classes"),
        ("image,label\nowl/a.png," + "x" * 200_000 + "\n", "line 2: field larger than field limit"),
        ('image,label\nowl/a.png,"' + "x\n" * 100_000, "field larger than field limit"),
        ("image,label\nowl/a.png,x,y,z\n", "more fields"),
        (b"image,label\nowl/a.png,\xff\n", "is not UTF-8"),
        (b"image,label\nowl/a.png,\xed\xa0\x80\n", "is not UTF-8"),
        (b"\xff\xfei\0m\0", "is not UTF-8"),
        ("", "expected a header"),
        ("\0\0\0", "expected one of|Unknown column"),
        ("image,caption\nowl/a.png,x\n/etc/hosts,y\n", "is no path below"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_one_message(birds: Path, text: str | bytes, said: str) -> None:
    path = birds / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=said) as caught:
        open_manifest(path, None, "test", cache_dir=birds)
    assert len(str(caught.value)) < 2000


def test_marks_of_many_classes_are_bounded_before_they_are_made(birds: Path) -> None:
    rows = "".join(f"owl/a.png,0;999999,k{i}\n" for i in range(200))
    (birds / "labels.csv").write_text(f"image,label,key\n{rows}")
    with pytest.raises(DamagedData, match="more marks than"):
        open_manifest(birds / "labels.csv", None, "test", cache_dir=birds)


@pytest.mark.parametrize("what", ["pipe", "device"])
def test_pipes_and_devices_are_no_images(birds: Path, what: str) -> None:
    odd = birds / "owl" / "odd.png"
    os.mkfifo(odd) if what == "pipe" else odd.symlink_to("/dev/zero")
    with pytest.raises(DamagedData, match=f"expected a file, found a (named )?{what}"):
        open_folder(birds, "test", cache_dir=birds)
    (birds / "labels.csv").write_text("image,label\nowl/odd.png,x\n")
    with pytest.raises(DamagedData, match="there is no image"):
        open_manifest(birds / "labels.csv", None, "test", cache_dir=birds)
    with pytest.raises(DamagedData, match=f"found a (named )?{what}"):
        FileReader((odd,)).read(0)


def test_an_image_file_of_a_tebibyte_is_not_read(birds: Path) -> None:
    with (birds / "owl" / "a.png").open("wb") as file:
        file.truncate(TIB)
    with pytest.raises(DamagedData, match="at most"):
        open_folder(birds, "test", cache_dir=birds)


# Folders and captions.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEEP, "recursion limit"),
        ('{"a.png": ' * 100_000, "recursion limit"),
        ('{"/etc/passwd": "x"}', "is no path below"),
        ('{"../secret.png": "x"}', "is no path below"),
        ('{"owl/a.png": 7}', "expected a mapping"),
        ('{"owl/a.png": [["x"]]}', "expected a mapping"),
        ('{"owl/a.png": "\\ud800"}', "cannot be read"),
        ('{"\\u0000": "x"}', "is no path below"),
        ('{"owl/a.png": null}', "expected a mapping"),
        ("7", "expected a mapping"),
        ("", "cannot be read"),
        ("\xff", "cannot be read|names 1 images"),
        ('{"' + "x" * 100_000 + '": 7}', "expected a mapping"),
    ],
)
def test_captions_that_make_no_sense_are_one_message(birds: Path, text: str, said: str) -> None:
    (birds / "captions.json").write_text(text)
    with pytest.raises(DamagedData, match=said) as caught:
        open_folder(birds, "test", cache_dir=birds)
    assert len(str(caught.value)) < 2000


def test_a_file_name_that_is_no_text_is_said(birds: Path) -> None:
    Path(os.fsdecode(bytes(birds) + b"/owl/caf\xe9.png")).write_bytes(png())
    with pytest.raises(DamagedData, match="is no key that can be written as text"):
        open_folder(birds, "test", cache_dir=birds)


def test_links_are_followed_and_counted(birds: Path, tmp_path: Path) -> None:
    (birds / "owl" / "linked.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.png").write_bytes(png(77))
    (birds / "swan").symlink_to(tmp_path / "elsewhere")
    ref = DatasetRef.model_validate({"name": "b", "folder": str(birds), "templates": ["a {c}"]})
    report = verify_dataset(open_dataset(ref, data_root=None, cache_dir=tmp_path))
    assert (report.num_samples, report.num_links) == (4, 2)
    assert "2 files are reached by symbolic links" in report.remarks
    folder = wds(tmp_path, 0, 1)
    (folder / "test" / "0.tar").rename(tmp_path / "0.tar")
    (folder / "test" / "0.tar").symlink_to(tmp_path / "0.tar")
    (split,) = open_splits(DatasetRef(name="x"), tmp_path)
    assert verify_dataset(split).num_links == 1


def test_a_fingerprint_that_was_changed_is_computed_again(tmp_path: Path) -> None:
    def remembered() -> str:
        return remembered_fingerprint("signature", tmp_path, lambda: "f" * 64)

    remembered()
    path = tmp_path / "data" / "signature.fingerprint"
    genuine = path.read_text()
    for changed in (genuine.replace("f", "e", 1), genuine[:-2], "f" * 63, "\0", "f" * 100_000, "a b c"):
        path.write_text(changed)
        assert remembered() == "f" * 64
        assert path.read_text() == genuine
    path.write_text("e" * 64)  # As written by versions without a check.
    assert remembered() == "e" * 64
    path.unlink()
    os.mkfifo(path)
    assert remembered() == "f" * 64


def test_verify_recomputes_what_was_remembered_of_files(birds: Path, tmp_path: Path) -> None:
    from rwkvclip_eval.data.samples import read_anew

    genuine = open_folder(birds, "test", cache_dir=tmp_path).fingerprint
    (path,) = (tmp_path / "data").glob("*.fingerprint")
    path.write_text("e" * 64)
    assert open_folder(birds, "test", cache_dir=tmp_path).fingerprint == "e" * 64
    with read_anew() as wrong:
        assert open_folder(birds, "test", cache_dir=tmp_path).fingerprint == genuine
    assert len(wrong) == 1
    assert "e" * 64 in wrong[0]
    assert open_folder(birds, "test", cache_dir=tmp_path).fingerprint == genuine


@pytest.mark.parametrize(
    "given",
    [
        {"keys": ["a", 7]},
        {"keys": ["a", "\udce9"]},
        {"keys": []},
        {"labels": np.array([0, -1])},
        {"labels": np.array([0, 2_000_000_000])},
        {"labels": np.array([0.0, 1.0])},
        {"labels": np.array([0])},
        {"labels": np.array([[0, 2], [0, 1]])},
        {"labels": np.array(["a", "b"])},
        {"captions": [["a"], []]},
        {"captions": [["a"], [7]]},
        {"captions": [["a"], ["\ud800"]]},
        {"class_names": ("a", 7)},
    ],
)
def test_a_split_that_no_task_could_use_is_refused_whichever_source_found_it(given: dict[str, Any]) -> None:
    plain = {"kind": "classification", "keys": ["a", "b"], "images": FileReader(()), "source": "s"}
    Split(**{**plain, "fingerprint": ""})
    with pytest.raises(DamagedData, match=r"^s[ :]"):
        Split(**{**plain, "fingerprint": "", **given})


# Published files.


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
        reader_of("mnist")(tmp_path, "test", "default", tmp_path)  # type: ignore[misc]


def test_a_packed_file_that_unpacks_to_everything_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "ARRAY_LIMIT_BYTES", 1 << 20)
    packed = gzip.compress(bytes(1 << 21))
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (tmp_path / name).write_bytes(packed)
    with pytest.raises(DamagedData, match="unpacks to more"):
        reader_of("mnist")(tmp_path, "test", "default", tmp_path)  # type: ignore[misc]
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(packed[:1000])
    with pytest.raises(DamagedData, match="cannot be unpacked"):
        reader_of("mnist")(tmp_path, "test", "default", tmp_path)  # type: ignore[misc]


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
        reader_of("pcam")(tmp_path, "test", "default", tmp_path)  # type: ignore[misc]


@pytest.mark.parametrize("labels", [(0.5, 1.0), (0, 1, 0), [b"a", b"b"], 7])
def test_hdf5_labels_that_do_not_fit_are_damage(tmp_path: Path, labels: object) -> None:
    pcam(tmp_path, lambda file: file.create_dataset("x", data=PIXELS), labels)
    with pytest.raises(DamagedData, match="camelyonpatch"):
        reader_of("pcam")(tmp_path, "test", "default", tmp_path)  # type: ignore[misc]


def food101(root: Path, text: str) -> Any:
    for name in ("food-101/meta/train.json", "food-101/images/pie/1.jpg", "secret.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())
    (root / "food-101" / "meta" / "train.json").write_text(text)
    return reader_of("food101")(root, "train", "default", root)  # type: ignore[misc]


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
            reader_of("voc2007")(tmp_path, "test", "crops", tmp_path)  # type: ignore[misc]
    (base / "ImageSets" / "Main" / "test.txt").write_text("../../../secret\n")
    with pytest.raises(DamagedData, match="is no path below"):
        reader_of("voc2007")(tmp_path, "test", "crops", tmp_path)  # type: ignore[misc]


# Parquet and the Hugging Face library.


def parquet(root: Path, **columns: list[Any]) -> HuggingFaceSource:
    pq.write_table(pa.table(columns), root / "data.parquet")
    return HuggingFaceSource(kind="hugging_face", path="parquet", data_files="data.parquet")


def opened(root: Path, source: HuggingFaceSource) -> Split:
    return open_hugging_face(source, "test", root, offline=True, cache_dir=root)


@pytest.fixture(autouse=True)
def own_library_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")


IMAGE = {"bytes": png(), "path": "a.png"}


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.png", "a/../../secret.png", "a\0b"])
def test_rows_that_name_files_outside_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    inner = tmp_path / "inner"
    inner.mkdir()
    source = parquet(inner, image=[{"bytes": None, "path": name}], label=[0])
    with pytest.raises((ValueError, DamagedData), match="not in the folder of the data"):
        opened(inner, source).images.read(0)


def test_rows_that_name_files_of_their_folder_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(5))
    source = parquet(tmp_path, image=[{"bytes": None, "path": "a.png"}], label=[0])
    assert opened(tmp_path, source).images.read(0) == png(5)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": [1, 2], "label": [0, 1]}, "holds no images"),
        ({"image": [IMAGE] * 2, "label": [0, 2_000_000_000]}, "no class id"),
        ({"image": [IMAGE] * 2, "label": [0, -1]}, "no class id"),
        ({"image": [IMAGE] * 2, "label": [0.5, 1.0]}, "no class id"),
        ({"image": [IMAGE] * 2, "label": ["a", None]}, "no class id"),
        ({"image": [IMAGE] * 2, "label": [[0], [1]]}, "no class id"),
    ],
)
def test_columns_of_another_type_are_one_message(
    tmp_path: Path, columns: dict[str, list[Any]], said: str
) -> None:
    with pytest.raises(DamagedData, match=said) as caught:
        opened(tmp_path, parquet(tmp_path, **columns))
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\xff" * 300 + b"PAR1", png()])
def test_a_parquet_file_that_is_none_is_one_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.parquet").write_bytes(content)
    source = HuggingFaceSource(kind="hugging_face", path="parquet", data_files="data.parquet")
    with pytest.raises((DataNotFound, DamagedData), match="Hugging Face dataset parquet") as caught:
        opened(tmp_path, source)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("where", ["data.parquet", "*.parquet", None])
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_a_pipe_or_device_is_not_opened_as_parquet(tmp_path: Path, what: str, where: str | None) -> None:
    (tmp_path / "data").mkdir()
    place = tmp_path / "data" / "data.parquet"
    os.mkfifo(place) if what == "pipe" else place.symlink_to("/dev/zero")
    path, files = ("parquet", f"data/{where}") if where else ("data", None)
    with pytest.raises(DamagedData, match=f"expected a file, found a (named )?{what}"):
        opened(tmp_path, HuggingFaceSource(kind="hugging_face", path=path, data_files=files))


# Archives and downloads.


def zip_of(path: Path, name: str = "a.txt", content: bytes = b"x") -> bytes:
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr(name, content)
    return path.read_bytes()


def broken_archives(root: Path) -> dict[str, tuple[str, bytes, str]]:
    plain = zip_of(root / "plain.zip", content=b"a" * 1000)
    encrypted = plain.replace(b"PK\x03\x04\x14\x00\x00", b"PK\x03\x04\x14\x00\x01").replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
    )
    assert encrypted != plain
    unknown = bytearray(plain)
    unknown[8], unknown[plain.index(b"PK\x01\x02") + 10] = 99, 99
    packed = bytearray(gzip.compress(os.urandom(5000)))
    packed[2000] ^= 0xFF
    fifo = io.BytesIO()
    with tarfile.open(fileobj=fifo, mode="w") as tar:
        info = tarfile.TarInfo("pipe")
        info.type = tarfile.FIFOTYPE
        tar.addfile(info)
    link = io.BytesIO()
    with tarfile.open(fileobj=link, mode="w") as tar:
        info = tarfile.TarInfo("out")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(info)
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 33
    return {
        "encrypted": ("a.zip", encrypted, "encrypted"),
        "unknown compression": ("a.zip", bytes(unknown), "compression"),
        "cut zip": ("a.zip", plain[:-30], "zip"),
        "outside": ("a.zip", zip_of(root / "o.zip", "../x"), "outside"),
        "absolute": ("a.zip", zip_of(root / "o.zip", "/tmp/x"), "outside"),
        "corrupt gz": ("a.mat.gz", bytes(packed), "cannot be unpacked"),
        "no gz": ("a.mat.gz", b"<html>", "cannot be unpacked"),
        "cut gz": ("a.mat.gz", gzip.compress(os.urandom(5000))[:3000], "cannot be unpacked"),
        "corrupt tgz": ("a.tgz", bytes(packed), "cannot be unpacked"),
        "no bz2": ("a.tar.bz2", b"nothing", "cannot be unpacked"),
        "no xz": ("a.tar.xz", b"nothing", "cannot be unpacked"),
        "pipe in a tar": ("a.tar", fifo.getvalue(), "cannot be unpacked"),
        "link out of a tar": ("a.tar", link.getvalue(), "cannot be unpacked"),
        "header of 8 GiB": ("a.tgz", gzip.compress(header.tobuf() + bytes(4096)), "cannot be unpacked"),
        "empty": ("a.tar", b"", "cannot be unpacked"),
    }


ARCHIVES = (
    *("encrypted", "unknown compression", "cut zip", "outside", "absolute", "corrupt gz", "no gz", "cut gz"),
    *("corrupt tgz", "no bz2", "no xz", "pipe in a tar", "link out of a tar", "header of 8 GiB", "empty"),
)


@pytest.mark.parametrize("what", ARCHIVES)
def test_an_archive_that_is_broken_is_damage_and_leaves_nothing_outside(tmp_path: Path, what: str) -> None:
    made = tmp_path / "made"
    made.mkdir()
    name, content, said = broken_archives(made)[what]
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / name).write_bytes(content)
    with pytest.raises(DamagedData, match=said):
        unpack(inside / name)
    assert [p.name for p in inside.iterdir()] == [name]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "made"]


def test_a_web_page_in_place_of_an_archive_is_no_success(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.write_text("\n<!DOCTYPE html><title>404</title>")
    download = Download(url="https://x/caption_datasets.zip", file="caption_datasets.zip")
    assert wrong_file(page, download) == "expected a .zip file, found a web page"
    page.write_bytes(b"")
    assert "something else" in wrong_file(page, download)
    zip_of(page)
    assert wrong_file(page, download) == ""
    for name in ("x.tar.gz", "x.tgz", "x.gz", "x.mat"):
        assert other_content(page, name)
    assert other_content(page, "x.txt") == ""


def test_files_that_are_not_surely_their_authors_are_named() -> None:
    (food,) = catalogue()["food101"].variants.values()
    assert " ".join(trust_remarks(food.downloads)) == (
        "By MD5 alone, which finds damage and no forgery: food-101.tar.gz. Over plain http, which anybody on "
        "the way can change: food-101.tar.gz."
    )
    flickr = catalogue()["flickr30k"].variants["default"]
    assert "No checksum is known of caption_datasets.zip" in " ".join(trust_remarks(flickr.downloads))
    assert trust_remarks(catalogue()["kitti"].variants["default"].downloads) == []


def test_checksums_of_files_outside_the_folder_are_not_computed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("x")
    sums = "".join(f"{'0' * 64}  {name}\n" for name in ("../secret", "/etc/passwd", "/dev/zero", "gone"))
    (tmp_path / "in" / "SHA256SUMS").write_text(sums)
    said = wrong_sums(tmp_path / "in")
    assert [text.split(":")[0] for text in said] == ["a file outside the folder"] * 3 + ["gone is missing"]


# The command.


@pytest.mark.parametrize(
    "arguments",
    [
        ("x", "--split", "../../../x"),
        ("x", "--split", "/tmp/x"),
        ("x", "--split", ""),
        ("x@../../x",),
        ("",),
        ("..",),
        ("a\nb",),
        ("x:../../x",),
    ],
)
def test_prepare_writes_nothing_outside_its_folder(
    birds: Path, tmp_path: Path, run: Any, arguments: tuple[str, ...]
) -> None:
    root = tmp_path / "a" / "b" / "data"
    before = {p for p in tmp_path.rglob("*") if "cache" not in p.parts}
    code, said, problem = run("data", "prepare", *arguments, "--from", birds, "--data-root", root)
    made = {p for p in tmp_path.rglob("*") if "cache" not in p.parts} - before
    outside = [
        p for p in made if p not in root.parents and p != root and not p.is_relative_to(root / "wds_..")
    ]
    assert code == 2, said
    assert problem.count("\n") <= 3
    assert not outside


def test_a_run_records_hostile_data_and_goes_on(tmp_path: Path, run: Any) -> None:
    wds(tmp_path, 0, 1)
    (tmp_path / "wds_x" / "test" / "nshards.txt").write_text("1000000000")
    (tmp_path / "bad.csv").write_text("image,label\n/etc/passwd,x\n")
    dataset = {"name": "bad", "source": {"kind": "manifest", "path": str(tmp_path / "bad.csv")}}
    datasets = [{**dataset, "templates": ["{c}"]}, "wds_x", "digits"]
    tasks = [{"task": "zero_shot_classification", "datasets": datasets}]
    (tmp_path / "suite.yaml").write_text(json.dumps({"name": "s", "tasks": tasks}))
    code, said, problem = run(
        *("run", tmp_path / "suite.yaml", "-m", "python:toy_factory:make", "--limit", 2, "--no-report"),
        *("--data-root", tmp_path, "--out", tmp_path / "out"),
    )
    assert code == 3, problem
    assert "is no path below" in said
    assert "nshards.txt says 1000000000 shards" in said


def test_a_sound_header_of_a_huge_picture_is_no_sound_picture() -> None:
    from PIL import Image

    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(huge_png()))
