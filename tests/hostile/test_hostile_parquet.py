"""Parquet and rows of the Hugging Face library that somebody else made."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import png

from rwkvclip_eval.data.hugging_face import open_hugging_face
from rwkvclip_eval.data.types import HuggingFaceSource
from rwkvclip_eval.errors import DamagedData, DataNotFound

if TYPE_CHECKING:
    from pathlib import Path

    from rwkvclip_eval.data.samples import Split

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("little_memory")]

DEEP = "[" * 100_000


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


@pytest.mark.parametrize("caption", ["\u0301", "\ufffd", "\u200b"])
def test_a_caption_of_a_row_that_cannot_be_read_is_refused(tmp_path: Path, caption: str) -> None:
    source = parquet(tmp_path, image=[IMAGE, IMAGE], text=["a cat", caption])
    source = source.model_copy(update={"captions": "text"})
    with pytest.raises(DamagedData, match="1 images have a caption that cannot be read"):
        opened(tmp_path, source)


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


@pytest.mark.parametrize("rows", [0, 1])
def test_the_library_says_nothing_beside_our_message(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], rows: int
) -> None:
    import datasets

    datasets.enable_progress_bars()
    source = parquet(tmp_path, image=[IMAGE][:rows], label=[0][:rows])
    if rows:
        opened(tmp_path, source)
    else:
        with pytest.raises(DamagedData):
            opened(tmp_path, source)
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()
