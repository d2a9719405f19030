"""One full report, built once: three models, eleven datasets, two protocols, retrieval, gallery."""

from typing import TYPE_CHECKING

import pytest
from report_runs import full_run

from rwkvclip_eval.report import ReportPaths, write_report

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def full_report(tmp_path_factory: pytest.TempPathFactory) -> ReportPaths:
    folder: Path = tmp_path_factory.mktemp("full")
    return write_report([full_run(folder / "run")], folder / "run" / "report")
