import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_runs import CAPTIONS, record, without_number, write_examples, write_run

from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.report import ReportPaths, write_report
from rwkvclip_eval.report.formats.html import render_page
from rwkvclip_eval.report.headline import write_headline
from rwkvclip_eval.report.loading import load_runs
from rwkvclip_eval.report.paper_tables import paper_tables
from rwkvclip_eval.report.plots.every import draw_plots
from rwkvclip_eval.report.tables import build_tables

pytestmark = pytest.mark.usefixtures("no_pdf")

VOID = {"meta", "img", "br", "hr", "input", "link", "source"}


class Page(HTMLParser):
    """Collects elements and text, and checks that tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, Any]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open[-1:] not in (["style"], ["script"]) else ""

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(report: ReportPaths) -> Page:
    return Page(report.index.read_text(encoding="utf-8"))


def test_the_page_nests_and_every_anchor_and_popover_exists_once(full_report: ReportPaths) -> None:
    page = page_of(full_report)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"].removeprefix("#") for a in page.all("a")} <= set(ids)
    assert {a["popovertarget"] for a in page.all("button")} <= set(ids)


def test_the_page_needs_no_network(full_report: ReportPaths) -> None:
    text = full_report.index.read_text(encoding="utf-8")
    page = Page(text)
    assert page.all("link") == []
    assert all(a["src"].startswith("data:image/") for a in page.all("img"))
    assert "default-src 'none'" in text
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_allows_one_script_by_its_digest_and_no_other(full_report: ReportPaths) -> None:
    text = full_report.index.read_text(encoding="utf-8")
    page = Page(text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert page.all("script") == [{}]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_tables_have_headers_and_pictures_have_words(full_report: ReportPaths) -> None:
    page = page_of(full_report)
    assert all(a.get("scope") for a in page.all("th"))
    assert all(a.get("alt") for a in page.all("img"))
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1


def test_every_number_opens_how_it_was_made(full_report: ReportPaths) -> None:
    page = page_of(full_report)
    run = full_report.index.parent.parent
    popovers = [a for a in page.all("div") if "popover" in a]
    units = {json.loads(line)["unit"] for line in (run / "results.jsonl").read_text().splitlines()}
    averages = 3 * 2 + 3 * 6
    assert len(popovers) == len(units) + averages
    text = full_report.index.read_text(encoding="utf-8")
    first = text[text.index("<div popover") :]
    first = first[: first.index("</div>")]
    for fact in (
        "rwkvclip-eval run zero-shot-11",
        "10000" if "cifar10" in first else "25250",
        "standard, task version 2",
        "wilson",
        "webdataset wds_",
        "dataset fingerprint",
        "prompt hash",
        "encoder fingerprint",
        "checkpoint SHA-256",
        "fp32",
        "torch on cuda",
        "seconds",
        "chance",
    ):
        assert fact in first


def test_the_first_screen_has_numbers_then_the_sentence_then_the_models(full_report: ReportPaths) -> None:
    text = full_report.index.read_text(encoding="utf-8")
    places = ('<article class="card">', 'class="lead"', '<div class="switch"', "<section")
    card, lead, models, first = map(text.index, places)
    assert card < lead < models < first


def test_failures_published_numbers_and_provenance_are_shown(full_report: ReportPaths) -> None:
    text = page_of(full_report).text
    assert "Expected wds_cars/test under the data root" in text
    assert "then run the same command again" in text
    assert "Beside published numbers" in text
    assert "deepglint/RWKV-CLIP README" in text
    assert "NVIDIA H200" in text
    assert "clean tree" in text
    assert "Intervals are 95 %: Wilson's" in text
    # Which variation is inside is said in one place.
    assert text.count("does not hold the model's own training run") == 1
    assert text.count("training methods") == 1
    assert "logits cut to integers" in text


def test_whatever_users_wrote_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    unit = "evil.zero_shot_retrieval.x.standard"
    run = write_run(
        tmp_path / "run",
        [
            record(evil, evil, 0.5, task="zero_shot_retrieval", metric="text_retrieval_recall@1", unit=unit),
            record(
                "b", evil, 0.4, task="zero_shot_retrieval", metric="text_retrieval_recall@1", notes={evil: 1}
            ),
            without_number("failed", evil, model="b", dataset="y"),
        ],
        suite_name=evil,
        suite_text=f"name: {evil}\n```\n{evil}",
        command=evil,
        environment={evil: evil},
    )
    write_examples(run, unit, [evil, '"><img src=x onerror=alert(1)>'])
    broken = json.loads((run / "examples" / f"{unit}.json").read_text())
    broken["thumbnails"]["0"] = '" onerror="alert(1)'
    (run / "examples" / f"{unit}.json").write_text(json.dumps(broken))
    report = write_report([run], tmp_path / "report")
    page = page_of(report)
    assert page.all("script") == [{}]
    assert not any("onerror" in a for _, a in page.elements)
    assert evil in page.text
    outside_fence = re.sub(r"(?ms)^````yaml.*?^````$", "", report.markdown.read_text(encoding="utf-8"))
    assert "<script>" not in outside_fence


def test_the_page_gives_up_pictures_before_it_grows_too_large(tmp_path: Path) -> None:
    unit = "a.zero_shot_retrieval.x.standard"
    metric = "text_retrieval_recall@1"
    run = write_run(tmp_path / "run", [record("a", "x", task="zero_shot_retrieval", metric=metric)])
    write_examples(run, unit, CAPTIONS * 2)
    loaded = load_runs([run])
    tables = build_tables(loaded.entries)
    plots = draw_plots(tables, loaded)
    parts = (loaded, tables, write_headline(loaded, tables), plots, paper_tables(tables))
    full = len(render_page(*parts).encode())
    sizes = []
    for limit in (full - 1, 60_000, 40_000):
        text = render_page(*parts, max_bytes=limit)
        assert len(text.encode()) <= limit
        assert "left out to keep this page under" in text
        sizes.append(text.count("data:image/jpeg"))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 0
    with pytest.raises(OutputError, match="tables alone take"):
        render_page(*parts, max_bytes=1000)


def test_incomparable_rows_subsets_and_untrained_models_are_marked(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run",
        [
            record("a", value=0.6),
            record("b", value=0.5, dataset_fingerprint="other"),
            record("c", value=0.9, subset=True),
            record("d", value=0.1, model_info={"trained": False}),
        ],
    )
    report = write_report([run], tmp_path / "report")
    text = report.index.read_text(encoding="utf-8")
    assert "⚠ not comparable" in text
    assert "dataset fingerprints differ" in text
    assert '<span class="chip warn">subset</span>' in text
    assert '<span class="chip ">untrained</span>' in text
    assert 'class="best' not in text


def test_ties_differences_and_the_bank_of_neighbours_stand_beside_the_number(tmp_path: Path) -> None:
    ties = {"ties_worst": 0.382, "ties_best": 0.618, "tied_rows": 61}
    run = write_run(
        tmp_path / "run",
        [
            record("a", "pets", notes={**ties, "differences": "Two classes are spelt right."}),
            record("a", "dtd", task="knn_probe", notes={"bank": "1,880 images of train and 1,880 more"}),
        ],
    )
    report = write_report([run], tmp_path / "report")
    page, markdown = page_of(report).text, report.markdown.read_text(encoding="utf-8")
    # On its card, in the line of its model and in the task's table.
    assert page.count("ties 38.2–61.8") == 3
    assert markdown.count("(49.0–51.0) ties 38.2–61.8") == 2
    assert "known differences" in page
    # On the page below the first screen, too.
    for shown, times in ((page, 2), (markdown, 1)):
        assert shown.count("“ties”: logits cut to integers") == times
    # Beside the number, and among what a press on it tells.
    html = report.index.read_text(encoding="utf-8")
    assert html.count('<span class="sub remark">Two classes are spelt right.</span>') == 1
    assert (
        html.count('<span class="sub remark">Neighbours: 1,880 images of train and 1,880 more.</span>') == 1
    )
    assert markdown.count("† Pets: Two classes are spelt right.") == 1
    assert markdown.count("† DTD: Neighbours: 1,880 images of train and 1,880 more.") == 1
    assert markdown.count("Pets †") == markdown.count("DTD †") == 1


def test_published_numbers_stay_away_from_sets_of_which_nothing_is_published(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [record(dataset="digits")])
    report = write_report([run], tmp_path / "report")
    assert "Beside published" not in page_of(report).text
    assert report.paper_tables == ()
