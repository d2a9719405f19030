"""Reports: tables, plots and the HTML page, made from result records alone."""

from rwkvclip_eval.report.writing import ReportPaths, write_report

__all__ = ["ReportPaths", "write_report"]
