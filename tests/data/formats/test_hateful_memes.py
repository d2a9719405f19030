import miniatures
import pytest

from rwkvclip_eval.data.formats import reader_of
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.errors import DamagedData, DataNotFound


@pytest.fixture
def memes(tmp_path):
    train = [
        {"id": 42953, "img": "img/42953.png", "label": 0, "text": "it's their character"},
        {"id": 23058, "img": "img/23058.png", "label": 1, "text": "don't be afraid"},
    ]
    seen = [{"id": "01235", "img": "img/01235.png", "label": 1, "text": "x"}]
    miniatures.hateful_memes(tmp_path / "hateful_memes", {"train": train, "dev_seen": seen})
    return tmp_path


def test_the_seen_development_memes_are_the_test_split(memes):
    test = open_dataset(DatasetRef(name="HatefulMemes"), data_root=memes, cache_dir=memes)
    assert (test.keys, test.labels.tolist()) == (["img/01235.png"], [1])
    assert test.info.class_names == ("meme", "hatespeech meme")
    assert test.info.primary_metric == "roc_auc"
    train = reader_of("hateful_memes")(memes / "hateful_memes", "train", "default", memes)
    assert train.labels.tolist() == [0, 1]
    (memes / "hateful_memes" / "dev_seen.jsonl").rename(memes / "hateful_memes" / "dev.jsonl")
    again = reader_of("hateful_memes")(memes / "hateful_memes", "test", "default", memes)
    assert again.fingerprint == test.info.fingerprint


def test_what_is_missing_or_damaged_is_named(memes):
    read, base = reader_of("hateful_memes"), memes / "hateful_memes"
    with pytest.raises(DataNotFound, match="no official split 'val'"):
        read(base, "val", "default", memes)
    (base / "train.jsonl").write_text('{"img": "img/42953.png", "label": 2}\n')
    with pytest.raises(DamagedData, match=r"train\.jsonl, line 1: expected img and label, 0 or 1;.*found 2"):
        read(base, "train", "default", memes)
    (base / "train.jsonl").write_text('{"img": "img/42953.png", "label": 0}\n{"img": "img/23058.png"}\n')
    with pytest.raises(DamagedData, match="line 2: expected img and label"):
        read(base, "train", "default", memes)
    (base / "dev_seen.jsonl").unlink()
    with pytest.raises(DataNotFound, match=r"no .*dev_seen\.jsonl"):
        read(base, "test", "default", memes)
