"""The page's tables: one line a cell, tints, models down or across, titles, digests, text of others."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pages import page_of
from report_runs import digest, record, series_run, write_examples, write_run

from rwkvclip_eval.data.catalogue import catalogue
from rwkvclip_eval.records.metrics import TOP1, median_rank
from rwkvclip_eval.records.titles import DATASET_TITLES
from rwkvclip_eval.report.formats.csv import table_csv
from rwkvclip_eval.report.formats.html_grid import MANY_MODELS, TINTS, GridCell, tints
from rwkvclip_eval.report.formats.latex import latex
from rwkvclip_eval.report.formats.markdown import markdown
from rwkvclip_eval.report.formats.templates import is_digest
from rwkvclip_eval.report.headline import write_headline
from rwkvclip_eval.report.loading import load_runs
from rwkvclip_eval.report.rows import Cell, Row
from rwkvclip_eval.report.tables import build_tables
from rwkvclip_eval.report.titles import titled, titled_tables


def grids(page: str, section: str) -> list[tuple[str, str]]:
    """Kind of the box and the table in it, of every table of numbers of a section."""
    start = page.index(f'<section id="{section}"')
    text = page[start : page.index("</section>", start)]
    found = re.findall(r'<div class="scroll([^"]*)"[^>]*>(<table class="grid.*?</table>)', text, re.DOTALL)
    return [(box.strip(), table) for box, table in found]


def row_of(
    values: dict[str, float], half: float | None = None, metric: object = TOP1, **changes: object
) -> Row:
    ends = {m: {} if half is None else {"low": v - half, "high": v + half} for m, v in values.items()}
    cells = {m: Cell(metric=metric, value=v, **ends[m]) for m, v in values.items()}  # type: ignore[arg-type]
    return Row(title="x", metric=metric, cells=cells, scope="s", **changes)  # type: ignore[arg-type]


def test_the_best_number_has_the_full_tint_and_the_worst_none() -> None:
    assert tints(row_of({"a": 0.2, "b": 0.4, "c": 0.6}, half=0.01)) == {"a": 0, "b": TINTS // 2, "c": TINTS}


def test_noise_is_hardly_tinted_apart() -> None:
    found = tints(row_of({"a": 0.60, "b": 0.605}, half=0.02))
    assert found == {"a": TINTS, "b": TINTS}
    assert tints(row_of({"a": 0.60, "b": 0.605}, half=0.0005)) == {"a": 0, "b": TINTS}


def test_the_lowest_rank_has_the_full_tint() -> None:
    assert tints(row_of({"a": 1.0, "b": 9.0}, metric=median_rank("text"))) == {"a": TINTS, "b": 0}


def test_what_is_compared_with_nothing_has_no_tint() -> None:
    assert tints(row_of({"a": 0.5}, half=0.01)) == {}
    assert tints(row_of({"a": 0.5, "b": 0.9}, half=0.01, problem="prompts differ")) == {}
    assert tints(row_of({"a": 0.5, "b": 0.5})) == {}
    untrained = Cell(metric=TOP1, value=0.99, trained=False)
    row = row_of({"a": 0.5, "b": 0.9}, half=0.01)
    assert "c" not in tints(Row(title="x", metric=TOP1, cells={**row.cells, "c": untrained}, scope="s"))


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [(0.648, 0.675, "2.0"), (0.66, 0.69, "2.2"), (0.66799, 0.66801, "0.1"), (None, None, "")],
)
def test_half_widths_reach_to_the_farther_end(low: float | None, high: float | None, shown: str) -> None:
    cell = Cell(metric=TOP1, value=0.668, low=low, high=high)
    assert GridCell(cell=cell, key=("", "", "", ""), model="a").half == shown


def test_a_number_is_one_line_of_value_and_half_width(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, [record("a", value=0.668, half=0.01)]))
    (_, table), *_ = grids(page, "zero-shot-classification-standard")
    assert '<span class="v">66.8</span> <span class="ci" title="95 % interval 65.8–67.8">±1.0</span>' in table


@pytest.mark.parametrize(("ahead", "bold"), [(0.01, False), (0.1, True), (0.0, False)])
def test_every_form_marks_only_a_lead_with_all_intervals_apart(
    tmp_path: Path, ahead: float, bold: bool
) -> None:
    run = write_run(tmp_path, [record("a", value=0.6 + ahead, half=0.02), record("b", value=0.6, half=0.02)])
    loaded = load_runs([run])
    shown = build_tables(loaded.entries)
    number = f"{60 + 100 * ahead:.1f}"
    text = markdown(loaded, shown, write_headline(loaded, shown), [], [])
    page = page_of(run)
    marked = {
        "html": (
            ' class="best' in page,
            '<td class="best' in page and f'">{number}</span><span class="sr"> (best)' in page,
        ),
        "markdown": ("**" in text, f"**{number}**" in text),
        "latex": ("textbf" in latex(shown), rf"\textbf{{{number}}}" in latex(shown)),
        "csv": ("best" in table_csv(shown), ",best" in table_csv(shown)),
    }
    assert marked == dict.fromkeys(marked, (bold, bold))
    assert ("Bold: the best trained model, its 95 % interval apart" in text) is bold


@pytest.mark.parametrize("models", [1, MANY_MODELS, MANY_MODELS + 1])
def test_many_models_are_lines_on_the_screen_and_columns_on_paper(tmp_path: Path, models: int) -> None:
    names = [f"m{i}" for i in range(models)]
    records = [record(m, d, 0.3 + i / 20) for i, m in enumerate(names) for d in ("cifar10", "dtd")]
    page = page_of(write_run(tmp_path, records))
    # No box to filter what only paper shows.
    assert ".scroll:not(.paper)" in page
    found = grids(page, "zero-shot-classification-standard")
    across = re.findall(r'scope="row"><bdi class="t">([^<]*)', found[-1][1])
    assert across == ["CIFAR-10", "DTD", "Average of 2"]
    if models <= MANY_MODELS:
        assert [box for box, _ in found] == ["few"]
    else:
        assert [box.split()[-1] for box, _ in found] == ["screen", "paper"]
        down = found[0][1]
        assert re.findall(r'scope="row"><bdi class="t name"[^>]*>([^<]*)', down) == names
        assert re.findall(r'scope="col" data-c="\d"><[^>]*class="t">([^<]*)', down) == [
            "Model", "Average of 2", "CIFAR-10", "DTD",
        ]  # fmt: skip
        assert re.findall(r'<span class="v">([\d.]+)', down) == [
            f"{30 + 5 * i:.1f}" for i in range(models) for _ in range(3)
        ]


def test_metrics_of_one_dataset_stand_under_its_title_where_models_are_lines(tmp_path: Path) -> None:
    kinds = {"task": "zero_shot_retrieval"}
    metrics = ("text_retrieval_recall@1", "image_retrieval_recall@1")
    records = [
        record(f"m{i}", "flickr30k", metric=m, **kinds) for i in range(MANY_MODELS + 1) for m in metrics
    ]
    (_, down), *_ = grids(page_of(write_run(tmp_path, records)), "zero-shot-retrieval-standard")
    assert re.findall(r'colspan="(\d)" scope="colgroup" class="group"><bdi class="t">([^<]*)', down) == [
        ("2", "Flickr30k")
    ]
    assert re.findall(r'data-c="[12]"><bdi class="t">([^<]*)', down) == [
        "image→text R@1, %",
        "text→image R@1, %",
    ]


def test_tables_have_no_column_a_checkpoint_and_fold_every_checkpoint_into_lines(tmp_path: Path) -> None:
    page = page_of(series_run(tmp_path / "run"))
    (_, main), (_, every) = grids(page, "zero-shot-classification-standard")
    assert re.findall(r'<bdi class="t name"[^>]*>([^<]*)', main) == [
        "nano-rwkv-epoch_16",
        "nano-clip-epoch_16",
    ]
    steps = (1, 2, 4, 8, 16)
    assert re.findall(r'scope="row"><bdi class="t name"[^>]*>([^<]*)', every) == [
        f"{family}-epoch_{step}" for family in ("nano-clip", "nano-rwkv") for step in steps
    ]
    assert page.count("<summary>Every checkpoint</summary>") == 1


def test_datasets_go_by_their_titles_and_by_their_names_where_they_are_traced(tmp_path: Path) -> None:
    averages = [
        {"name": "Mean", "task": "zero_shot_classification", "protocol": "standard",
         "datasets": ["food101", "sun397@partition1", "dtd", "my_set"], "leaves_out": ["imagenet"]},
    ]  # fmt: skip
    records = [
        record("a", "food101"),
        record("a", "sun397", variant="partition1", split="val", unit="other"),
        record("a", "my_set"),
    ]
    run = write_run(tmp_path / "run", records, averages=averages)
    page = page_of(run)
    (_, table), *_ = grids(page, "zero-shot-classification-standard")
    assert re.findall(r'scope="row"><bdi class="t">([^<]*)', table) == [
        "Food-101", "SUN397 (partition1, val)", "my_set", "Mean",
    ]  # fmt: skip
    assert "missing: DTD." in page and "leaves out ImageNet" in page
    assert "<dt>dataset</dt><dd>sun397@partition1, split val</dd>" in page


def test_a_title_that_is_anothers_name_stays_with_the_other(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record("a", "pets", 0.2), record("a", "Pets", 0.4)])
    (table,) = titled_tables(titled(load_runs([run])))
    assert [row.title for row in table.rows] == ["pets", "Pets"]


def test_every_dataset_of_the_catalogue_has_a_title() -> None:
    assert set(catalogue()) <= set(DATASET_TITLES)
    assert len(set(DATASET_TITLES.values())) == len(DATASET_TITLES)


def test_digests_are_cut_by_style_alone_so_that_they_can_be_copied_whole(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, [record("a")]))
    assert f'<code class="hash">{digest("encoder", "a")}</code>' in page
    assert re.search(r"\.hash\{[^}]*max-width:8ch", page)
    assert is_digest("0123456789abcdef") and not is_digest("0123456789ABCDEF-") and not is_digest("12345")


def test_provenance_is_folded(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, [record("a")]))
    text = page[page.index('<section id="provenance">') : page.index("</main>")]
    assert re.findall(r"<details[^>]*><summary>([^<:]*)", text) == [
        "How to read the numbers", "Models", "Run", "Suite as run",
    ]  # fmt: skip
    assert "<details open" not in page and " open>" not in page


class Cells(HTMLParser):
    """How many cells each line of each table has, the elements around each text, and those without text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[int]] = []
        self.open: list[str] = []
        self.scripts = 0
        self.handlers: list[str] = []
        self.around: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.scripts += tag == "script"
        if tag not in ("meta", "img", "br", "input", "source"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append(0)
        if tag in ("td", "th"):
            self.tables[-1][-1] += int(dict(attrs).get("colspan") or 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.around.append((self.open[-1] if self.open else "", data))


HOSTILE = (
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    "a\nb\tc",
    "שלום עולם",
    "{{ 7 * 7 }}",
    "'\" & <b>",
)


@pytest.mark.parametrize("models", [2, MANY_MODELS + 2])
def test_names_of_others_are_text_and_lines_keep_their_cells(tmp_path: Path, models: int) -> None:
    names = [*HOSTILE, "x" * 900, "y"] if models > 2 else list(HOSTILE[3:5])
    unit = "evil.zero_shot_retrieval.x.standard"
    recall = {"task": "zero_shot_retrieval", "metric": "text_retrieval_recall@1", "unit": unit}
    records = [record(m, d) for m in names for d in HOSTILE] + [record(names[0], "x", **recall)]
    run = write_run(tmp_path, records, suite_name="".join(HOSTILE), environment={HOSTILE[0]: HOSTILE[1]})
    write_examples(run, unit, ["c" * 10_000, *HOSTILE])
    page = page_of(run)
    read = Cells(page)
    assert (read.scripts, read.handlers, read.open) == (1, [], [])
    assert "49" not in [text.strip() for _, text in read.around]
    for table in read.tables:
        assert set(table[1:]) in ({max(table)}, {max(table) - 1, max(table)}, set())
    # Long texts are cut where they are shown; the whole name is at hand.
    assert "c" * 601 not in page
    assert (f'title="{"x" * 900}">{"x" * 77}...</bdi>' in page) == (models > 2)


def test_right_to_left_names_are_isolated_from_what_stands_beside_them(tmp_path: Path) -> None:
    records = [record(m, d, v) for m, v in (("שלום", 0.5), ("עולם", 0.6)) for d in ("אבג", "cifar10")]
    page = page_of(write_run(tmp_path, records, suite_name="דהו"))
    read = Cells(page)
    inline = {
        tag for tag, text in read.around for name in ("שלום", "עולם", "אבג", "דהו") if text.strip() == name
    }
    inline -= {"title"}
    assert inline <= {"bdi", "dd", "dt", "td", "th"} and "bdi" in inline
