"""A run's numbers beside the published ones of the same checkpoints."""

import re
from pathlib import Path
from typing import Any

import pytest
from report_runs import digest, record, write_run

from rwkvclip_eval.records.published import PublishedRow
from rwkvclip_eval.records.schema import Record
from rwkvclip_eval.report import write_report
from rwkvclip_eval.report.conformance import (
    HEAD,
    Conformance,
    conformance,
    other_protocols,
    reasons,
    summary,
)

pytestmark = pytest.mark.usefixtures("no_pdf")

SPEC = "open_clip:ViT-B-32=openai"


def row(value: str = "50.0", dataset: str = "cifar10", **changes: str) -> PublishedRow:
    fields = {
        "task": "zero_shot_classification",
        "method": SPEC,
        "backbone": "ViT-B-32",
        "pretrain_data": "openai",
        "dataset": dataset,
        "metric": "top1_accuracy",
        "value": value,
        "protocol": "clip-benchmark",
        "precision": "fp32",
        "status": "published",
        "source": "a table",
    }
    return PublishedRow.model_validate(fields | changes)


def measured(value: float, dataset: str = "cifar10", spec: str = SPEC, **changes: Any) -> Record:
    notes = {
        "reference_prompt_hash": digest("prompts", dataset, "clip-benchmark"),
        **changes.pop("notes", {}),
    }
    info = {"spec": spec, **changes.pop("info", {})}
    fields: dict[str, Any] = {"protocol": "clip-benchmark", "notes": notes, "model_info": info, **changes}
    return record("clip-vit-b32", dataset, value, **fields)


def one(number: Record, published: PublishedRow) -> Conformance:
    (found,) = conformance([number], [published])
    return found


@pytest.mark.parametrize(
    ("value", "published", "n", "verdict"),
    [
        (0.501, "50.0", 10_000, "conforms"),
        (0.499, "50.0", 10_000, "conforms"),
        (0.5011, "50.0", 10_000, "differs"),
        (0.4989, "50.0", 10_000, "differs"),
        # Two images of 500 are 0.4 point; of 2,000 they are the 0.1.
        (0.504, "50.0", 500, "conforms"),
        (0.506, "50.0", 500, "differs"),
        (0.501, "50.0", 2_000, "conforms"),
        (0.502, "50.0", 2_000, "differs"),
    ],
)
def test_a_number_conforms_within_a_tenth_of_a_point_or_two_images(
    value: float, published: str, n: int, verdict: str
) -> None:
    assert one(measured(value, n=n), row(published)).verdict == verdict


def test_of_retrieval_two_images_count_with_all_their_captions() -> None:
    of = {"metric": "image_retrieval_recall@1", "task": "zero_shot_retrieval"}
    number = measured(0.502, "flickr30k", n=5000, notes={"num_images": 1000}, **of)
    found = one(number, row("50.0", "flickr30k", **of))
    assert (found.allowed, found.verdict) == (pytest.approx(0.2), "conforms")
    assert (
        one(measured(0.502, "flickr30k", n=5000, **of), row("50.0", "flickr30k", **of)).verdict == "differs"
    )


def test_numbers_are_compared_by_name_and_not_by_what_is_primary() -> None:
    records = [
        measured(0.5, "pets", metric="top1_accuracy", primary=True),
        measured(0.7, "pets", metric="mean_per_class_accuracy", primary=False),
    ]
    (found,) = conformance(records, [row("70.0", "pets", metric="mean_per_class_accuracy")])
    assert (found.metric.name, found.verdict) == ("mean_per_class_accuracy", "conforms")


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": "open_clip:ViT-B-32=laion400m_e32"},
        {"spec": "open_clip:ViT-B-32=openai.pt"},
        {"protocol": "standard"},
        {"metric": "top5_accuracy"},
        {"task": "linear_probe"},
        {"variant": "other"},
        {"split": "train"},
        {"status": "failed", "value": None},
    ],
)
def test_what_is_of_another_checkpoint_protocol_metric_task_version_or_split_is_not_compared(
    changes: dict[str, Any],
) -> None:
    value = changes.pop("value", 0.5)
    assert conformance([measured(value, **changes)], [row()]) == []


def test_a_protocol_that_does_not_fit_is_named_with_the_one_that_would() -> None:
    other = [measured(0.5, d, protocol="standard") for d in ("cifar10", "cars")]
    rows = [row(), row(dataset="cars"), row(dataset="pets")]
    (line,) = other_protocols(
        [*other, measured(0.5), measured(0.5, "pets", protocol="standard", split="val")], rows
    )
    assert line == (
        f"{SPEC}: 2 numbers are under protocol standard, published under clip-benchmark; numbers of "
        "different protocols are not compared."
    )
    assert other_protocols([measured(0.5)], rows) == []


def test_the_command_names_the_protocol_that_does_not_fit(run: Any, tmp_path: Path) -> None:
    write_run(tmp_path / "run", [measured(0.5, protocol="standard", model_info={"spec": SPEC})])
    code, _, said = run("published", "--conformance", tmp_path / "run")
    assert code == 3
    assert "1 number is under protocol standard, published under clip-benchmark" in " ".join(said.split())
    assert "Nothing to compare" in said


def test_versions_of_a_set_are_those_that_the_published_row_names() -> None:
    records = [measured(0.5, "sun397", variant=variant) for variant in ("partition1", "full")]
    (found,) = conformance(records, [row(dataset="sun397@full"), row(dataset="sun397")])
    assert (found.dataset, found.verdict) == ("sun397@full", "conforms")


def test_a_short_name_is_the_same_checkpoint() -> None:
    assert one(measured(0.5, spec="clip-vit-b32=openai"), row()).verdict == "conforms"


def test_robustness_is_measured_as_zero_shot_classification() -> None:
    published = row(dataset="imagenet_a", task="zero_shot_robustness")
    assert one(measured(0.5, "imagenet_a"), published).verdict == "conforms"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"subset": True, "n": 200}, r"a part of the set \(200 judged\)"),
        ({"own_copy": True}, "a part of the set"),
        ({"num_missing": 3}, "3 damaged images left out"),
        ({"verified": False}, "number of images is not known"),
        ({"prompt_hash": digest("other")}, "other class names or templates than clip-benchmark's"),
        ({"notes": {"reference_prompt_hash": ""}}, "a run into a new folder tells"),
        ({"info": {"precision": "bf16"}}, r"half precision is not judged \(bf16\)"),
        ({"info": {"precision": "fp16"}}, r"half precision is not judged \(fp16\)"),
        ({"info": {"precision": None}}, r"half precision is not judged \(unknown\)"),
    ],
)
def test_what_cannot_be_judged_says_why(changes: dict[str, Any], why: str) -> None:
    # Equal and far off alike: neither conforms.
    for value in (0.5, 0.9):
        found = one(measured(value, **dict(changes)), row())
        assert found.verdict == "not judged"
        assert re.search(why, found.unjudged)


def test_a_protocol_without_prompts_is_not_told_to_run_again() -> None:
    own = {"notes": {"reference_prompt_hash": ""}, "protocol": "standard"}
    found = one(measured(0.5, **own), row(protocol="standard"))
    assert found.verdict == "not judged"
    assert found.unjudged.endswith("only numbers of clip-benchmark are judged")
    assert "run" not in found.unjudged.split()


def test_remarks_stand_once_with_the_titles_of_their_sets() -> None:
    numbers = [measured(0.5, name, num_missing=3) for name in ("cifar10", "dtd")]
    found = conformance(numbers, [row(), row(dataset="dtd")])
    assert reasons(found) == ["CIFAR-10, DTD: 3 damaged images left out."]
    assert [each.cells[HEAD.index("dataset")] for each in found] == ["CIFAR-10", "DTD"]


@pytest.mark.parametrize("status", ["read_from_figure", "derived"])
def test_numbers_that_were_not_printed_are_not_judged(status: str) -> None:
    found = one(measured(0.5), row(status=status))
    assert (found.verdict, found.unjudged) == (
        "not judged",
        f"the published number was {status.replace('_', ' ')}",
    )


def test_rows_without_a_value_and_averages_are_not_compared() -> None:
    average = row(dataset="average", metric="average")
    assert conformance([measured(0.5, "average", metric="average")], [average]) == []
    assert conformance([measured(0.5)], [row("")]) == []


def test_half_precision_has_a_column_of_its_own_and_never_conforms() -> None:
    full, half = one(measured(0.5005), row()), one(measured(0.5005, info={"precision": "bf16"}), row())
    place = {name: i for i, name in enumerate(HEAD)}
    assert full.cells[place["difference"]] == "+0.05"
    assert full.cells[place["difference at half precision"]] == ""
    assert half.cells[place["difference"]] == ""
    assert half.cells[place["difference at half precision"]] == "+0.05 (bf16)"
    assert half.cells[place["verdict"]] == "not judged"
    assert len(full.cells) == len(half.cells) == len(HEAD)


def test_the_summary_counts_and_names_each_set_that_differs_with_its_difference() -> None:
    rows = [row(), row("60.0", "mnist"), row("70.0", "dtd"), row("10.0", "cars")]
    numbers = [measured(0.5), measured(0.58, "mnist"), measured(0.7, "dtd", subset=True)]
    lines = summary(conformance(numbers, rows), rows)
    assert lines == [
        "1 of 2 judged numbers conform.",
        "Not judged: 1, for the reasons beside them.",
        "Published of these checkpoints and not measured here: 1.",
        f"Differs: {SPEC}, MNIST, top-1: 58.00 measured, 60.0 published; -2.00 points, 0.10 allowed.",
    ]


def test_class_names_of_the_data_and_published_half_precision_are_remarked() -> None:
    number = measured(0.5, notes={"reference_class_names": "the data's own"})
    remark = one(number, row(precision="amp")).cells[-1]
    assert "class names are the data's own" in remark and "published at amp" in remark
    assert one(measured(0.5), row(precision="unknown")).cells[-1] == ""


def test_a_report_has_the_section_only_where_a_run_has_such_numbers(tmp_path: Path) -> None:
    numbers = [measured(0.6332, "imagenet", n=50_000), measured(0.87, "cifar10")]
    paths = write_report([write_run(tmp_path / "run", numbers)], tmp_path / "report")
    page, text = (path.read_text(encoding="utf-8") for path in (paths.index, paths.markdown))
    for form in (page, text):
        assert "Conformance" in form and "1 of 2 judged numbers conform." in form
        assert "87.00 measured, 89.83 published" in form
    assert '<a href="#conformance">' in page and '<section id="conformance">' in page
    other = [measured(0.6332, "imagenet", protocol="standard")]
    plain = write_report([write_run(tmp_path / "other", other)], tmp_path / "other-report")
    for path in (plain.index, plain.markdown):
        assert "Conformance" not in path.read_text(encoding="utf-8")


def test_a_report_takes_published_numbers_of_further_folders(tmp_path: Path) -> None:
    header = ",".join(PublishedRow.model_fields)
    cells = ",".join(row("12.3", method="Some method", backbone="", pretrain_data="").model_dump().values())
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "mine.csv").write_text(f"{header}\n{cells}\n")
    run = write_run(tmp_path / "run", [measured(0.5)])
    paths = write_report([run], tmp_path / "report", published=[tmp_path / "papers"])
    text = paths.markdown.read_text(encoding="utf-8")
    assert re.search(r"^\| Some method \[\d+\]\s+\|\s+12\.3 \|", text, re.MULTILINE)
