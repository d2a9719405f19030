"""Published numbers: every file of the folder is read through a schema, and rows find their model."""

import csv
import io
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rwkvclip_eval.data.catalogue import catalogue
from rwkvclip_eval.encoders.open_clip import ALIASES
from rwkvclip_eval.errors import UserError
from rwkvclip_eval.records import published
from rwkvclip_eval.records.published import COLUMNS, PublishedRow, counterparts, read_published
from rwkvclip_eval.tasks import TASKS
from rwkvclip_models.resources import resource_dir

SHIPPED = read_published()
README = (resource_dir("published") / "README.md").read_text(encoding="utf-8")
GOOD = {
    "task": "zero_shot_classification",
    "method": "RWKV-CLIP",
    "backbone": "B/32",
    "pretrain_data": "LAION10M",
    "dataset": "cifar10",
    "metric": "top1_accuracy",
    "value": "79.8",
    "protocol": "unknown",
    "precision": "unknown",
    "status": "published",
    "source": "A paper, Table 1",
}


def text_of(*rows: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def added(folder: Path, text: str | bytes, name: str = "paper.csv") -> list[PublishedRow]:
    """Return what the file adds to the shipped rows."""
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_published([folder])[len(SHIPPED) :]


def test_a_file_added_to_a_folder_is_a_paper_added(tmp_path: Path) -> None:
    (row,) = added(tmp_path, text_of(GOOD))
    assert row.who == "RWKV-CLIP B/32, LAION10M"
    assert (row.number, row.text, row.measure.title) == (79.8, "79.8", "top-1")
    other = GOOD | {"method": "Another", "source": "Another paper"}
    assert [row.method for row in added(tmp_path, text_of(other), "other.csv")] == ["Another", "RWKV-CLIP"]


def test_every_csv_file_of_the_folder_is_read_and_only_those() -> None:
    files = sorted(resource_dir("published").glob("*.csv"))
    assert [path.name for path in files] == ["open_clip.csv", "published.csv", "realsyn_mlcd.csv"]
    counts = {}
    for path in files:
        with path.open(encoding="utf-8", newline="") as file:
            counts[path.name] = len(list(csv.DictReader(file)))
    assert counts == {"open_clip.csv": 350, "published.csv": 368, "realsyn_mlcd.csv": 308}
    assert len(SHIPPED) == sum(counts.values())
    told = dict(re.findall(r"^\| `([\w.]+)` \| (\d+) \|", README, re.MULTILINE))
    assert told == {name: str(count) for name, count in counts.items()}


def test_the_readme_names_every_column_status_and_precision() -> None:
    named = re.findall(r"^\| (`.+?`) \| ", README.split("| column |")[1], re.MULTILINE)
    assert [name for cell in named for name in re.findall(r"`(\w+)`", cell)] == list(COLUMNS)
    for row in SHIPPED:
        assert f"`{row.status}`" in README and f"`{row.precision}`" in README
        assert f"`{row.task}`" in README


def test_shipped_rows_are_of_sets_and_versions_of_the_catalogue_and_of_metrics_that_its_tasks_give() -> None:
    for row in SHIPPED:
        name, _, variant = row.dataset.partition("@")
        if row.dataset == "average":
            continue
        assert name in catalogue(), row
        assert not variant or catalogue()[name].has_variant(variant), row
        assert (row.measure.direction != "") == (catalogue()[name].kind == "retrieval"), row
        assert row.record_task in TASKS


def test_numbers_read_by_eye_say_so_and_no_others() -> None:
    assert {row.status == "read_from_figure" for row in SHIPPED if "by eye" in row.source} == {True}
    found = Counter((row.status, row.text[0] == "~") for row in SHIPPED)
    assert found == {("published", False): 743, ("read_from_figure", True): 282, ("derived", False): 1}


def test_rows_have_the_protocol_that_their_authors_are_known_to_follow() -> None:
    found = {(row.protocol, row.method) for row in SHIPPED if not row.method.startswith("open_clip:")}
    assert {one for one in found if one[0] != "unknown"} == {
        ("official-rwkv-clip", "RWKV-CLIP"),
        ("clip-lbfgs", "RWKV-CLIP"),
        ("clip-lbfgs", "CLIP"),
        ("clip-lbfgs", "MLCD"),
    }
    spec = [row for row in SHIPPED if row.method.startswith("open_clip:")]
    assert {row.protocol for row in spec} == {"clip-benchmark"}
    assert {(row.record_task, row.precision) for row in spec} == {
        ("zero_shot_classification", "fp32"),
        ("zero_shot_retrieval", "amp"),
    }
    assert {row.method for row in spec} == {f"open_clip:{row.backbone}={row.pretrain_data}" for row in spec}


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"value": "637"}, "value", r"expected digits .* from 0 to 100 \(per cent.*\(got '637'\)"),
        ({"value": "637 %"}, "value", r"without the sign.*\(got '637 %'\)"),
        ({"value": "63.7 %"}, "value", r"without the sign.*\(got '63.7 %'\)"),
        ({"value": "-1.0"}, "value", r"\(got '-1.0'\)"),
        ({"value": "nan"}, "value", r"\(got 'nan'\)"),
        ({"value": "inf"}, "value", r"\(got 'inf'\)"),
        ({"value": "1e1"}, "value", r"\(got '1e1'\)"),
        ({"value": "63,7"}, "value", r"decimal point.*\(got '63,7'\)"),
        ({"value": "٣"}, "value", r"\(got '٣'\)"),
        (
            {"value": "0.5", "metric": "image_retrieval_median_rank", "task": "zero_shot_retrieval"},
            "value",
            r"from 1 to .*\(rank\)",
        ),
        (
            {"status": "Published"},
            "status",
            r"'published', 'derived' or .* \(got 'Published'\)",
        ),
        ({"metric": "top1-accuracy"}, "metric", "Did you mean 'top1_accuracy'.*Known: .*roc_auc"),
        ({"metric": "average"}, "metric", r"\(got 'average'\)"),
        ({"metric": ""}, "metric", r"\(got ''\)"),
        ({"metric": "primary_metric_accuracy"}, "metric", "expected the name of a metric of "),
        ({"dataset": "average"}, "metric", "'average' or 'average_N'"),
        ({"protocol": "official-rwkvclip"}, "protocol", "mean 'official-rwkv-clip'.*Known: .*unknown"),
        ({"protocol": ""}, "protocol", r"\(got ''\)"),
        ({"precision": "fp64"}, "precision", r"'amp' or 'unknown' \(got 'fp64'\)"),
        ({"task": "zero_shot"}, "task", r"\(got 'zero_shot'\)"),
        ({"method": ""}, "method", "it is empty"),
        ({"source": ""}, "source", "it is empty"),
        ({"source": "x" * 501}, "source", "at most 500"),
        ({"method": "a\x1b[31m"}, "method", r"one line without control characters \(got 'a"),
        ({"backbone": "two\nlines"}, "backbone", "expected one line"),
        ({"dataset": "../cifar10"}, "dataset", r"record name, or NAME@VARIANT.*\(got '../cifar10'\)"),
        ({"dataset": "cifar10@"}, "dataset", r"\(got 'cifar10@'\)"),
    ],
)
def test_a_cell_that_does_not_fit_is_named_with_file_line_field_and_what_came(
    tmp_path: Path, changes: dict[str, str], field: str, said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        added(tmp_path, text_of(GOOD, GOOD | {"source": "Table 2"} | changes))
    assert str(caught.value).startswith(f"{tmp_path / 'paper.csv'}:3: {field}: ")
    assert len(str(caught.value).splitlines()) == 1


HEAD = ",".join(COLUMNS)
ROW = ",".join(GOOD.values()).replace("A paper, Table 1", "A paper")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "the file is empty"),
        (",".join(COLUMNS) + "\n", 1, "no row below the columns' names"),
        (text_of(columns=COLUMNS[:-1]), 1, "the column 'source' is missing; expected task, method"),
        (text_of(columns=(*COLUMNS, "note")), 1, "unknown column 'note'"),
        (HEAD.replace("protocol", "protocl"), 1, "unknown column 'protocl'. Did you mean 'protocol'?"),
        (HEAD + ",task", 1, "the column 'task' stands there 2 times"),
        (HEAD.replace(",", ";"), 1, "the column 'task' is missing"),
        (",".join(f"c{i}" for i in range(100_000)), 1, "came 100000 columns"),
        (f"{HEAD}\n{ROW},more", 2, "expected 11 fields, came 12; a field with a comma"),
        (f"{HEAD}\n{ROW.rpartition(',')[0]}", 2, "expected 11 fields, came 10"),
        (f'{HEAD}\n{ROW}\n"{ROW}\n{ROW}\n', 3, "a quotation mark in this row not closed"),
        (f'{HEAD}\n"{ROW}"x"\n', 2, "not valid CSV"),
        (f"{HEAD}\n{ROW}{'x' * 200_000}", 2, "not valid CSV"),
    ],
)
def test_a_file_that_is_no_such_table_is_named_with_the_line(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        added(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'paper.csv'}:{line}: ")


def test_a_number_given_twice_of_one_source_is_refused_whether_it_is_the_same_or_not(tmp_path: Path) -> None:
    for value in ("79.8", "80.8"):
        with pytest.raises(UserError, match=r"paper.csv:3: value: .*paper.csv:2 has it already \('79.8'\)"):
            added(tmp_path, text_of(GOOD, GOOD | {"value": value, "status": "derived"}))
    (tmp_path / "paper.csv").unlink()
    (tmp_path / "first.csv").write_text(text_of(GOOD))
    with pytest.raises(UserError, match=r"paper.csv:2: value: .*first.csv:2 has it already"):
        added(tmp_path, text_of(GOOD))


def test_two_sources_may_print_one_number_and_one_source_numbers_of_two_protocols(tmp_path: Path) -> None:
    rows = added(tmp_path, text_of(GOOD, GOOD | {"source": "B"}, GOOD | {"protocol": "standard"}))
    assert len(rows) == 3


def test_every_mistake_of_every_file_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        text_of(GOOD | {"value": "637"}, GOOD | {"status": "x", "precision": "y"})
    )
    (tmp_path / "b.csv").write_text("task\n")
    with pytest.raises(UserError) as caught:
        read_published([tmp_path])
    lines = str(caught.value).splitlines()
    assert [line.removeprefix(f"{tmp_path}/").partition(": ")[0] for line in lines[:4]] == [
        "a.csv:2",
        "a.csv:3",
        "a.csv:3",
        "b.csv:1",
    ]


def test_of_very_many_mistakes_the_first_are_told_without_looking_at_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []
    monkeypatch.setattr(published, "misfits", lambda error: looked_at.append(error) or ["metric: wrong"])
    many = [GOOD | {"metric": "x"}] * 2000
    with pytest.raises(UserError, match=r"and \d+ more"):
        added(tmp_path, text_of(*many))
    assert len(looked_at) == 100


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(text_of(GOOD, GOOD | {"source": 'Table 2, "in full"'}).encode())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content)))
        new = data.draw(
            st.sampled_from([b'"', b",", b"\n", b"\r", b"\0", b"\xff", b";", b"9", b"nan", b"\xef\xbb\xbf"])
        )
        content[at : at + data.draw(st.integers(0, 3))] = new
    try:
        rows = added(tmp_path, bytes(content))
    except UserError as error:
        assert str(tmp_path / "paper.csv") in str(error)
    else:
        assert all(row.method and row.source and (row.number is None or row.number <= 100) for row in rows)


def test_what_spreadsheets_write_is_read(tmp_path: Path) -> None:
    text = text_of(GOOD, GOOD | {"source": 'Table 2, "in full"'})
    for form in (f"\ufeff{text}", text.replace("\n", "\r\n"), text.replace("\n", "\n\n")):
        assert [row.source for row in added(tmp_path, form)] == ["A paper, Table 1", 'Table 2, "in full"']
    turned = text_of(GOOD, columns=COLUMNS[::-1])
    assert added(tmp_path, turned)[0].model_dump() == GOOD


def test_other_text_than_utf8_and_files_beyond_the_limits_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="not UTF-8"):
        added(tmp_path, text_of(GOOD).encode("utf-16"))
    monkeypatch.setattr(published, "MAX_ROWS", 370)
    many = [GOOD | {"source": f"Table {i}"} for i in range(371)]
    assert len(added(tmp_path, text_of(*many[:370]))) == 370
    with pytest.raises(UserError, match="more than 370 rows"):
        added(tmp_path, text_of(*many))
    monkeypatch.setattr(published, "FILE_LIMIT_BYTES", 100_000)
    with pytest.raises(UserError, match="at most 100000 are read"):
        added(tmp_path, text_of(GOOD) + "\n" * 100_000)


def test_a_folder_that_is_none_or_holds_no_file_is_said(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(UserError, match="expected a folder of CSV files"):
            read_published([folder])


def test_a_folder_given_twice_is_read_once(tmp_path: Path) -> None:
    assert read_published([resource_dir("published")]) == SHIPPED
    (tmp_path / "paper.csv").write_text(text_of(GOOD))
    assert len(read_published([tmp_path, tmp_path / "." / ".." / tmp_path.name])) == len(SHIPPED) + 1


def test_unknown_cells_stay_empty(tmp_path: Path) -> None:
    row = added(tmp_path, text_of(GOOD | {"value": "", "backbone": "", "pretrain_data": ""}))[0]
    assert (row.value, row.text, row.number, row.who) == ("", "", None, "RWKV-CLIP")
    eye = added(tmp_path, text_of(GOOD | {"value": "", "status": "read_from_figure"}))[0]
    assert eye.text == ""


def who(spec: str, rows: list[PublishedRow] = SHIPPED) -> list[str]:
    return list(dict.fromkeys(row.who for row in counterparts(spec, rows)))


def test_a_models_name_finds_the_rows_of_its_method_and_backbone_whatever_their_data(tmp_path: Path) -> None:
    rows = [*SHIPPED, *added(tmp_path, text_of(GOOD, GOOD | {"backbone": "ViT-B/16"}))]
    assert who("rwkv-clip-b32=model_31.pt", rows) == ["RWKV-CLIP B/32, YFCC15M", "RWKV-CLIP B/32, LAION10M"]
    assert who("rwkv-clip-b16=hf://owner/repo/model.pt", rows) == ["RWKV-CLIP ViT-B/16, LAION10M"]
    assert who("alip-vit-b32=alip.pt") == ["ALIP ViT-B/32, YFCC15M"]
    assert who("clip-vit-b32=mine.pt") == who("open_clip:ViT-B-32=mine.pt")
    assert {"CLIP ViT-B/32, YFCC15M", "CLIP (RealSyn run) ViT-B/32, RealSyn30M"} < set(
        who("clip-vit-b32=m.pt")
    )
    assert who("clip-vit-b16=mine.pt") == ["CLIP ViT-B/16, LAION30M"]


def test_released_weights_find_their_own_rows_and_no_other_training_data() -> None:
    assert who("open_clip:RN50=yfcc15m") == ["open_clip:RN50=yfcc15m"]
    own = ["open_clip:ViT-B-32=openai", "CLIP ViT-B/32, WIT400M"]
    assert who("open_clip:ViT-B-32=openai") == who("clip-vit-b32=openai") == own
    assert who("open_clip:ViT-B-32=laion400m_e32") == ["open_clip:ViT-B-32=laion400m_e32"]


def test_random_weights_and_models_that_nobody_published_find_nothing() -> None:
    for spec in ("rwkv-clip-b32=random:0", "open_clip:ViT-B-32=random:1", "my.json=x.pt", "hf:owner/repo"):
        assert who(spec) == [], spec


def test_short_names_mean_what_the_adapter_takes_them_for() -> None:
    clip = {name: model for name, model in ALIASES.items() if name.startswith("clip-")}
    assert clip == published._OPEN_CLIP
