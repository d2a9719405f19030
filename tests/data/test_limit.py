import pickle

import numpy as np
import pytest

from rwkvclip_eval.data.limit import limit_dataset
from rwkvclip_eval.data.open import open_dataset
from rwkvclip_eval.data.samples import SampleDataset
from rwkvclip_eval.data.types import DatasetInfo, DatasetRef
from rwkvclip_eval.errors import UserError


class NoImages:
    def read(self, index: int) -> bytes:
        raise AssertionError("no image is needed to choose a subset")

    def where(self, index: int) -> str:
        return str(index)


def classified(labels: list[int]) -> SampleDataset:
    info = DatasetInfo(
        name="x", kind="classification", num_samples=len(labels), fingerprint="f", verified=True
    )
    keys = [f"k{i}" for i in range(len(labels))]
    array = np.array(labels, dtype=np.int64)
    return SampleDataset(info=info, keys=keys, labels=array, captions=None, images=NoImages())


@pytest.mark.parametrize(
    ("counts", "limit", "expected"),
    [
        ([10, 10, 10], 6, [2, 2, 2]),
        ([10, 1, 10], 9, [4, 1, 4]),
        ([10, 10, 10], 2, [1, 0, 1]),
        ([5, 5], 7, [4, 3]),
        ([1, 2, 50], 20, [1, 2, 17]),
    ],
)
def test_classes_are_as_even_as_they_can_be(counts, limit, expected):
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = labels[np.argsort(np.arange(len(labels)) * 7 % 11, kind="stable")]
    chosen = limit_dataset(classified(labels.tolist()), limit)
    got = np.bincount(chosen.labels, minlength=len(counts))
    assert len(chosen) == limit
    assert sorted(got) == sorted(expected)
    assert all(g <= c for g, c in zip(got, counts, strict=True))


def test_order_is_kept_and_each_class_is_spread():
    # 50 of each class in turn; the middles of its two halves are its 13th and 38th sample.
    assert limit_dataset(classified([0, 1] * 50), 4).keys == ["k24", "k25", "k74", "k75"]


def test_subset_is_marked_and_fingerprinted_by_what_was_chosen():
    whole = classified([0, 1, 0, 1, 0, 1])
    one, same, two = (limit_dataset(whole, n).info for n in (2, 2, 4))
    assert one == same
    assert one.subset and not one.verified and one.num_samples == 2
    assert len({one.fingerprint, two.fingerprint, whole.info.fingerprint}) == 3


def test_limit_at_or_above_the_size_changes_nothing():
    whole = classified([0, 1])
    assert limit_dataset(whole, 2) is whole
    with pytest.raises(UserError, match="at least 1"):
        limit_dataset(whole, 0)


def test_retrieval_keeps_all_captions_of_images_spread_over_the_split():
    whole = open_dataset(DatasetRef(name="digits_scenes"), data_root=None)
    chosen = pickle.loads(pickle.dumps(limit_dataset(whole, 5)))
    rows = [whole.keys.index(k) for k in chosen.keys]
    assert rows == [50, 150, 250, 350, 450]
    assert chosen.captions == [whole.captions[r] for r in rows]
    assert chosen.image(1).tobytes() == whole.image(150).tobytes()
