import shutil

import array_miniatures as arrays
import pytest

from rwkvclip_eval.data.download import prefetch_dataset
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.data.verify import verify_dataset


def published_cifar10(monkeypatch):
    """Let the published archive of CIFAR-10, here with fewer images, be what the network holds."""

    def fetch(download, folder, on_progress):
        folder.mkdir(parents=True, exist_ok=True)
        arrays.cifar10(folder)
        return folder / "cifar-10-batches-py" / "batches.meta"

    monkeypatch.setattr("rwkvclip_eval.data.http.fetch_file", fetch)
    monkeypatch.setattr("rwkvclip_eval.data.archives.unpack", lambda path: None)


def test_a_short_training_split_of_the_hub_gives_way_to_the_published_files(tmp_path, write_wds, monkeypatch):
    folder = write_wds(tmp_path, "vtab-cifar10", [[9]], classnames="\n".join(arrays.CIFAR10_NAMES))
    shutil.copytree(folder / "test", folder / "train")
    train = DatasetRef(name="cifar10", split="train")
    short = open_dataset(train, data_root=tmp_path)
    assert short.info.subset and short.info.source == "webdataset wds_vtab-cifar10/train"
    (remark, *_) = verify_dataset(short).remarks
    assert remark.startswith("1 of the catalogue's 50000") and "data prepare cifar10 --from FOLDER" in remark
    published_cifar10(monkeypatch)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("asked the hub"))
    said = prefetch_dataset(DatasetRef(name="cifar10"), tmp_path, fit_splits=("train", "val"))
    assert "fetched 1 published files" in said
    whole = open_dataset(train, data_root=tmp_path)
    assert "webdataset" not in whole.info.source and whole.info.num_samples > 1
    test = open_dataset(DatasetRef(name="cifar10"), data_root=tmp_path)
    assert test.info.class_names == whole.info.class_names
