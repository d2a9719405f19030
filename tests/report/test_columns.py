"""Encoders of one name are told apart by what a reader understands; hashes are the last resort."""

from pathlib import Path
from typing import Any

import pytest
from pages import page_of
from report_runs import digest, record, write_run

from rwkvclip_eval.report.loading import load_runs

Encoders = list[tuple[str, dict[str, Any]]]


def titles(folder: Path, encoders: Encoders) -> list[str]:
    """Column titles of encoders named `nano`, each with the run it is in and what its records say."""
    runs: dict[str, list[Any]] = {}
    for i, (run, facts) in enumerate(encoders):
        own = {"spec": "nano=model.pt", "fingerprint": digest(i)} | facts
        named = f"nano.{i}"
        runs.setdefault(run, []).append(record("nano", "dtd", 0.1 * i, unit=named, model_info=own))
    folders = [write_run(folder / name, records) for name, records in runs.items()]
    return load_runs(folders).models


CASES: list[tuple[Encoders, list[str]]] = [
    ([("a", {})], ["nano"]),
    (
        [("a", {"spec": "nano=old.pt"}), ("a", {"spec": "nano=new.pt"})],
        ["nano (old.pt)", "nano (new.pt)"],
    ),
    (
        [("a", {"step": 5, "step_unit": "epoch"}), ("b", {"step": 6, "step_unit": "epoch"})],
        ["nano (epoch 5)", "nano (epoch 6)"],
    ),
    ([("a", {"precision": "fp32"}), ("a", {"precision": "bf16"})], ["nano (fp32)", "nano (bf16)"]),
    ([("main", {}), ("candidate", {})], ["nano (main)", "nano (candidate)"]),
    (
        [
            (run, {"precision": precision, "fingerprint": digest(run)})
            for run in ("main", "candidate")
            for precision in ("fp32", "bf16")
        ],
        ["nano (fp32, main)", "nano (bf16, main)", "nano (fp32, candidate)", "nano (bf16, candidate)"],
    ),
    (
        [("a", {"spec": f"nano={file}.pt", "step": 3, "step_unit": "epoch"}) for file in ("x", "y")],
        ["nano (x.pt)", "nano (y.pt)"],
    ),
    ([("a", {}), ("a", {})], [f"nano ({digest(i)[:8]})" for i in range(2)]),
]


@pytest.mark.parametrize(("encoders", "expected"), CASES)
def test_the_shortest_difference_stands_behind_a_name_that_is_shared(
    tmp_path: Path, encoders: Encoders, expected: list[str]
) -> None:
    assert titles(tmp_path, encoders) == expected


def test_a_hash_in_two_precisions_stands_only_where_files_steps_and_runs_are_alike(tmp_path: Path) -> None:
    four: Encoders = [
        ("a", {"fingerprint": digest(which), "precision": precision})
        for which in (0, 1)
        for precision in ("fp32", "bf16")
    ]
    expected = [f"nano ({digest(which)[:8]}, {p})" for which in (0, 1) for p in ("fp32", "bf16")]
    assert titles(tmp_path, four) == expected


def test_the_page_has_the_hashes_of_models_told_apart_by_their_files_in_its_provenance(
    tmp_path: Path,
) -> None:
    both = write_run(
        tmp_path / "one",
        [
            record("nano", "dtd", 0.1 * i, unit=f"nano.{i}", model_info={"fingerprint": digest(i), "spec": s})
            for i, s in enumerate(("nano=old.pt", "nano=new.pt"))
        ],
    )
    page = page_of(both)
    above, provenance = page.split('<section id="provenance"')
    assert "nano (old.pt)" in above and digest(0)[:8] not in above
    assert digest(0) in provenance
