import io
import shutil
import tarfile
from hashlib import sha256
from types import SimpleNamespace

import pytest
from PIL import Image

from rwkvclip_eval.data.catalogue import catalogue
from rwkvclip_eval.data.download import download_dataset, prefetch_dataset
from rwkvclip_eval.data.hub import BESIDE_SPLITS
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.data.verify import absent_remarks, open_splits, verify_dataset
from rwkvclip_eval.errors import DamagedData, DataNotFound
from rwkvclip_eval.run.prefetch import prefetch_all


def test_shards_are_fetched_to_where_open_looks_for_them(tmp_path, write_wds, monkeypatch):
    def snapshot(repository, *, repo_type, local_dir, allow_patterns):
        assert (repository, repo_type) == ("clip-benchmark/wds_vtab-pets", "dataset")
        assert allow_patterns == [*BESIDE_SPLITS, "test/*"]
        write_wds(local_dir.parent, "vtab-pets", [[36]])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert "fetched clip-benchmark/wds_vtab-pets" in prefetch_dataset(DatasetRef(name="pets"), tmp_path)
    assert open_dataset(DatasetRef(name="pets"), data_root=tmp_path).info.num_samples == 1
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("fetched again"))
    assert "already at" in prefetch_dataset(DatasetRef(name="pets"), tmp_path)


def test_the_splits_a_probe_learns_from_are_fetched_too(tmp_path, write_wds, monkeypatch):
    asked = []

    def snapshot(repository, *, repo_type, local_dir, allow_patterns):
        asked.append(allow_patterns[len(BESIDE_SPLITS) :])
        for pattern in allow_patterns[len(BESIDE_SPLITS) :]:
            folder = write_wds(tmp_path / "hub", "vtab-dtd", [[46]]) / "test"
            shutil.copytree(folder, local_dir / pattern.removesuffix("/*"), dirs_exist_ok=True)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    dtd = DatasetRef(name="dtd")
    assert "fetched clip-benchmark/wds_vtab-dtd" in prefetch_dataset(
        dtd, tmp_path, fit_splits=("train", "val")
    )
    assert asked == [["test/*", "train/*", "val/*"]]
    shutil.rmtree(tmp_path / "wds_vtab-dtd" / "val")
    prefetch_dataset(dtd, tmp_path, fit_splits=("train", "val"))
    assert asked[1:] == [["val/*"]]
    # Cars have no validation split: none is asked for.
    prefetch_dataset(DatasetRef(name="cars"), tmp_path, fit_splits=("train", "val"))
    assert asked[2:] == [["test/*", "train/*"]]


def test_what_the_hub_lacks_is_taken_from_the_published_files(tmp_path, monkeypatch):
    """SST2's hub repository is empty here; its published archive has all three splits."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for split in ("train", "valid", "test"):
            for name in ("negative", "positive"):
                picture = io.BytesIO()
                Image.new("RGB", (8, 8)).save(picture, "PNG")
                info = tarfile.TarInfo(f"rendered-sst2/{split}/{name}/0.png")
                info.size = picture.tell()
                archive.addfile(info, io.BytesIO(picture.getvalue()))

    def fetch(download, folder, on_progress):
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / download.file
        target.write_bytes(packed.getvalue())
        return target

    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: None)
    monkeypatch.setattr("rwkvclip_eval.data.http.fetch_file", fetch)
    sst2, splits = DatasetRef(name="rendered_sst2"), ("train", "val")
    said = prefetch_dataset(sst2, tmp_path, fit_splits=splits)
    assert "1 published files in" in said
    for split in ("test", *splits):
        assert open_dataset(sst2.model_copy(update={"split": split}), data_root=tmp_path)
    monkeypatch.setattr("rwkvclip_eval.data.http.fetch_file", lambda *a: pytest.fail("fetched again"))
    assert "already at" in prefetch_dataset(sst2, tmp_path, fit_splits=splits)


def test_prefetch_asks_for_every_split_that_a_task_of_the_suite_reads(tmp_path, monkeypatch):
    asked = {}

    def prefetch(ref, data_root, *, fit_splits, **rest):
        asked[ref.name] = fit_splits
        return "there"

    monkeypatch.setattr("rwkvclip_eval.data.download.prefetch_dataset", prefetch)
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "name: s\ntasks:\n"
        "- {task: zero_shot_classification, datasets: [mnist, cifar10]}\n"
        "- {task: linear_probe, datasets: [cifar10, dtd]}\n"
    )
    _, complete = prefetch_all(suite, [], tmp_path)
    assert complete
    assert asked == {"mnist": (), "cifar10": ("train", "val"), "dtd": ("train", "val")}


def test_broken_off_download_is_taken_up_again(tmp_path, write_wds, monkeypatch):
    folder = write_wds(tmp_path, "vtab-pets", [[1], [2]])
    (folder / "test" / "1.tar").unlink()
    calls = []

    def snapshot(*a, **k):
        calls.append(a)
        write_wds(tmp_path, "vtab-pets", [[1], [2]])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    prefetch_dataset(DatasetRef(name="pets"), tmp_path)
    assert len(calls) == 1


def test_what_cannot_be_fetched_says_why(tmp_path, monkeypatch):
    def unreachable(*a, **k):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(DataNotFound, match=r"no route to host.*without internet"):
        prefetch_dataset(DatasetRef(name="pets"), tmp_path)
    with pytest.raises(DataNotFound, match=r"resisc45@draw, split test, cannot be fetched automatically"):
        prefetch_dataset(DatasetRef(name="resisc45@draw"), tmp_path)
    with pytest.raises(DataNotFound, match="not in the catalogue"):
        prefetch_dataset(DatasetRef(name="mine"), tmp_path)
    with pytest.raises(DataNotFound, match="no data root"):
        prefetch_dataset(DatasetRef(name="pets"), None)


def test_embedded_and_local_data_need_nothing(tmp_path):
    assert "nothing to fetch" in prefetch_dataset(DatasetRef(name="digits"), None)
    assert "nothing to fetch" in prefetch_dataset(DatasetRef(name="mine", folder="x"), tmp_path)


def test_what_run_opens_without_the_catalogue_is_there_for_prefetch_too(tmp_path, write_wds):
    write_wds(tmp_path, "mine", [[1], [2]])
    ref = DatasetRef(name="wds_mine", class_names=("a", "b", "c"), templates=("a {c}",))
    assert "2 samples are there" in prefetch_dataset(ref, tmp_path)


def test_nothing_is_fetched_for_a_layout_that_clip_benchmark_reads(tmp_path):
    ref = DatasetRef.model_validate({"name": "dtd", "source": {"kind": "clip_benchmark"}})
    assert prefetch_dataset(ref, tmp_path) == "dtd: local, nothing to fetch."
    assert list(tmp_path.iterdir()) == []


def hub_says(monkeypatch, files):
    siblings = [
        SimpleNamespace(
            rfilename=name, size=len(content), lfs=SimpleNamespace(sha256=sha256(content).hexdigest())
        )
        for name, content in files.items()
    ]
    monkeypatch.setattr(
        "huggingface_hub.HfApi.dataset_info", lambda *a, **k: SimpleNamespace(siblings=siblings)
    )


def test_a_wrong_file_of_the_hub_is_fetched_once_more(tmp_path, monkeypatch):
    hub_says(monkeypatch, {"test/0.tar": b"right", "test/nshards.txt": b"1", "README.md": b""})
    contents, calls = [b"wrong", b"right"], []

    def snapshot(repository, *, repo_type, local_dir, allow_patterns):
        calls.append(allow_patterns)
        (local_dir / "test").mkdir(parents=True, exist_ok=True)
        (local_dir / "test" / "nshards.txt").write_bytes(b"1")
        if not (local_dir / "test" / "0.tar").exists():
            (local_dir / "test" / "0.tar").write_bytes(contents.pop(0))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    said = download_dataset(DatasetRef(name="dtd"), tmp_path)
    assert "2 files have the hub's size and SHA-256" in said
    assert calls == [[*BESIDE_SPLITS, "*/*"]] * 2
    with pytest.raises(DataNotFound, match="has no split val"):
        download_dataset(DatasetRef(name="dtd"), tmp_path, ["val"])
    (tmp_path / "wds_vtab-dtd" / "test" / "0.tar").unlink()
    contents += [b"wrong", b"wrong"]
    with pytest.raises(DamagedData, match="came twice"):
        download_dataset(DatasetRef(name="dtd"), tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "pets"])
def test_of_a_hub_copy_with_a_short_training_split_the_test_split_alone_is_taken(name, tmp_path, monkeypatch):
    asked, published = [], []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *a, allow_patterns, **k: asked.append(allow_patterns)
    )
    monkeypatch.setattr(
        "rwkvclip_eval.data.http.fetch_file", lambda download, folder, _: published.append(download.file)
    )
    monkeypatch.setattr("rwkvclip_eval.data.archives.unpack", lambda path: None)
    hub_says(monkeypatch, {"test/0.tar": b""})
    (tmp_path / f"wds_vtab-{name}" / "test").mkdir(parents=True)
    (tmp_path / f"wds_vtab-{name}" / "test" / "0.tar").write_bytes(b"")
    ref = DatasetRef(name=name)
    said = download_dataset(ref, tmp_path)
    assert asked == [[*BESIDE_SPLITS, "test/*"]] and "1 files have the hub's size" in said
    files = [download.file for download in catalogue()[name].variants["default"].downloads]
    assert published == files and f"data prepare {name}@default --from" in said
    with pytest.raises(DataNotFound, match=r"has no split val, but train, test\."):
        download_dataset(ref, tmp_path, ["val"])


@pytest.mark.parametrize("fetch", [download_dataset, prefetch_dataset])
def test_what_nobody_hands_out_is_refused_by_its_splits(fetch, tmp_path):
    said = r"^resisc45@draw, split .*\btest\b.*, cannot be fetched automatically\. By hand: "
    with pytest.raises(DataNotFound, match=said):
        fetch(DatasetRef(name="resisc45@draw"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fetch", [download_dataset, prefetch_dataset])
def test_where_the_hub_cannot_be_reached_the_published_files_are_tried_and_both_failures_told(
    fetch, tmp_path, monkeypatch
):
    def unreachable(*a, **k):
        raise OSError("no such repository")

    def no_file(*a):
        raise DataNotFound("the authors' address is dead.")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    monkeypatch.setattr("rwkvclip_eval.data.http.fetch_file", no_file)
    with pytest.raises(DataNotFound, match=r"no such repository.* Then: the authors' address is dead"):
        fetch(DatasetRef(name="dtd"), tmp_path)
    asked = []
    monkeypatch.setattr("rwkvclip_eval.data.http.fetch_file", lambda d, *a: asked.append(d.file))
    monkeypatch.setattr("rwkvclip_eval.data.archives.unpack", lambda path: None)
    if fetch is download_dataset:
        said = fetch(DatasetRef(name="dtd"), tmp_path)
        assert "no such repository" in said and "Then: 1 files are at" in said
        assert asked == ["dtd-r1.0.1.tar.gz"]


def test_an_official_split_that_the_hub_lacks_is_named_with_the_cure(tmp_path, write_wds, monkeypatch):
    folder = write_wds(tmp_path, "fgvc_aircraft", [[0]], classnames="\n".join(map(str, range(100))))
    shutil.copytree(folder / "test", folder / "train")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: None)
    hub_says(monkeypatch, {})
    aircraft = DatasetRef(name="aircraft")
    cure = "Absent: the official split val, which probes need; make shards of the published files: "
    assert f"{cure}rwkvclip-eval data prepare aircraft " in download_dataset(aircraft, tmp_path)
    reports = [verify_dataset(split) for split in open_splits(aircraft, tmp_path)]
    (said,) = absent_remarks(reports)
    assert said.startswith(cure)
    assert absent_remarks([verify_dataset(open_dataset(DatasetRef(name="digits"), data_root=None))]) == []
