"""Nothing that a suite says reaches a shell through the clip-benchmark package."""

import os
import subprocess
import tarfile

import h5py  # noqa: F401  # its import asks the system's linker by a command
import pytest

from rwkvclip_eval.cli.data import dataset_ref
from rwkvclip_eval.data.clip_benchmark import NAMES, open_clip_benchmark
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import SPLITS, ClipBenchmarkSource, DatasetRef
from rwkvclip_eval.errors import DamagedData, DataNotFound, SuiteError, UserError
from rwkvclip_eval.plan.suite import parse_suite

SUITE = """\
name: s
tasks:
  - task: zero_shot_classification
    datasets:
      - name: mine
        split: {split}
        source: {source}
"""


class Ran(Exception):
    pass


@pytest.fixture(autouse=True)
def no_shell(monkeypatch):
    def ran(*arguments, **_):
        raise Ran(arguments)

    for name in ("system", "popen", "execv", "posix_spawn"):
        monkeypatch.setattr(os, name, ran)
    monkeypatch.setattr(subprocess.Popen, "__init__", ran)


def open_named(root, name, split="test"):
    source = ClipBenchmarkSource(kind="clip_benchmark", name=name, root=".")
    return open_dataset(DatasetRef(name="mine", source=source, split=split), data_root=None, base_dir=root)


@pytest.mark.parametrize(
    "name", ["wds/m", "tfds/mnist", "vtab/dmlab", "sugar_crepe/add_att", "winoground", "x"]
)
def test_only_names_from_a_list_reach_that_package(tmp_path, name):
    with pytest.raises(UserError, match=f"Unknown dataset of clip-benchmark '{name}'"):
        open_named(tmp_path, name)


@pytest.mark.parametrize("split", ["x:'; touch PWNED; echo '", "$(touch PWNED)", "validation"])
def test_only_splits_from_a_list_reach_that_package(tmp_path, split):
    with pytest.raises(UserError, match="Unknown split"):
        open_named(tmp_path, "mnist", split)


@pytest.mark.parametrize("split", ["x://'; touch PWNED; echo '", "../../x", ".", "a\\\\b", '"a\\x1bb"'])
def test_a_split_that_is_a_path_is_no_split(split):
    split = split if split.startswith('"') else f'"{split}"'
    with pytest.raises(SuiteError, match=r"tasks\.0\.datasets\.0\.split"):
        parse_suite(SUITE.format(split=split, source="{kind: clip_benchmark, name: wds/m, root: .}"))


def test_download_is_removed_and_the_message_says_what_takes_its_place():
    source = '{kind: clip_benchmark, name: mscoco_captions, root: "x;touch PWNED;echo ", download: true}'
    with pytest.raises(SuiteError, match="rwkvclip-eval data download NAME") as caught:
        parse_suite(SUITE.format(split="test", source=source), source="s.yaml")
    assert str(caught.value).startswith("s.yaml:7: tasks.0.datasets.0.source.download: ")
    parse_suite(SUITE.format(split="test", source=source.replace("true", "false")))


@pytest.mark.parametrize("name", sorted(NAMES))
def test_no_dataset_of_it_runs_or_fetches_anything_whatever_is_under_its_root(tmp_path, name):
    for folder in ("; touch PWNED; echo ", "$(touch PWNED)"):
        root = tmp_path / folder
        root.mkdir()
        for split in SPLITS:
            with pytest.raises(UserError) as caught:
                open_clip_benchmark(name, root, split, cache_dir=tmp_path)
            assert not isinstance(caught.value.__cause__, Ran)
            assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_an_archive_that_would_unpack_elsewhere_is_not_unpacked(tmp_path):
    (tmp_path / "evil").write_text("x")
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / "ImageNetV2-matched-frequency.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "evil", "../../outside")
    with pytest.raises(DataNotFound, match="would fetch or unpack"):
        open_clip_benchmark("imagenetv2", root, "test", cache_dir=tmp_path)
    assert not (tmp_path.parent / "outside").exists()


@pytest.mark.parametrize("outside", ["../secret.jpg", "/etc/secret.jpg"])
def test_an_annotation_that_leads_out_of_the_root_is_refused(tmp_path, outside):
    (tmp_path / "flickr8k_test_karpathy.txt").write_text(f"image,caption\n{outside},one\n")
    with pytest.raises(DamagedData, match="lies outside"):
        open_clip_benchmark("flickr8k", tmp_path, "test", cache_dir=tmp_path)


@pytest.mark.parametrize(
    "text", ["{", '{"images": 3}', '{"images": [{}], "annotations": [{}]}', "[" * 100_000]
)
def test_annotations_of_another_form_are_a_message(tmp_path, text):
    (tmp_path / "val2014").mkdir()
    (tmp_path / "coco_test_karpathy.json").write_text(text)
    with pytest.raises(DataNotFound, match="mscoco_captions, split test, cannot be opened under"):
        open_clip_benchmark("mscoco_captions", tmp_path, "test", cache_dir=tmp_path)


@pytest.mark.parametrize("builder", ["pandas", "sql", "generator", "spark"])
def test_builders_that_read_more_than_data_are_refused(builder):
    with pytest.raises(SuiteError, match="can run code"):
        parse_suite(SUITE.format(split="test", source=f"{{kind: hugging_face, path: {builder}}}"))


@pytest.mark.parametrize("text", ["", ":test", "a@../../x", "a:../../x", "a@\x1b[31m"])
def test_a_dataset_named_on_the_command_line_is_no_path(text):
    with pytest.raises(UserError, match="expected NAME, NAME@VARIANT or NAME:SPLIT"):
        dataset_ref(text)
