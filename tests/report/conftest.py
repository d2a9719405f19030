"""A full report, built once (three models, eleven datasets, two protocols, retrieval), and plots undrawn."""

from typing import TYPE_CHECKING

import pytest
from plot_reading import Drawn
from report_runs import full_run

from rwkvclip_eval.report import ReportPaths, write_report
from rwkvclip_eval.report.plots.drawing import Drawing, Picture, Plot

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def full_report(tmp_path_factory: pytest.TempPathFactory) -> ReportPaths:
    folder: Path = tmp_path_factory.mktemp("full")
    return write_report([full_run(folder / "run")], folder / "run" / "report")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Name of each plot → its figure; nothing is laid out or rendered, which takes longest."""
    figures: Drawn = {}
    nothing = Picture(svg="", png=b"", pdf=b"")

    def keep(self: Drawing, name: str, title: str, alt: str, table: str) -> Plot:
        figures[name] = self
        figures[f"{name} legend"] = list(self._handles[1])
        return Plot(name=name, title=title, alt=alt, table=table, wide=nothing, narrow=nothing)

    monkeypatch.setattr(Drawing, "plot", keep)
    return figures
