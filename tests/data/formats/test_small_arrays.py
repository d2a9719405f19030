import pickle
import pickletools

import array_miniatures as arrays
import numpy as np
import pytest

from rwkvclip_eval.data.catalogue import catalogue
from rwkvclip_eval.data.formats import reader_of
from rwkvclip_eval.data.formats.array_pickle import load_pickle
from rwkvclip_eval.data.prompts import shipped
from rwkvclip_eval.errors import DamagedData, DataNotFound


def opened(name, root, split, variant="default"):
    """The split after a round trip through pickle, as worker processes get it."""
    return pickle.loads(pickle.dumps(reader_of(name)(root, split, variant, root / "cache")))


def assert_reads(split, pixels, labels):
    assert split.labels.tolist() == list(labels) and split.labels.dtype == np.int64
    assert len(set(split.keys)) == len(split.keys) == len(pixels)
    for i, expected in enumerate(pixels):
        assert (np.asarray(split.images.read(i)) == expected).all()


def test_cifar10_reads_five_training_batches_and_the_test_batch(tmp_path):
    written = arrays.cifar10(tmp_path)
    base, batches = tmp_path / "cifar-10-batches-py", list(written)
    train, test = opened("cifar10", tmp_path, "train"), opened("cifar10", tmp_path, "test")
    assert_reads(test, *written["test_batch"])
    pixels = np.concatenate([written[b][0] for b in batches[:5]])
    assert_reads(train, pixels, [i for b in batches[:5] for i in written[b][1]])
    assert test.class_names == tuple(arrays.CIFAR10_NAMES) and test.fingerprint != train.fingerprint
    with pytest.raises(DataNotFound, match="no official split 'val'"):
        opened("cifar10", tmp_path, "val")
    (base / "data_batch_3").unlink()
    with pytest.raises(DataNotFound, match="data_batch_3"):
        opened("cifar10", tmp_path, "train")
    (base / "test_batch").write_bytes((base / "test_batch").read_bytes()[:5000])
    with pytest.raises(DamagedData, match="test_batch"):
        opened("cifar10", tmp_path, "test")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_batches_as_python_2_pickled_them_are_read(tmp_path, name):
    folder, meta, batch, coarse = {
        "cifar10": ("cifar-10-batches-py", "batches.meta", "test_batch", {}),
        "cifar100": ("cifar-100-python", "meta", "test", {"coarse_labels": [0, 1, 2]}),
    }[name]
    fine = "fine_" if coarse else ""
    rows, labels, names = arrays.random_pixels(3, 3072), [7, 0, 9], [f"n{i}" for i in range(10)]
    content = {"batch_label": "testing batch 1 of 1", "filenames": ["a.png"] * 3, f"{fine}labels": labels}
    (tmp_path / folder).mkdir()
    published = arrays.python2_pickle({**content, **coarse, "data": rows})
    (tmp_path / folder / batch).write_bytes(published)
    (tmp_path / folder / meta).write_bytes(arrays.python2_pickle({f"{fine}label_names": names}))
    assert [text for op, text, _ in pickletools.genops(published) if op.name == "GLOBAL"] == [
        "numpy.core.multiarray _reconstruct",
        "numpy ndarray",
        "numpy dtype",
    ]
    split = opened(name, tmp_path, "test")
    assert_reads(split, rows.reshape(3, 3, 32, 32).transpose(0, 2, 3, 1), labels)
    assert split.class_names == tuple(names)


def test_cifar100_reads_the_fine_labels(tmp_path):
    written = arrays.cifar100(tmp_path)
    for split in ("train", "test"):
        assert_reads(opened("cifar100", tmp_path, split), *written[split])


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickles_of_arrays_are_read_and_others_refused_unrun(tmp_path, protocol):
    path, marker = tmp_path / "batch", tmp_path / "ran"
    rows = arrays.random_pixels(2, 3)
    path.write_bytes(pickle.dumps({"data": rows, "name": b"x"}, protocol=protocol))
    assert (load_pickle(path)["data"] == rows).all()

    class Attack:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    path.write_bytes(pickle.dumps({"data": Attack()}, protocol=protocol))
    with pytest.raises(DamagedData, match="open is not allowed"):
        load_pickle(path)
    assert not marker.exists()


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_reads_idx_files(tmp_path, packed):
    pixels, labels = arrays.mnist(tmp_path, packed)
    folder = tmp_path / "MNIST" / "raw"
    for split in ("train", "test"):
        assert_reads(opened("mnist", tmp_path, split), pixels, labels)
    images = next(folder.glob("t10k-images*"))
    images.write_bytes(images.read_bytes()[:-20])
    with pytest.raises(DamagedData, match="t10k-images"):
        opened("mnist", tmp_path, "test")
    images.unlink()
    with pytest.raises(DataNotFound, match="t10k-images-idx3-ubyte"):
        opened("mnist", tmp_path, "test")


def test_stl10_reads_columns_first_and_labels_from_one(tmp_path):
    pixels, labels = arrays.stl10(tmp_path)
    base = tmp_path / "stl10_binary"
    test = opened("stl10", tmp_path, "test")
    assert_reads(test, pixels, labels)
    assert test.class_names == tuple(arrays.STL10_NAMES)
    assert_reads(opened("stl10", tmp_path, "train"), pixels, labels)
    assert_reads(opened("stl10", tmp_path, "train", "fold0"), pixels[[2, 0]], [9, 3])
    (base / "test_X.bin").write_bytes(pixels.tobytes()[:-1])
    with pytest.raises(DamagedData, match=r"test_X\.bin"):
        opened("stl10", tmp_path, "test")
    (base / "test_y.bin").unlink()
    with pytest.raises(DataNotFound, match=r"test_y\.bin"):
        opened("stl10", tmp_path, "test")


@pytest.mark.parametrize("file", ["fer2013.csv", "icml_face_data.csv"])
def test_fer2013_reads_usages_and_sorts_classes_as_clip_benchmark_does(tmp_path, file):
    pixels = arrays.fer2013(tmp_path, file)
    train = opened("fer2013", tmp_path, "train", "official")
    assert_reads(train, pixels[[0, 3]], [5, 0])
    assert train.class_names == shipped("labels", "fer2013")
    assert [train.class_names[i] for i in train.labels] == ["sad", "angry"]
    assert_reads(opened("fer2013", tmp_path, "val", "official"), pixels[[1]], [4])
    assert_reads(opened("fer2013", tmp_path, "test", "official"), pixels[[2]], [6])
    assert_reads(opened("fer2013", tmp_path, "test", "clip-benchmark"), pixels[[1, 2]], [4, 6])
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-4000])
    with pytest.raises(DamagedData, match=f"{file},? line 5"):
        opened("fer2013", tmp_path, "train", "official")
    (tmp_path / file).unlink()
    with pytest.raises(DataNotFound, match=r"icml_face_data\.csv"):
        opened("fer2013", tmp_path, "train", "official")


def test_fer2013_reads_train_csv_and_class_folders(tmp_path, png):
    image = arrays.random_pixels(48, 48)
    (tmp_path / "train.csv").write_text(f"emotion,pixels\n3,{' '.join(map(str, image.ravel()))}\n")
    assert_reads(opened("fer2013", tmp_path, "train", "official"), [image], [3])
    with pytest.raises(DataNotFound, match=r"fer2013\.csv"):
        opened("fer2013", tmp_path, "test", "official")
    for i, folder in enumerate(["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]):
        (tmp_path / "test" / folder).mkdir(parents=True)
        (tmp_path / "test" / folder / "x.jpg").write_bytes(png(i, format="JPEG"))
    found = opened("fer2013", tmp_path, "test", "clip-benchmark")
    assert found.labels.tolist() == list(range(7)) and found.keys[4] == "test/neutral/x.jpg"


def test_pcam_reads_hdf5_of_each_split(tmp_path):
    pixels, labels = arrays.pcam(tmp_path)
    for split in ("train", "val", "test"):
        found = opened("pcam", tmp_path, split)
        assert_reads(found, pixels, labels)
    assert found.class_names == shipped("labels", "pcam")
    valid = tmp_path / "camelyonpatch_level_2_split_valid_x.h5"
    content = valid.read_bytes()
    valid.unlink()
    valid.write_bytes(content[:3000])
    with pytest.raises(DamagedData, match="valid_x"):
        opened("pcam", tmp_path, "val")
    valid.rename(tmp_path / "camelyonpatch_level_2_split_valid_x.h5.gz")
    with pytest.raises(DataNotFound, match="gunzip camelyonpatch_level_2_split_valid_x"):
        opened("pcam", tmp_path, "val")


def test_pcam_that_claims_images_without_end_is_refused_before_they_are_read(tmp_path):
    import h5py

    arrays.pcam(tmp_path)
    shapes = {"x": (10**9, 96, 96, 3), "y": (10**9, 1, 1, 1)}
    for part, shape in shapes.items():
        with h5py.File(tmp_path / f"camelyonpatch_level_2_split_test_{part}.h5", "w") as file:
            file.create_dataset(part, shape, "u1", chunks=(1, *shape[1:]), compression="gzip")
    with pytest.raises(DamagedData, match="holds 1000000000 images; expected 1 to"):
        opened("pcam", tmp_path, "test")


def test_counts_of_the_catalogue_add_up():
    def train_and_val(name):
        counts = next(iter(catalogue()[name].variants.values())).counts
        return counts["train"] + counts["val"]

    assert train_and_val("pcam") == 294912
    assert train_and_val("country211") == 42200
    assert train_and_val("rendered_sst2") == 7792
    assert sum(catalogue()["fer2013"].variants["official"].counts.values()) == 35887
    assert sum(catalogue()["resisc45"].variants["vtab"].counts.values()) == 31500
    assert sum(catalogue()["eurosat"].variants["vtab"].counts.values()) == 27000
