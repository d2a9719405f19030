"""The forms of the paper's tables: LaTeX, Markdown, CSV, JSON, HTML."""

import csv
import dataclasses
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from latex_reader import Misfit, read_tables, read_text
from paper_runs import built, probed, rows_of, scored
from probe_runs import ALL_27
from report_runs import record, write_run

from rwkvclip_eval.printable import one_line, printable
from rwkvclip_eval.records.metrics import TOP1
from rwkvclip_eval.records.published import COLUMNS
from rwkvclip_eval.report import ReportPaths, write_report
from rwkvclip_eval.report.formats.latex_text import escape_latex
from rwkvclip_eval.report.formats.markdown_text import escape_markdown
from rwkvclip_eval.report.formats.paper_csv import PER_COLUMN, paper_csv
from rwkvclip_eval.report.formats.paper_html import paper_html
from rwkvclip_eval.report.formats.paper_json import paper_json
from rwkvclip_eval.report.formats.paper_latex import MAX_COLUMNS, paper_latex
from rwkvclip_eval.report.formats.paper_markdown import paper_markdown
from rwkvclip_eval.report.formats.paper_text import difference_text, half_text
from rwkvclip_eval.report.paper_layout import Column
from rwkvclip_eval.report.paper_rows import Difference, PaperCell, PaperRow, PaperTable

pytestmark = pytest.mark.usefixtures("no_pdf")

HOSTILE = [
    "<script>alert(1)</script>",
    "a|b||c",
    "100 % & more",
    "_under_score__",
    r"back\slash\\ \input{x} \end{tabular}",
    "line\nbreak\r\n\n\ttab",
    "אבג \u202eעברית\u202c مرحبا",
    "[a](http://b) *x* `y` ~z~ **w**",
    "{unclosed } $x^2 #1 ^^41",
    "--- '' `` ?` !` \"quoted\"",
    "[0.5ex] * \\\\",
    "=1+1",
    "# heading",
    "1. one",
    "é ü ñ 東京 🙂 Ω → —",
    "\x1b[31m\x00\x07",
    "x" * 10_000,
    " &amp; &lt;b&gt;",
]


def hostile_table(texts: list[str]) -> PaperTable:
    """A table in which every text that a user or a data set may bring is one of `texts`."""

    def cells(number: float, **changes: object) -> tuple[PaperCell, ...]:
        one = PaperCell(value=number, status="published", printed=str(number))
        return tuple(dataclasses.replace(one, **changes) for _ in texts)

    columns = [
        Column(name=f"d{i}.{text}", title=text, metric=TOP1, dataset=f"d{i}", groups=(text,))
        for i, text in enumerate(texts)
    ]
    published = [
        PaperRow(method=text, protocol="unknown", precision="unknown", cells=cells(50.0), sources=(i,))
        for i, text in enumerate(texts, 1)
    ]
    ours = [
        PaperRow(
            method=text,
            protocol=text,
            precision=text,
            cells=cells(60.0, printed="", status="ok", low=59.0, high=61.5, bold=True),
            measured=True,
            against=text,
            differences=tuple(Difference(value=-1.0, low=-2, high=0.5, resolved=3.0) for _ in texts),
        )
        for text in texts
    ]
    return PaperTable(
        name="hostile",
        title=texts[0],
        columns=tuple(columns),
        published=tuple(published),
        measured=tuple(ours),
        notes=tuple(texts),
        sources=tuple(texts),
    )


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:12]))
def test_escaped_text_is_set_as_it_is(text: str) -> None:
    escaped = escape_latex(text)
    assert "\n" not in escaped and escaped.isprintable()
    assert read_text(escaped) == one_line(text)


@pytest.mark.parametrize(
    "wrong", ["a & b", "100 %", "a_b", "#1", "x^2", r"\input", "{a", "a}", "$x", "a\nb", "a~b", "x''y", "?`"]
)
def test_the_reader_of_latex_refuses_what_was_not_escaped(wrong: str) -> None:
    with pytest.raises(Misfit):
        read_text(wrong)


def test_only_letters_that_every_font_has_are_set_as_they_are() -> None:
    assert escape_latex("éÜñ") == "éÜñ"
    assert escape_latex("a東京b") == "a{[}U+6771 U+4EAC{]}b"
    assert escape_latex("it’s ‘so’’") == "it{'}s {`}so{'}{'}"
    assert escape_latex("ąð→x") == r"{[}U+0105 U+00F0{]}$\to$x"


def test_latex_holds_hostile_names_in_rows_of_whole_cells() -> None:
    source = paper_latex(hostile_table(HOSTILE))
    tables = read_tables(source)
    columns = -(-len(HOSTILE) // 2)
    assert [len(rows[0]) for rows in tables] == [columns + 1, len(HOSTILE) - columns + 1]
    for rows in tables:
        labels = [row[0] for row in rows[2:]]
        assert len(labels) == 3 * len(HOSTILE)
        for text, label in zip(HOSTILE, labels, strict=False):
            whole = one_line(text)
            assert label == whole.strip() or (label.endswith("…") and whole.startswith(label[:-1]))
    heads = [text for rows in tables for text in rows[1][1:]]
    assert heads == [one_line(text).strip() for text in HOSTILE]
    # What stands in comments ends none.
    assert all(line.isprintable() for line in source.split("\n"))


def cells_of(line: str) -> list[str]:
    """The cells of a line of a Markdown table, escapes taken back."""
    inner = re.split(r"(?<!\\)(?:\\\\)*\|", line.strip())[1:-1]
    return [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in inner]


def test_markdown_holds_hostile_names_in_rows_of_whole_cells() -> None:
    text = paper_markdown(hostile_table(HOSTILE))
    assert "<script>" not in text and "\u202e" not in text and "\x1b" not in text
    lines = [line for line in text.split("\n") if line.startswith("|")]
    assert len(lines) == 2 + 3 * len(HOSTILE)
    # A backslash before a bar would be taken for the bar's escape, so count bars that are none.
    for line in lines:
        bars = re.findall(r"(\\*)\|", line)
        assert sum(len(slashes) % 2 == 0 for slashes in bars) == len(HOSTILE) + 2
    assert not re.search(r"^(\d+\. )?#+ ", "\n".join(text.split("\n")[1:]), re.MULTILINE)


def test_what_begins_a_list_or_a_heading_is_text_in_markdown() -> None:
    found = [
        escape_markdown(text)
        for text in ("# a", "1. a", "2) a", "- a", "+ a", "~a~", "-1.0", "C#", "3", "$x$")
    ]
    assert found[:-1] == [r"\# a", r"1\. a", r"2\) a", r"\- a", r"\+ a", r"\~a\~", "-1.0", "C#", "3"]
    assert found[-1] == "&#36;x&#36;"


def test_csv_and_json_give_hostile_names_back() -> None:
    table = hostile_table(HOSTILE)
    rows = list(csv.reader(io.StringIO(paper_csv(table))))
    assert {len(row) for row in rows} == {8 + len(PER_COLUMN) * len(HOSTILE)}
    methods = [row[1].removeprefix("'") for row in rows[1:]]
    ours = [one for text in HOSTILE for one in (text, text)]
    assert methods == [one_line(text) for text in [*HOSTILE, *ours]]
    assert not any(cell.startswith(("=", "@")) for row in rows for cell in row)
    content = json.loads(paper_json(table))
    plain = [text for text in HOSTILE if text.isprintable()]
    assert [row["method"] for row in content["rows"] if row["method"] in plain][: len(plain)] == plain
    assert len(content["rows"]) == 2 * len(HOSTILE)


class Cells(HTMLParser):
    """Texts of the cells of a page, by row, and the elements it has."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_html_shows_hostile_names_as_text() -> None:
    table = hostile_table(HOSTILE)
    reader = Cells()
    reader.feed(paper_html([table], dict.fromkeys(HOSTILE, "#000000")))
    assert not reader.open
    assert not {"script", "b", "img"} & reader.tags
    assert len(reader.rows) == 2 + 3 * len(HOSTILE)
    assert {len(row) for row in reader.rows[2:]} == {1 + len(HOSTILE)}
    for text, row in zip(HOSTILE, reader.rows[2:], strict=False):
        assert text.replace("\r\n", "\n") in row[0].replace("\r\n", "\n")


def test_html_keeps_right_to_left_names_from_turning_their_neighbours() -> None:
    table = hostile_table(["אבג"])
    assert paper_html([table], {"אבג": "#000000"}).count("<bdi>אבג</bdi>") == 3


def test_html_is_empty_where_there_is_no_table() -> None:
    assert paper_html([], {}) == ""


def two_models() -> dict[str, PaperTable]:
    records = [scored(m, d, v) for m, v in (("rwkv-clip-b32", 0.9), ("b", 0.2)) for d in ("cifar10", "dtd")]
    rows = rows_of(
        {"value": "79.8"},
        {"method": "Eye", "value": "70.1", "status": "read_from_figure"},
        {"method": "Far", "value": "60", "pretrain_data": "LAION15M"},
    )
    return built(*records, rows=rows)


def test_latex_is_ready_to_paste() -> None:
    (table,) = two_models().values()
    source = paper_latex(table)
    for line in (
        r"\begin{table*}[t]",
        r"\centering",
        r"\label{tab:zero-shot-classification-11}",
        r"\toprule",
        r"\bottomrule",
        r"\end{table*}",
    ):
        assert source.count(line + "\n") == 1
    caption = re.search(r"^\\caption\{(.*)\}$", source, re.MULTILINE)
    assert caption is not None
    shown = read_text(caption[1])
    assert shown.startswith(
        "Zero-shot classification on 11 datasets. Metric: top-1; mean per class of Pets, "
    )
    head, body = source.split("\\midrule\n", 1)
    assert "Food-101" in head and "CIFAR-10 &" in head
    above, below = body.split("\\midrule\n")
    assert [line.split(" & ")[0] for line in above.strip().split("\n")] == [
        "RWKV-CLIP B/32, YFCC15M",
        "Eye B/32, YFCC15M",
        "% Far B/32, LAION15M",
    ]
    assert r"$\sim$70.1" in above
    assert [line.split(" & ")[0] for line in below.split("\\bottomrule")[0].strip().split("\n")] == [
        "rwkv-clip-b32 (standard)",
        r"\quad $\Delta$ to RWKV-CLIP B/32, YFCC15M",
        r"\addlinespace",
        "b (standard)",
    ]
    assert r"\textbf{90.0}{\scriptsize\,$\pm$0.6}" in below
    assert r"+10.2{\scriptsize\,$\pm$0.6 (1.2)}" in below
    assert "\\textbf" not in above


def test_latex_shows_rows_of_other_data_where_there_are_no_others() -> None:
    row = {"method": "Far", "value": "60", "pretrain_data": "LAION15M"}
    (table,) = built(scored("a", "cifar10", 0.9), rows=rows_of(row)).values()
    assert "\nFar B/32, LAION15M & 60" in paper_latex(table)


def test_a_table_of_many_columns_is_set_in_parts() -> None:
    table = built(*(probed("a", d) for d in ALL_27))["linear-probe-27"]
    parts = read_tables(paper_latex(table))
    assert [len(rows[0]) for rows in parts] == [16, 16]
    assert all(len(rows[0]) <= MAX_COLUMNS + 1 for rows in parts)
    titles = [text for rows in parts for text in rows[0][1:]]
    assert titles == [column.title for column in table.columns]
    # A part has the rows that have a number in it.
    alip = "ALIP ViT-B/32, YFCC15M"
    assert [alip in [row[0] for row in rows] for rows in parts] == [True, False]
    assert all(any(row[1:]) for rows in parts for row in rows)


def test_headings_over_columns_have_rules() -> None:
    one = record("a", "flickr30k", 0.5, task="zero_shot_retrieval", metric="text_retrieval_recall@1")
    source = paper_latex(built(one)["zero-shot-retrieval"])
    assert source.count(r"\multicolumn{6}{c}") == 2
    assert "\\cmidrule(lr){2-7}\\cmidrule(lr){8-13}\n" in source
    assert "\\cmidrule(lr){2-4}\\cmidrule(lr){5-7}\\cmidrule(lr){8-10}\\cmidrule(lr){11-13}\n" in source
    read_tables(source)


def test_markdown_shows_what_the_table_says() -> None:
    (table,) = two_models().values()
    text = paper_markdown(table)
    assert text.startswith("# Zero-shot classification on 11 datasets\n\n| Method")
    lines = {cells_of(line)[0]: cells_of(line)[1:] for line in text.split("\n") if line.startswith("|")}
    assert list(lines)[2:] == [
        "RWKV-CLIP B/32, YFCC15M [1]",
        "Eye B/32, YFCC15M [2]",
        "rwkv-clip-b32 (standard)",
        "Δ to RWKV-CLIP B/32, YFCC15M",
        "b (standard)",
        "Far B/32, LAION15M [1]",
    ]
    assert lines["rwkv-clip-b32 (standard)"][0] == "**90.0** ±0.6"
    assert lines["Δ to RWKV-CLIP B/32, YFCC15M"] == ["+10.2 ±0.6 (1.2)", *[""] * 11]
    assert lines["Eye B/32, YFCC15M [2]"][0] == "~70.1"


def test_csv_and_json_hold_numbers_and_reasons() -> None:
    (table,) = two_models().values()
    rows = list(csv.DictReader(io.StringIO(paper_csv(table))))
    assert [(row["kind"], row["method"]) for row in rows] == [
        ("published", "RWKV-CLIP B/32, YFCC15M"),
        ("published", "Eye B/32, YFCC15M"),
        ("published", "Far B/32, LAION15M"),
        ("measured", "rwkv-clip-b32"),
        ("difference", "rwkv-clip-b32"),
        ("measured", "b"),
    ]
    column = "cifar10.top1_accuracy"
    assert [row[f"{column}.value"] for row in rows] == ["79.8", "70.1", "60.0", "90.0", "10.2", "20.0"]
    assert [row[f"{column}.state"] for row in rows] == [
        *("published", "read_from_figure", "published", "ok best", "beyond noise", "ok"),
    ]
    assert [row["average_11.state"] for row in rows] == [
        *("not_published", "not_published", "not_published", "incomplete", "none", "incomplete"),
    ]
    content = json.loads(paper_json(table))
    ours = next(row for row in content["rows"] if row["kind"] == "measured")
    assert ours["difference_to"] == "RWKV-CLIP B/32, YFCC15M"
    assert ours["differences"][0]["inside_noise"] is False
    assert ours["cells"][0]["ci_low"] == pytest.approx(90 - 0.588, abs=1e-3)
    assert ours["cells"][0]["best"] is True
    assert [c["name"] for c in content["columns"]][-1] == "average_11"
    assert len(content["columns"][-1]["average_over"]) == 11


def test_html_marks_the_best_the_noise_and_what_is_not_there() -> None:
    rows = rows_of({"value": "89.9"})
    (table,) = built(scored("rwkv-clip-b32", "cifar10", 0.9), rows=rows).values()
    html = paper_html([table], {"rwkv-clip-b32": "#000000"})
    assert '<td class="noise">≈ +0.1<span class="ci">±0.6 (1.2)</span></td>' in html
    assert 'class="best"' not in html
    assert html.count('<td class="none" title="not run">') == 10
    assert html.count('<td class="none" title="not published">') == 11
    (table,) = two_models().values()
    assert '<td class="best"><span class="v">90.0</span>' in paper_html(
        [table], {"rwkv-clip-b32": "#000000", "b": "#ffffff"}
    )


def test_differences_have_signs_and_noise_a_sign_of_its_own() -> None:
    def shown(value: float, resolved: float | None, about: bool = False) -> str:
        return difference_text(Difference(value=value, resolved=resolved, about=about))

    assert shown(1.24, 1.0) == "+1.2"
    assert shown(-1.24, 1.0) == "−1.2"
    assert shown(-1.24, 1.25) == "≈ −1.2"
    assert shown(0.04, 1.0) == "≈ ±0.0"
    assert shown(1.24, None, about=True) == "≈ ~+1.2"
    assert [half_text(x) for x in (None, 1.26, 0.05, 0.032, 0.001)] == ["", "1.3", "0.1", "0.1", "0.1"]


def test_a_report_writes_every_form_of_every_table(full_report: ReportPaths) -> None:
    folder = full_report.index.parent / "tables"
    names = ("zero-shot-retrieval", "zero-shot-classification-11")
    expected = [folder / f"{name}.{ending}" for name in names for ending in ("tex", "md", "csv", "json")]
    assert list(full_report.paper_tables) == expected
    for path in expected:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".tex":
            assert read_tables(text)
        elif path.suffix == ".json":
            assert json.loads(text)["name"] == path.stem
    page, markdown = (path.read_text(encoding="utf-8") for path in (full_report.index, full_report.markdown))
    for title in ("Zero-shot retrieval on Flickr30k and MSCOCO", "Zero-shot classification on 11 datasets"):
        assert f"<h3>{title}</h3>" in page
        assert f"### {title}" in markdown
    assert "Δ to <bdi>ALIP ViT-B/32, YFCC15M</bdi>" in page
    assert "probably came from protocol official-rwkv-clip" in markdown


def test_hostile_methods_and_models_stay_text_in_every_file_of_a_report(tmp_path: Path) -> None:
    names = [text for text in HOSTILE if 0 < len(text) < 100]
    (tmp_path / "papers").mkdir()
    with (tmp_path / "papers" / "x.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        hostile = {"backbone": "", "source": "[a](http://b) <img src=x> % \\"}
        for row in rows_of(*(hostile | {"method": printable(one_line(text)).strip()} for text in names)):
            writer.writerow(row.model_dump())
    run = write_run(tmp_path / "run", [scored(text, "cifar10", unit=str(i)) for i, text in enumerate(names)])
    paths = write_report([run], tmp_path / "report", [tmp_path / "papers"])
    tex, markdown, table, _ = (path.read_text(encoding="utf-8") for path in paths.paper_tables)
    (rows,) = read_tables(tex)
    labels = [row[0] for row in rows]
    for text in names:
        shown = one_line(text).strip()
        assert any(label.startswith(f"{shown}, YFCC15M"[:79]) for label in labels)
        # Records are made printable where they are read, carriage returns written out.
        ours = one_line(printable(text)).strip()
        assert any(label.startswith(f"{ours} (standard)"[:79]) for label in labels)
    methods = [row["method"].removeprefix("'") for row in csv.DictReader(io.StringIO(table))]
    assert {one_line(printable(text)) for text in names} <= set(methods)
    for text in (
        paths.index.read_text(encoding="utf-8"),
        markdown,
        paths.markdown.read_text(encoding="utf-8"),
    ):
        assert "<script>alert" not in text and "<img src=x" not in text
        assert "\u202e" not in text and "\x1b" not in text


def test_tables_name_the_forms_beside_the_page(full_report: ReportPaths) -> None:
    page = full_report.index.read_text(encoding="utf-8")
    assert "<code>tables/zero-shot-retrieval.tex</code>" in page


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (texlive-latex-recommended)")
def test_the_latex_compiles(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [scored(m, d) for m in ("a", "b") for d in ("cifar10", "dtd")])
    paths = write_report([run], tmp_path / "report").paper_tables
    sources = [path.read_text(encoding="utf-8") for path in paths if path.suffix == ".tex"]
    sources.append(paper_latex(hostile_table([text for text in HOSTILE if len(text) < 100])))
    document = "\n".join(
        [
            r"\documentclass[twocolumn]{article}",
            r"\usepackage{booktabs}",
            r"\usepackage{graphicx}",
            r"\begin{document}",
            *sources,
            r"\end{document}",
        ]
    )
    (tmp_path / "document.tex").write_text(document, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-draftmode", "-interaction=nonstopmode", "-halt-on-error", "document.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-3000:]
