"""Published numbers beside ours."""

from probe_runs import METRICS
from report_runs import ELEVEN, record
from test_tables import entries, tables

from rwkvclip_eval.records.published import read_published
from rwkvclip_eval.records.schema import Average
from rwkvclip_eval.report.published import PublishedTable, average_sets, published_tables
from rwkvclip_eval.report.tables import Table, build_tables

TEN = [name for name in ELEVEN if name != "imagenet"]
SHIFTED = ["imagenet_v2", "imagenet_a", "imagenet_r", "imagenet_sketch", "objectnet"]


def probes(names: list[str], averaged: list[str]) -> list[Table]:
    records = [
        record("a", d, 0.5, metric=METRICS.get(d, "top1_accuracy"), task="linear_probe", protocol="p")
        for d in names
    ]
    named = [Average(name="n", task="linear_probe", protocol="p", datasets=averaged)]
    return build_tables(entries(*records), named)


def numbers(table: PublishedTable, method: str) -> dict[str, str]:
    (found,) = [values for name, values, _ in table.rows if name == method]
    return dict(zip([dataset for dataset, _ in table.columns], found, strict=True))


def test_a_published_average_stands_beside_an_average_over_the_same_sets() -> None:
    (found,) = published_tables(probes(TEN, TEN))
    assert numbers(found, "ALIP ViT-B/32, YFCC15M")["average of 10"] == "72.2"
    assert numbers(found, "RWKV-CLIP B/32, YFCC15M") == dict.fromkeys(TEN, "") | {"average of 10": "74.1"}
    assert found.ours == (("a", "p", (*["50.0"] * 10, "50.0")),)
    assert any("(derived)" in source for source in found.sources)


def test_a_published_average_stays_away_where_the_sets_differ() -> None:
    for averaged in (TEN[:9], [*TEN, "mnist"]):
        (found,) = published_tables(probes([*TEN, "mnist"], averaged))
        assert "average" not in "".join(dataset for dataset, _ in found.columns)
        assert not any(method.startswith("RWKV-CLIP") for method, _, _ in found.rows)


def test_a_published_average_stays_away_where_the_metrics_differ() -> None:
    records = [record("a", d, 0.5, n=n) for d, (n, _, _) in ELEVEN.items()]
    (found,) = published_tables(tables(*records))
    assert "average of 11" not in dict(found.columns)
    records = [record("a", d, 0.5, n=n, metric=metric) for d, (n, _, metric) in ELEVEN.items()]
    (found,) = published_tables(tables(*records))
    assert numbers(found, "RWKV-CLIP B/32, YFCC15M")["average of 11"] == "44.4"


def test_published_robustness_stands_beside_zero_shot_classification() -> None:
    (found,) = published_tables(tables(*(record("a", d, 0.25) for d in SHIFTED)))
    assert found.task_title == "Zero-shot robustness"
    assert numbers(found, "CLIP ViT-B/32, YFCC15M")["average of 5"] == "18.4"
    assert found.ours[0][2] == ("25.0",) * 6


def test_versions_of_a_dataset_are_not_put_in_one_published_column() -> None:
    versions = [
        record("a", "sun397", 0.2, variant="partition1", unit="1"),
        record("a", "sun397", 0.8, variant="full", unit="2"),
    ]
    (found,) = published_tables(tables(*versions))
    assert found.ours == ()


def test_every_published_average_of_one_name_is_over_one_set_and_is_its_mean() -> None:
    lines = read_published()
    sets = {}
    for task in ("zero_shot_classification", "linear_probe", "zero_shot_robustness"):
        of_task = [line for line in lines if line.task == task]
        sets |= {(task, metric): found for metric, found in average_sets(of_task).items()}
        for line in of_task:
            key = ("method", "backbone", "pretrain_data", "source")
            alike = [x for x in of_task if all(getattr(x, k) == getattr(line, k) for k in key)]
            own = [x for x in alike if x.dataset != "average"]
            if line.dataset == "average" and own:
                assert {(x.dataset, x.metric) for x in own} == sets[task, line.metric]
                mean = sum(x.number or 0 for x in own) / len(own)
                assert abs(mean - (line.number or 0)) < 0.06
    assert {key: len(found) for key, found in sets.items()} == {
        ("zero_shot_classification", "average"): 11,
        ("zero_shot_classification", "average_20"): 20,
        ("linear_probe", "average"): 10,
        ("linear_probe", "average_20"): 20,
        ("zero_shot_robustness", "average"): 5,
    }
    assert {name for name, _ in sets["linear_probe", "average"]} == set(TEN)
