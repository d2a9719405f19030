"""Writes the table of get-the-datasets.md from the catalogue: `python docs/dataset_table.py`."""

from __future__ import annotations

from pathlib import Path

from rwkvclip_eval.data.listing import CatalogueRow, rows_of
from rwkvclip_eval.plan.suite import load_suite
from rwkvclip_eval.plan.units import plan

PAGE = Path(__file__).with_name("get-the-datasets.md")
SUITE = "linear-probe-26"
BEGIN, END = "<!-- table: docs/dataset_table.py writes it -->\n", "<!-- end of the table -->\n"


def rows() -> list[CatalogueRow]:
    """Return the catalogue's row of each dataset of CLIP's list."""
    units = plan(load_suite(SUITE))
    return rows_of([(unit.ref, unit.variant, ("test",)) for unit in units], None)


def table() -> str:
    """Return the table as Markdown."""
    lines = ["| dataset | test images | GB | licence | got by |", "|---|---|---|---|---|"]
    for row in rows():
        how = f"`data download {row.label}`" if " data download " in row.obtain else "by hand"
        how += f": {row.terms}" if row.terms else ""
        title = f"[{row.title}]({row.homepage}) (`{row.label}`)"
        lines.append(f"| {title} | {row.num_test} | {row.size_gb} | {row.licence} | {how} |")
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """Return the page with the table as it is now."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
