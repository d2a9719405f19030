"""A page of training runs: their curves, what they saw, the recipe and the machine, in one HTML file.

Made of what lies in a run's folder and nothing else: training/NAME.jsonl, and where they are there
training/NAME.run.json (recipe and environment) and training/NAME.png (a picture sheet of its first pairs).
"""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rwkvclip_eval.errors import OutputError, shortened, shown
from rwkvclip_eval.printable import html_table, one_line
from rwkvclip_eval.records.metrics import standard
from rwkvclip_eval.records.titles import task_title, version_title
from rwkvclip_models.disk import write_text
from rwkvclip_models.files import read_bytes
from rwkvclip_train.run_facts import read_facts
from rwkvclip_train.run_log import Curve, find_logs, read_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rwkvclip_train.run_log import LoggedRun

SHEET_LIMIT_BYTES = 32 << 20
MOST_RUNS = 24
"""Of one page; more cannot be told apart."""
MOST_EVALUATED = 200
"""Drawings of what was evaluated."""
MOST_CURVES = 200
"""Of a run in one drawing."""
MOST_NAMED = 24
"""Curves that a legend names; the others are counted."""
FEW_POINTS = 24
"""Of a curve, that are marked each."""
MOST_BINS = 2000
"""Stretches of a long curve; of each the least and the greatest value are drawn."""
LONGEST_KEY = 200
"""Letters of the keys above a leaf of the recipe; the last ones are shown."""
LONGEST_TITLE, LONGEST_NAME = 120, 60
"""Letters of a drawing; longer ones would leave no room for it."""
# Okabe and Ito: told apart by those who see colours otherwise.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c6773", "#b8a500")
STYLES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D")
MOST_INSIDE = 4
"""Names that a legend has within the drawing; more stand below it."""


def _label(curve: Curve) -> str:
    return curve.label


def _shares(run: LoggedRun) -> list[Curve]:
    """Return the share of each kind of text; a line of the log names those that were drawn."""
    curves = [curve._replace(values=np.nan_to_num(curve.values)) for curve in run.curves("texts")]
    return sorted(curves, key=_label)


def _scales(run: LoggedRun) -> list[Curve]:
    """Return the scale of the loss, unless it is one throughout, as in every precision but float16."""
    curve = run.curve("loss_scale")
    return [] if (curve.values == 1).all() else [curve]


class Panel(NamedTuple):
    """One drawing of the page.

    Attributes:
        title: what is drawn, with its unit.
        curves: of a run; none where its log lacks it.
        logarithmic: whether the values are drawn so.
    """

    title: str
    curves: Callable[[LoggedRun], list[Curve]]
    logarithmic: bool = False


PANELS = (
    Panel("loss (nats)", lambda run: [run.curve("loss")]),
    Panel("validation loss (nats)", lambda run: [run.curve("val_loss")]),
    Panel("gradient norm before clipping", lambda run: [run.curve("grad_norm")], logarithmic=True),
    Panel("logit scale", lambda run: [run.curve("logit_scale")]),
    Panel("learning rate", lambda run: [run.curve("lr")]),
    Panel("first beta", lambda run: [run.curve("betas", item=0)]),
    Panel("share of texts by kind", _shares),
    Panel("share of time waiting for data", lambda run: [run.curve("data_wait")]),
    Panel("pairs per second", lambda run: [run.curve("samples_per_s")]),
    Panel("memory (GB)", lambda run: [run.curve("memory_bytes", scale=1e-9)]),
    Panel("scale of float16's loss", _scales, logarithmic=True),
)


def evaluation_panels(runs: Sequence[LoggedRun]) -> list[Panel]:
    """Return the panels of what the runs were evaluated on: metric against step.

    Raises:
        OutputError: there are too many.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.evaluated))
    if len(names) > MOST_EVALUATED:
        raise OutputError(
            f"{len(names)} drawings of evaluations are too many; expected up to {MOST_EVALUATED}."
        )

    def of(name: str) -> Panel:
        def curves(run: LoggedRun) -> list[Curve]:
            found = run.evaluated.get(name, [])
            return [curve._replace(label=_metric_title(curve.label)) for curve in found]

        return Panel(_evaluated_title(name), curves)

    return [of(name) for name in names]


def _evaluated_title(name: str) -> str:
    """Return TASK/PROTOCOL/DATASET, maybe with /METRIC, as a reader has it; other names as they are."""
    parts = name.split("/")
    if len(parts) not in (3, 4):
        return name
    title = f"{task_title(parts[0])}, {parts[1]}: {version_title(parts[2])}"
    return ", ".join([title, *map(_metric_title, parts[3:])])


def _metric_title(name: str) -> str:
    metric = standard(name)
    return metric.title if metric else name


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem; }
svg, img { width: 100%; height: auto; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border-bottom: 1px solid #dde1e6; padding: .25rem .7rem; text-align: left; overflow-wrap: anywhere; }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_page(places: Sequence[Path], target: Path) -> int:
    """Write the page of runs to `target` and return how many runs it shows.

    Args:
        places: folders of runs, or logs.
        target: an HTML file that asks nothing of other files or addresses.

    Raises:
        UserError: a place has no log.
        OutputError: a log cannot be read, there are too many, the page cannot be written, or its name
            does not end in .html.
    """
    if target.suffix.lower() != ".html":
        raise OutputError(f"Cannot write {target}: give a name that ends in .html.")
    runs = [read_run(path) for path in find_logs(places)]
    if len(runs) > MOST_RUNS:
        raise OutputError(f"{len(runs)} runs are too many for a page; expected up to {MOST_RUNS}.")
    title = ", ".join(dict.fromkeys(run.name for run in runs))
    body = [f"<h1>{_text(title)}</h1>", _summary(runs), "<main>"]
    panels = [*PANELS, *evaluation_panels(runs)]
    body += [f"<figure>{drawing}</figure>" for panel in panels if (drawing := draw(panel, runs))]
    body += ["</main>", *(_sheet(run) for run in runs), *(_facts(run) for run in runs)]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style>"
    )
    text = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n'
    write_text(target, text + "\n".join(filter(None, body)) + "\n</body></html>\n")
    return len(runs)


def draw(panel: Panel, runs: Sequence[LoggedRun]) -> str:
    """Return a panel as SVG, empty where no run has a value for it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    curves = [(i, run, curve) for i, run in enumerate(runs) for curve in _curves(panel, run)]
    curves = [(i, run, curve) for i, run, curve in curves if np.isfinite(curve.values).any()]
    if not curves:
        return ""
    with mpl.rc_context({"svg.hashsalt": panel.title, "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(4.4, 2.8), layout="constrained")
        axes = figure.add_subplot()
        kinds = list(dict.fromkeys(curve.label for _, _, curve in curves))
        for i, run, curve in curves:
            # Of one run, colours tell its kinds apart; of several the runs, and dashes the kinds.
            which, kind = (i, kinds.index(curve.label)) if len(runs) > 1 else (kinds.index(curve.label), 0)
            names = [*([run.name] if len(runs) > 1 else []), *([curve.label] if curve.label else [])]
            steps, values = thinned(curve)
            # Marks go on where dashes are used up.
            style, few = kind + which // len(COLOURS), len(curve.steps) <= FEW_POINTS
            marker = MARKERS[style // len(STYLES) % len(MARKERS)] if few or style >= len(STYLES) else ""
            axes.plot(
                steps,
                values,
                color=COLOURS[which % len(COLOURS)],
                linestyle=STYLES[style % len(STYLES)],
                linewidth=1.2,
                marker=marker,
                markevery=1 if few else max(len(steps) // 10, 1),
                markersize=3,
                label=_plain(shortened(": ".join(names), LONGEST_NAME)) or None,
            )
        axes.set_title(_plain(shortened(panel.title, LONGEST_TITLE)), loc="left", fontsize=8)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if panel.logarithmic and all(np.nanmin(curve.values) > 0 for _, _, curve in curves):
            axes.set_yscale("log")
        handles, labels = axes.get_legend_handles_labels()
        if labels:
            more = f"and {len(labels) - MOST_NAMED} more" if len(labels) > MOST_NAMED else None
            handles, labels = handles[:MOST_NAMED], labels[:MOST_NAMED]
            if len(labels) <= MOST_INSIDE:
                axes.legend(handles, labels, fontsize=7, title=more).set_in_layout(False)
            else:
                figure.set_figheight(2.8 + 0.16 * len(labels))
                figure.legend(handles, labels, fontsize=7, title=more, loc="outside lower left")
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    drawing = file.getvalue()
    return drawing[drawing.index("<svg") :]


def _curves(panel: Panel, run: LoggedRun) -> list[Curve]:
    curves = panel.curves(run)
    if len(curves) > MOST_CURVES:
        raise OutputError(
            f"{run.path}: {len(curves)} curves of {shown(panel.title)} are too many for a drawing; expected "
            f"up to {MOST_CURVES}."
        )
    return curves


def thinned(curve: Curve) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the steps and values of a curve that are drawn: of a long one, the extremes of each stretch."""
    if len(curve.steps) <= 2 * MOST_BINS:
        return curve.steps, curve.values
    taken = {0, len(curve.steps) - 1}
    for places in np.array_split(np.arange(len(curve.steps)), MOST_BINS):
        values = curve.values[places]
        known = np.isfinite(values)
        if known.any():
            taken |= {int(places[np.nanargmin(values)]), int(places[np.nanargmax(values)])}
        if not known.all():
            # The gap stays.
            taken.add(int(places[~known][0]))
    kept = np.array(sorted(taken))
    return curve.steps[kept], curve.values[kept]


def _summary(runs: Sequence[LoggedRun]) -> str:
    head = ("run", "steps", "last loss", "lowest loss", "at step", "pairs per second", "waiting for data")
    rows = []
    for run in runs:
        loss = run.curve("loss")
        known = bool(np.isfinite(loss.values).any())
        lowest = int(np.nanargmin(loss.values)) if known else 0
        rows.append(
            (
                run.name,
                str(run.lines[-1]["step"]),
                _shown(loss.values[-1], ".4f") if len(loss.values) else "",
                _shown(loss.values[lowest], ".4f") if known else "",
                str(loss.steps[lowest]) if known else "",
                _shown(_median(run.curve("samples_per_s")), ".1f"),
                _shown(_median(run.curve("data_wait")), ".1%"),
            )
        )
    return html_table(head, [[one_line(cell) for cell in row] for row in rows])


def _median(curve: Curve) -> float:
    values = curve.values[np.isfinite(curve.values)]
    return float(np.median(values)) if len(values) else float("nan")


def _shown(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else ""


def _sheet(run: LoggedRun) -> str:
    path = run.path.with_suffix(".png")
    if not path.exists():
        return ""
    picture = read_bytes(path, what="picture sheet", limit=SHEET_LIMIT_BYTES, error=OutputError)
    if not picture.startswith(b"\x89PNG\r\n\x1a\n"):
        raise OutputError(f"{path} is no PNG; make it with `rwkvclip-train data peek`, or delete it.")
    data = base64.b64encode(picture).decode()
    return f'<h2>What {_text(run.name)} saw</h2><img alt="" src="data:image/png;base64,{data}">'


def _facts(run: LoggedRun) -> str:
    parts = []
    for what, facts in read_facts(run.path).items():
        rows = [(key, one_line(value)) for key, value in _flat(facts)]
        table = html_table((one_line(what), ""), rows)
        parts.append(f"<details><summary>{_text(f'{run.name}: {what}')}</summary>{table}</details>")
    return "\n".join(parts)


def _flat(value: Any) -> list[tuple[str, str]]:
    """Return the leaves of a JSON value with the keys that lead to them, in its order, however deep it is."""
    rows, waiting = [], [("", value)]
    while waiting:
        key, one = waiting.pop()
        inner: list[tuple[Any, Any]] = []
        if isinstance(one, dict):
            inner = list(one.items())
        elif isinstance(one, list) and any(isinstance(each, dict) for each in one):
            inner = list(enumerate(one))
        leading = key if len(key) <= LONGEST_KEY else f"…{key[1 - LONGEST_KEY :]}"
        waiting += [(f"{leading}.{name}".lstrip("."), each) for name, each in reversed(inner)]
        if not inner:
            rows.append((one_line(key), str(one)))
    return rows


def _plain(text: str) -> str:
    """Return a text of which nothing is a formula to be set."""
    return one_line(text).replace("$", r"\$")


def _text(text: str) -> str:
    return html.escape(one_line(text))
