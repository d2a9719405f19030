"""Published numbers beside ours."""

import csv
from pathlib import Path

from probe_runs import METRICS
from report_runs import ELEVEN, record, write_run
from test_tables import entries, tables

from rwkvclip_eval.records.published import COLUMNS, PublishedRow, read_published
from rwkvclip_eval.records.schema import Average
from rwkvclip_eval.report import write_report
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


def rows_of(*changes: dict[str, str]) -> list[PublishedRow]:
    good = {
        "task": "zero_shot_classification",
        "method": "RWKV-CLIP",
        "backbone": "B/32",
        "pretrain_data": "YFCC15M",
        "dataset": "cifar10",
        "metric": "top1_accuracy",
        "value": "79.8",
        "protocol": "unknown",
        "precision": "unknown",
        "status": "published",
        "source": "A paper",
    }
    return [PublishedRow.model_validate(good | each) for each in changes]


def test_a_number_of_a_named_version_stands_beside_that_version_only() -> None:
    rows = rows_of({"dataset": "sun397@full", "value": "63.2"}, {"dataset": "sun397", "value": "54.0"})
    for variant, expected in (("full", "63.2"), ("partition1", "54.0")):
        measured = tables(record("a", "sun397", 0.2, variant=variant))
        (found,) = published_tables(measured, rows=rows)
        assert numbers(found, "RWKV-CLIP B/32, YFCC15M")["sun397"] == expected


def test_methods_that_a_model_may_be_come_first_and_are_named() -> None:
    rows = rows_of(
        {"method": "SLIP"}, {"method": "CLIP", "backbone": "ViT-B/32"}, {}, {"pretrain_data": "LAION10M"}
    )
    ours = [record("rwkv-clip-b32", "cifar10", 0.8), record("clip-vit-b32", "cifar10", 0.7)]
    random = record(
        "clip-vit-b32", "cifar10", 0.1, model_info={"spec": "clip-vit-b32=random:0", "trained": False}
    )
    (found,) = published_tables(tables(*ours), rows=rows)
    assert [method for method, _, _ in found.rows] == [
        "RWKV-CLIP B/32, YFCC15M",
        "RWKV-CLIP B/32, LAION10M",
        "CLIP ViT-B/32, YFCC15M",
        "SLIP B/32, YFCC15M",
    ]
    assert found.notes == (
        "Published counterparts of rwkv-clip-b32: RWKV-CLIP B/32, YFCC15M; RWKV-CLIP B/32, LAION10M; which "
        "of them, its checkpoint does not say.",
        "Published counterparts of clip-vit-b32: CLIP ViT-B/32, YFCC15M.",
    )
    (found,) = published_tables(tables(random), rows=rows)
    assert found.notes == ()


def test_released_weights_are_not_said_to_be_in_doubt() -> None:
    spec = {"model_info": {"spec": "clip-vit-b32=openai"}}
    (found,) = published_tables(tables(record("clip-vit-b32", "cifar10", 0.9, **spec)))
    assert found.notes == ("Published counterparts of clip-vit-b32: open_clip:ViT-B-32=openai.",)
    assert found.rows[0][:2] == ("open_clip:ViT-B-32=openai", ("89.83",))


def test_what_was_read_from_a_figure_has_a_tilde_and_gives_way_to_what_was_printed() -> None:
    eye = {"status": "read_from_figure", "value": "79", "source": "A figure"}
    measured = tables(record("a", "cifar10", 0.8))
    (found,) = published_tables(measured, rows=rows_of(eye))
    assert found.rows == (("RWKV-CLIP B/32, YFCC15M", ("~79",), (1,)),)
    assert found.sources == ("A figure (read from figure); protocol unknown",)
    (found,) = published_tables(measured, rows=rows_of(eye, {"protocol": "standard", "precision": "fp32"}))
    assert found.rows == (("RWKV-CLIP B/32, YFCC15M", ("79.8",), (1,)),)
    assert found.sources == ("A paper; protocol standard, fp32",)


def test_a_number_that_nobody_printed_is_an_empty_cell_and_no_method() -> None:
    rows = rows_of({}, {"dataset": "dtd", "value": ""}, {"method": "Silent", "value": ""})
    (found,) = published_tables(tables(record("a", "cifar10", 0.8), record("a", "dtd", 0.2)), rows=rows)
    assert found.rows == (("RWKV-CLIP B/32, YFCC15M", ("79.8", ""), (1,)),)


def test_hostile_names_of_methods_and_sources_stay_text_in_every_form(tmp_path: Path) -> None:
    hostile = {
        "method": "<script>alert(1)</script>|*_x_*",
        "backbone": "",
        "source": "[a](http://b) <img src=x>",
    }
    (row,) = rows_of(hostile)
    (tmp_path / "papers").mkdir()
    with (tmp_path / "papers" / "x.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerow(row.model_dump())
    run = write_run(tmp_path / "run", [record("a", "cifar10", 0.8)])
    paths = write_report([run], tmp_path / "report", [tmp_path / "papers"])
    page, text = (path.read_text(encoding="utf-8") for path in (paths.index, paths.markdown))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page and "<img src=x" not in page
    assert r"&lt;script&gt;alert(1)&lt;/script&gt;\|\*\_x\_\*" in text
    assert r"\[a\](http://b) &lt;img src=x&gt;" in text
