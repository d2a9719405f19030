"""A local folder of Hugging Face data says what it holds; the library would believe anything."""

import io
import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import DatasetRef, HuggingFaceSource
from rwkvclip_eval.errors import DamagedData

FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}


@pytest.fixture
def folder(tmp_path):
    """A folder of one table with two images of two classes."""
    (tmp_path / "set").mkdir()
    table(tmp_path / "set" / "0.parquet", FEATURES)
    return tmp_path / "set"


def table(path, features):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(stream, "PNG")
    image = [{"bytes": stream.getvalue(), "path": None}] * 2
    columns = pa.table({"image": image, "label": pa.array([0, 1], pa.int64())})
    info = json.dumps({"info": {"features": features}})
    pq.write_table(columns.replace_schema_metadata({"huggingface": info}), path)


def opened(folder):
    source = HuggingFaceSource(kind="hugging_face", path=folder.name, split="train")
    reference = DatasetRef(name="two", source=source, templates=("a {c}",), class_names=("owl", "wren"))
    base = folder.parent
    return open_dataset(reference, data_root=None, base_dir=base, offline=True, cache_dir=base)


def card(folder, *lines):
    (folder / "README.md").write_text("\n".join(["---", *lines, "---", "# Two birds"]))


def test_a_card_that_tells_the_truth_is_believed(folder):
    card(
        folder,
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path: '*.parquet'",
        "dataset_info:",
        "  features:",
        "  - name: image",
        "    dtype: image",
        "  - name: label",
        "    dtype:",
        "      class_label:",
        "        names: {'0': a, '1': b}",
    )
    assert opened(folder).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    "place", ["../outside/*", "/etc/*", "a/../../outside/*", "https://host.example/x.parquet"]
)
@pytest.mark.parametrize(
    "form", ["  data_files: {place}", "  data_files: [{{split: train, path: [{place}]}}]"]
)
def test_a_card_that_leads_outside_its_folder_is_refused(folder, place, form):
    card(folder, "configs:", "- config_name: default", form.format(place=json.dumps(place)))
    with pytest.raises(DamagedData, match=r"README\.md.* is no path below"):
        opened(folder)


LABEL = "---\ndataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label: {%s}\n---"
INFOS = json.dumps({"x": {"features": {"label": {"num_classes": 10**8, "_type": "ClassLabel"}}}})


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("README.md", LABEL % "names: {'0': a, '99999999': b}"),
        ("README.md", LABEL % "num_classes: 99999999"),
        ("dataset_infos.json", INFOS),
    ],
)
def test_classes_without_end_are_refused_at_once(folder, file, content):
    (folder / file).write_text(content)
    with pytest.raises(DamagedData, match=rf"{file}: .*(at most|expected 0 to 1)"):
        opened(folder)


def test_a_table_that_claims_classes_without_end_is_refused(folder):
    table(folder / "0.parquet", FEATURES | {"label": {"num_classes": 10**8, "_type": "ClassLabel"}})
    start = time.monotonic()
    with pytest.raises(DamagedData, match=r"0\.parquet: 100000000 classes; at most"):
        opened(folder)
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    "content", ["---\na: &a [x, x]\nb: " + "[" * 500 + "\n---", "---\na: !!python/none x\n---"]
)
def test_a_damaged_card_is_named(folder, content):
    (folder / "README.md").write_text(content)
    with pytest.raises(DamagedData, match=r"README\.md"):
        opened(folder)
