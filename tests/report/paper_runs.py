"""Records and published rows for tests of the paper's tables."""

from typing import Any

from report_runs import record
from test_tables import tables

from rwkvclip_eval.records.published import PublishedRow
from rwkvclip_eval.records.schema import Record
from rwkvclip_eval.report.paper_layout import METRICS
from rwkvclip_eval.report.paper_rows import PaperRow, PaperTable
from rwkvclip_eval.report.paper_tables import paper_tables


def scored(model: str, dataset: str, value: float = 0.5, **changes: Any) -> Record:
    """A number by the metric that the papers report of the dataset."""
    metric = METRICS[dataset].name if dataset in METRICS else "top1_accuracy"
    return record(model, dataset, value, **({"metric": metric} | changes))


def probed(model: str, dataset: str, value: float = 0.5, **changes: Any) -> Record:
    return scored(model, dataset, value, **({"task": "linear_probe", "protocol": "clip-certified"} | changes))


def rows_of(*changes: dict[str, str]) -> list[PublishedRow]:
    good = {
        "task": "zero_shot_classification",
        "method": "RWKV-CLIP",
        "backbone": "B/32",
        "pretrain_data": "YFCC15M",
        "dataset": "cifar10",
        "metric": "top1_accuracy",
        "value": "79.8",
        "protocol": "unknown",
        "precision": "unknown",
        "status": "published",
        "source": "A paper",
    }
    return [PublishedRow.model_validate(good | each) for each in changes]


def built(*records: Record, rows: list[PublishedRow] | None = None) -> dict[str, PaperTable]:
    return {table.name: table for table in paper_tables(tables(*records), rows=rows)}


def texts(table: PaperTable, label: str) -> dict[str, str]:
    """Column → number as shown, of the row with this label."""
    (row,) = [row for row in (*table.published, *table.measured) if row.label == label]
    return {
        column.name: cell.text for column, cell in zip(table.columns, row.cells, strict=True) if cell.text
    }


def measured(table: PaperTable, index: int = 0) -> PaperRow:
    return table.measured[index]
