"""The page of methods over seeds: what the text forms say, drawn; safe with any name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from seeded_runs import method
from test_comparison_page import HOSTILE, harmless

from rwkvclip_eval.compare import group_formats
from rwkvclip_eval.compare.group_runs import read_groups
from rwkvclip_eval.compare.groups import compare_groups
from rwkvclip_eval.errors import OutputError
from rwkvclip_eval.report.group_page import group_page

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    base = tmp_path_factory.mktemp("methods")
    return {
        "good": method(base, "good", (0, 1, 2)),
        "bad": method(base, "bad", (2, 0, 1), flip=0.3),
        "two": method(base, "two", (0, 1)),
    }


def compared(*texts: str) -> Any:
    return compare_groups(read_groups(texts))


def test_every_number_of_every_method_stands_on_the_page(texts: dict[str, str]) -> None:
    result = compared(texts["good"], texts["bad"], texts["two"])
    reader = harmless(group_page(result))
    for one in result.comparisons:
        for cell in (cell for row in group_formats.rows(one) for cell in row):
            assert cell in reader.text
        assert one.why in reader.text and one.pairing in reader.text
        assert one.verdict in reader.text
    assert result.stated in reader.text
    for group in result.groups:
        assert all(run.label in reader.text for run in group.runs)
    # One drawing a method, wide and narrow.
    assert sum(tag == "img" for tag, _ in reader.tags) == 2


def test_two_seeds_are_weak_evidence_on_the_page_and_no_set_has_a_verdict(texts: dict[str, str]) -> None:
    text = harmless(group_page(compared(texts["good"], texts["two"]))).text
    assert text.index("WEAK EVIDENCE") < text.index("two seeds of a method do not tell")
    assert "regressed" not in text and "not worse" not in text


def test_a_few_shot_set_is_left_out_with_its_reason(tmp_path: Path) -> None:
    from small_runs import Run

    groups = []
    for name in ("a", "b"):
        runs = []
        for seed in (0, 1):
            run = Run(tmp_path / f"{name}{seed}")
            info = {"name": "nano", "spec": "nano", "fingerprint": f"{name}{seed}"}
            run.zero_shot(seed=seed, model_info=info)
            run.few_shot(model_info=info)
            runs.append(run.write())
        groups.append(f"{name}=" + ",".join(map(str, runs)))
    text = harmless(group_page(compared(*groups))).text
    assert "left out (a few-shot number varies by the draw of its training images, too" in text
    assert "compare BASELINE CANDIDATE" in text


def test_hostile_names_run_nothing(tmp_path: Path) -> None:
    name = HOSTILE.replace("=", "").replace(",", "")[:90]
    groups = [f"{name}{k}=" + method(tmp_path, f"m{k}", (0, 1, 2)).partition("=")[2] for k in (1, 2)]
    page = group_page(compared(*groups))
    reader = harmless(page)
    assert "\u202e" not in page
    assert "<script>" in reader.text and "{{ 7 * 7 }}" in reader.text


def test_a_page_beyond_its_size_is_refused(texts: dict[str, str]) -> None:
    with pytest.raises(OutputError, match="--format json holds everything"):
        group_page(compared(texts["good"], texts["bad"]), max_bytes=1000)


def test_the_command_prints_the_page(run: Command, texts: dict[str, str]) -> None:
    code, out, err = run("compare", "--group", texts["good"], "--group", texts["bad"], "--format", "html")
    assert (code, err) == (1, "")
    assert "REGRESSION" in harmless(out).text
