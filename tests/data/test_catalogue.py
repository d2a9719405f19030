import csv
import re
from pathlib import Path

import pytest

from rwkvclip_eval.data.catalogue import catalogue, choose_variant, names_of, record_name
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.protocols import PROTOCOLS
from rwkvclip_models.resources import resource_dir


def rows(name):
    with (resource_dir("published") / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


PUBLISHED = [row for row in rows("lists/datasets_27.csv") if record_name(row["dataset"])]


def test_all_sets_of_the_zero_shot_protocol_are_known():
    assert sum(row["zero_shot_11"] == "1" for row in PUBLISHED) == 11


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda r: r["dataset"])
def test_counts_classes_and_metric_are_the_published_ones(row):
    entry = catalogue()[record_name(row["dataset"])]
    variant = entry.variants.get("seed3072") or next(iter(entry.variants.values()))
    classes = 101 if "seed3072" in entry.variants else entry.num_classes
    counts = [variant.counts["test"], variant.counts["train"] + variant.counts.get("val", 0)]
    published = [int(row["test"]), int(row["train"])]
    # The papers count copies of their own: without what the web has lost, or a part nobody defined.
    if row["dataset"] in ("Birdsnap", "FER2013", "UCF101", "Kinetics700"):
        assert all(own >= theirs for own, theirs in zip(counts, published, strict=True))
    else:
        assert counts == published
    assert classes == int(row["classes"])
    assert (entry.metric == "mean_per_class_accuracy") == (row["metric"] == "mean per class")


def test_record_names_are_those_of_the_published_numbers():
    tasks = ("zero_shot_classification", "zero_shot_retrieval", "zero_shot_robustness")
    published = {r["dataset"] for r in rows("published.csv") if r["task"] in tasks} - {"average"}
    known = published & set(catalogue())
    assert {n for n in published if record_name(n) not in (None, n)} == set()
    assert len(known) >= 18


def test_the_docs_list_the_sets_whose_hugging_face_copy_is_known():
    page = (Path(__file__).parents[2] / "docs" / "bring-your-own.md").read_text(encoding="utf-8")
    listed = page.split("where the columns have other names. For ")[1].split("the catalogue knows a copy")[0]
    having = {n for n, e in catalogue().items() if any(v.hugging_face for v in e.variants.values())}
    assert set(re.findall(r"`(\w+)`", listed)) == having


def test_variants_of_the_protocols_exist():
    for name in PROTOCOLS:
        for dataset, variant in PROTOCOLS.get(name).variants.items():
            assert variant in catalogue()[dataset].variants


def test_a_variant_with_a_star_stands_for_every_seed():
    sun = catalogue()["sun397"]
    assert choose_variant("sun397", sun, "seed17") == "seed17"
    assert sun.variant("seed17").webdataset == ("wds_sun397@seed17",)
    assert sun.variant("seed17").counts == {"train": 19850, "test": 19850}
    assert catalogue()["caltech101"].variant("seed3072").webdataset == ("wds_caltech101@seed3072",)
    for wrong in ("seed*", "seed", "seed01", "seed-1", "partition2"):
        with pytest.raises(UserError, match=r"Known: .*seed\*"):
            choose_variant("sun397", sun, wrong)


def test_a_variant_can_be_of_another_kind():
    voc = catalogue()["voc2007"]
    assert (voc.kind_of("default"), voc.metric_of("default")) == (
        "multilabel",
        "mean_average_precision_11_point",
    )
    assert (voc.kind_of("crops"), voc.metric_of("crops")) == ("classification", "top1_accuracy")


def test_no_name_means_two_datasets():
    names = [n for name, entry in catalogue().items() for n in (name, *entry.aliases)]
    assert len(names) == len(set(names))
    folders = [f for e in catalogue().values() for v in e.variants.values() for f in v.webdataset]
    assert len(folders) == len(set(folders))


def test_aliases_lead_to_the_record_name():
    assert record_name("vtab/cifar10") == record_name("wds/vtab/cifar10") == "cifar10"
    assert record_name("wds_fgvc_aircraft") == "aircraft"
    assert record_name("mscoco_captions2014") == "mscoco_captions"
    assert record_name("nothing") is None
    assert names_of("fgvc_aircraft")[0] == "aircraft"
