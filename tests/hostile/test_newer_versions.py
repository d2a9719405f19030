"""Files that a later version wrote: one message that says so, whatever else in them fits or does not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from toy import ColourDataset, ColourEncoder, engine

from rwkvclip_eval.data.prepare import STATE_NAME, prepare_dataset
from rwkvclip_eval.data.types import DatasetRef
from rwkvclip_eval.errors import NewerFile, OutputError
from rwkvclip_eval.features.store import FeatureStore
from rwkvclip_eval.records.reading import read_records, read_run_info
from rwkvclip_eval.report import write_report

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from report_runs import record, write_run

if TYPE_CHECKING:
    from collections.abc import Callable

NEWER = "was written by a newer version of rwkvclip-eval: {key} 99; expected up to {known}. Upgrade"


def changed(path: Path, changes: dict[str, Any]) -> None:
    first, *others = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | changes), *others]) + "\n", encoding="utf-8")


@pytest.mark.parametrize("more", [{}, {"value": {"mean": 0.5}}, {"status": "postponed"}])
@pytest.mark.parametrize(
    ("name", "read"), [("results.jsonl", read_records), ("run.json", read_run_info)], ids=["records", "run"]
)
def test_results_of_a_later_schema_are_refused_as_such(
    tmp_path: Path, name: str, read: Callable[[Path], object], more: dict[str, Any]
) -> None:
    run = write_run(tmp_path / "run", [record("a")])
    changed(run / name, {"schema_version": 99} | more)
    said = NEWER.format(key="schema_version", known=2)
    with pytest.raises(NewerFile, match=said) as caught:
        read(run / name)
    # Nobody is told to delete what a newer version can read.
    assert "delete" not in str(caught.value)
    with pytest.raises(OutputError, match=said):
        write_report([run], tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("version", [1, 2])
def test_those_of_earlier_ones_are_read(tmp_path: Path, version: int) -> None:
    run = write_run(tmp_path / "run", [record("a")])
    changed(run / "results.jsonl", {"schema_version": version})
    assert len(read_records(run / "results.jsonl")) == 1


@pytest.mark.parametrize("version", ["99", 99.0, True, None, [99], 0, -1, 10**30])
def test_what_is_no_version_is_no_record(tmp_path: Path, version: object) -> None:
    run = write_run(tmp_path / "run", [record("a")])
    changed(run / "results.jsonl", {"schema_version": version})
    with pytest.raises(OutputError) as caught:
        read_records(run / "results.jsonl")
    assert len(str(caught.value)) < 1000
    assert isinstance(caught.value, NewerFile) == (version == 10**30)


def test_shards_under_way_of_a_later_version_are_left_to_it(birds: Path, tmp_path: Path) -> None:
    ref = DatasetRef(name="birds")
    prepare_dataset(ref, birds, tmp_path / "data", splits=["test"])
    (state,) = (tmp_path / "data").rglob(STATE_NAME)
    changed(state, {"version": 99})
    with pytest.raises(NewerFile, match=NEWER.format(key="version", known=1)):
        prepare_dataset(ref, birds, tmp_path / "data", splits=["test"])


def test_an_entry_of_a_later_version_is_encoded_again_and_called_that(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    store.images(ColourEncoder(), ColourDataset(), engine())
    (meta,) = tmp_path.rglob("meta.json")
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"format": 99}))
    messages: list[str] = []
    encoder = ColourEncoder()
    FeatureStore(tmp_path).images(encoder, ColourDataset(), engine(on_message=messages.append))
    assert encoder.images == 30
    (said,) = messages
    assert "a newer version wrote it: format 99; expected up to 1" in said


def test_the_list_of_a_store_says_that_a_later_version_wrote_it(run: Any, tmp_path: Path) -> None:
    FeatureStore(tmp_path).images(ColourEncoder(), ColourDataset(), engine())
    (meta,) = tmp_path.rglob("meta.json")
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"format": 99}))
    code, out, err = run("cache", "show", "--cache", tmp_path)
    assert code == 0
    assert "1 entries" in out
    assert (
        "1 damaged, which a run encodes again: a newer version wrote it: format 99; expected up to 1." in err
    )
