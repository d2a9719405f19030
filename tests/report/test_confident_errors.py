"""Images that were got wrong, on the page."""

import json
from pathlib import Path
from typing import Any

import pytest
from report_runs import picture, record, write_run

from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.report import write_report
from rwkvclip_eval.report.formats import html_gallery
from rwkvclip_eval.report.loading import load_runs

EVIL = "<script>alert(1)</script> " + "x" * 5000


def write_errors(run: Path, unit: str, num: int = 4, **changes: Any) -> None:
    errors = [
        {"image": i, "label": EVIL, "prediction": f"class {i}", "confidence": 0.9 - i / 10} | changes
        for i in range(num)
    ]
    (run / "examples").mkdir(parents=True, exist_ok=True)
    content = {"examples": [], "errors": errors, "thumbnails": {str(i): picture(i, 40) for i in range(num)}}
    (run / "examples" / f"{unit}.json").write_text(json.dumps(content), encoding="utf-8")


def run_of(path: Path, models: int = 2, datasets: int = 2) -> Path:
    records = []
    for m in range(models):
        for d in range(datasets):
            records.append(record(f"m{m}", f"d{d}", unit=f"{m}-{d}"))
            write_errors(path, f"{m}-{d}")
    return write_run(path, records)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkvclip_eval.report.plots.every.draw_plots", lambda *_: [])


@pytest.mark.usefixtures("no_plots")
def test_errors_stand_on_the_page_with_picture_both_names_and_confidence(tmp_path: Path) -> None:
    page = write_report([run_of(tmp_path / "run")], tmp_path / "report").index.read_text(encoding="utf-8")
    assert page.count('<li class="wrong">') == page.count("data:image/jpeg") == 16
    assert "<bdi>class 0</bdi> 90 %<br>label: <bdi>&lt;script&gt;" in page
    assert page.count("<script>") == 1 and "x" * 61 not in page
    assert page.index("d0 (standard)") < page.index("d1 (standard)", page.index('id="errors"'))
    assert 'href="#errors">Confident errors' in page


@pytest.mark.usefixtures("no_plots")
def test_many_errors_are_fewer_of_each_model_and_the_rest_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html_gallery, "_MAX_WRONG", 9)
    page = write_report([run_of(tmp_path / "run")], tmp_path / "report").index.read_text(encoding="utf-8")
    assert page.count('<li class="wrong">') == 8
    assert "8 more errors lie in the run directory" in page


@pytest.mark.parametrize("change", [{"confidence": 1.5}, {"confidence": None}, {"image": -1}, {"label": 3}])
def test_errors_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    run = run_of(tmp_path / "run", 1, 1)
    write_errors(run, "0-0", 1, **change)
    with pytest.raises(OutputError, match="not an examples file"):
        load_runs([run])
