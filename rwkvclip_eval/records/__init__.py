"""What a number means, and the files that keep it. Needs no torch."""

from rwkvclip_eval.records.metrics import Metric
from rwkvclip_eval.records.reading import load_predictions, load_results, parsed, read_records, read_run_info
from rwkvclip_eval.records.schema import Average, Record, RunInfo, Status, folder_name

__all__ = [
    "Average",
    "Metric",
    "Record",
    "RunInfo",
    "Status",
    "folder_name",
    "load_predictions",
    "load_results",
    "parsed",
    "read_records",
    "read_run_info",
]
