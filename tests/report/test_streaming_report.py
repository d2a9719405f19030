"""What is written of the streaming form: table, CSV and a plot; what has no number says why."""

import csv

import pytest

from rwkvclip_eval.records.streaming import StreamingPoint
from rwkvclip_eval.report.plots.streaming import streaming_plot
from rwkvclip_eval.report.streaming import streaming_rows, write_streaming

MIB = 1 << 20


def point(form, side, **facts):
    tokens = side * side
    given = {"seconds": tokens / 1000, "peak_bytes": MIB * tokens // 100, **facts}
    return StreamingPoint(
        form=form, tokens=tokens, height_px=16 * side, width_px=16 * side, device="cpu", precision="fp32",
        threads=2, token_bytes=2 * tokens * 640 * 4, **given,
    )  # fmt: skip


POINTS = [
    point("streaming", 32, seconds=2.0, peak_bytes=6 * MIB),
    point("parallel", 32, seconds=1.0),
    point("streaming", 64, seconds=8.0, peak_bytes=20 * MIB),
    point("parallel", 64, seconds=None, peak_bytes=None, problem="RuntimeError: can't allocate memory"),
]


def test_a_row_is_a_size_and_a_form_without_a_number_says_why():
    assert streaming_rows(POINTS) == [
        ["1,024", "512×512", "5.0", "6.0", "10", "2.00", "1.00", "2.00"],
        ["4,096", "1024×1024", "20", "20", "", "8.00", "RuntimeError: can't allocate memory", ""],
    ]


def test_one_form_alone_has_no_ratio():
    assert streaming_rows(POINTS[:1]) == [["1,024", "512×512", "5.0", "6.0", "", "2.00", "", ""]]


def test_the_plot_shows_memory_and_time_of_both_forms():
    plot = streaming_plot(POINTS)
    assert "streaming, 4,096 patches: 8 s, 20.0 MiB" in plot.alt
    assert "two token arrays" in plot.wide.svg
    assert "parallel, 4,096" not in plot.alt
    assert streaming_plot(POINTS[3:]) is None


@pytest.mark.parametrize("points", [POINTS, POINTS[3:]])
def test_files_hold_every_point_with_its_conditions(tmp_path, points):
    facts = {"cpu": {"model": "Some CPU", "num_cores": 2}, "packages": {"torch": "2.11.0"}}
    page = write_streaming(points, tmp_path, facts, "rwkvclip-eval bench streaming").read_text()
    assert "Some CPU, 2 cores, threads 2, torch 2.11.0" in page.replace("\\", "")
    with (tmp_path / "streaming.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["problem"] for row in found] == [p.problem for p in points]
    assert (tmp_path / "plots" / "streaming.svg").exists() == ("plots/streaming.png" in page)
