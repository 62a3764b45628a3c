"""A window's page and the index of all, as HTML. Pure; without scripts, so that a page can be opened from disk and mailed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monitoring.column_drift import ColumnDrift
    from monitoring.report_index import Line

# Where a server puts its links: to Evidently's pages, to the page of the loop.
SERVED = "<!-- served beside -->"
# Windows of a sparkline, and its size in pixels.
POINTS_MAX, WIDE, HIGH = 60, 240, 28
TESTS = {"ks": "Kolmogorov-Smirnov", "chi2": "chi-squared", "none": "not tested"}

HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; width: 100%; margin: 1rem 0 2rem; }}
td, th {{ text-align: left; padding: .35rem .7rem; border-bottom: 1px solid #ddd; vertical-align: top; }}
td.n {{ text-align: right; font-variant-numeric: tabular-nums; }}
.drift td:first-child {{ border-left: 4px solid #c60; }}
.broken td:first-child {{ border-left: 4px solid #a00; }}
svg {{ display: block; }} .line {{ fill: none; stroke: #369; }} .least {{ stroke: #bbb; stroke-dasharray: 3 3; }}
.moved {{ fill: #c60; }}
</style>
<h1>{title}</h1>
"""


def index(case: str, newest_first: Sequence[Line]) -> str:
    """Every column's effect over the windows, then all of them."""
    rows = "\n".join(_row(line) for line in newest_first)
    return (
        HEAD.format(title=f"{escape(case)}: windows, newest first")
        + SERVED
        + _over_time(newest_first)
        + "<h2>Windows</h2>\n<table><tr><th>window (UTC)</th><th>plots</th><th>champion</th><th>rows</th><th>drift</th>"
        + "<th>columns (effect)</th><th>AUC</th><th>log-loss</th><th>what was done</th></tr>\n"
        + f"{rows}\n</table></html>\n"
    )


def page(case: str, line: Line) -> str:
    """What one window showed, column by column, and what was done."""
    facts = {
        "champion": escape(line.version),
        "rows": f"{line.rows:,}",
        "drift": escape(", ".join(line.kinds)) or "quiet",
        "AUC": _beside(line.auc, line.reference_auc),
        "log-loss": _beside(line.log_loss, line.reference_log_loss),
        "what was done": escape(line.action),
    }
    told = "\n".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in facts.items())
    # The plots come after this page, and a page reloaded later finds them.
    plots = (
        f'<a href="{escape(line.plots)}">the shapes behind it</a> (Evidently), '
        if line.plots
        else ""
    )
    return (
        HEAD.format(title=f"{escape(case)}: {_interval(line)}")
        + f'<p>{plots}<a href="index.html">all windows</a></p>\n{SERVED}<table>{told}</table>\n'
        + (_verdicts(line) if line.verdicts else "<p>No column was judged.</p>\n")
        + "</html>\n"
    )


def _row(line: Line) -> str:
    name = _interval(line)
    columns = ", ".join(f"{escape(c)} {e:.2f}" for c, e in line.columns.items())
    cells = (
        f'<a href="{escape(line.report)}">{name}</a>' if line.report else name,
        f'<a href="{escape(line.plots)}">plots</a>' if line.plots else "",
        escape(line.version),
        f"{line.rows:,}",
        escape(", ".join(line.kinds)) or "quiet",
        columns,
        _number(line.auc),
        _number(line.log_loss),
        escape(line.action),
    )
    broken = any(verdict.broken for verdict in line.verdicts)
    css = ' class="broken"' if broken else ' class="drift"' if line.kinds else ""
    return f"<tr{css}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _verdicts(line: Line) -> str:
    worst_first = sorted(line.verdicts, key=lambda v: (not v.drifted, -v.statistic))
    rows = "\n".join(_verdict(verdict) for verdict in worst_first)
    least = "" if line.effect_min is None else f" of an input counts from {line.effect_min:g}"
    return (
        "<table><tr><th>column</th><th>verdict</th><th>effect</th><th>p, corrected</th><th>test</th>"
        f"<th>note</th></tr>\n{rows}\n</table>\n<p>An effect{least}, and only if it is significant: D of"
        " Kolmogorov-Smirnov for numbers, the mass that moved for categories. p-values are corrected for the number of"
        " columns by Holm's procedure; those on Evidently's page are not.</p>\n"
    )


def _verdict(verdict: ColumnDrift) -> str:
    said = "broken" if verdict.broken else "drifted" if verdict.drifted else "as before"
    css = {"broken": ' class="broken"', "drifted": ' class="drift"'}.get(said, "")
    cells = (
        f"<td>{escape(verdict.column)}</td><td>{said}</td>"
        f'<td class="n">{verdict.statistic:.3f}</td><td class="n">{verdict.p_value:.2g}</td>'
        f"<td>{TESTS.get(verdict.test, escape(verdict.test))}</td><td>{escape(verdict.note)}</td>"
    )
    return f"<tr{css}>{cells}</tr>"


def _over_time(newest_first: Sequence[Line]) -> str:
    oldest_first = [line for line in reversed(newest_first) if line.verdicts][-POINTS_MAX:]
    names = list(dict.fromkeys(v.column for line in reversed(oldest_first) for v in line.verdicts))
    if not names:
        return ""
    by_window = [{v.column: v for v in line.verdicts} for line in oldest_first]
    least = oldest_first[-1].effect_min
    rows = []
    for name in names:
        known = [one[name] for one in by_window if name in one]
        rows.append(
            f"<tr><td>{escape(name)}</td><td>{_sparkline(known, least)}</td>"
            f'<td class="n">{known[-1].statistic:.3f}</td><td class="n">{_count(known)}</td></tr>'
        )
    return (
        f"<h2>Effects over the last {len(oldest_first)} judged windows</h2>\n<table><tr><th>column</th><th>oldest to newest"
        "</th><th>newest</th><th>drifted</th></tr>\n" + "\n".join(rows) + "\n</table>\n"
    )


def _count(known: Iterable[ColumnDrift]) -> int:
    return sum(verdict.drifted for verdict in known)


def _sparkline(known: Sequence[ColumnDrift], least: float | None) -> str:
    """Effects as a line, the least that counts dashed, drifted windows as dots; 0 is the foot, the head is 0.5 or more."""
    head = max(0.5, *(verdict.statistic for verdict in known))
    step = WIDE / max(len(known) - 1, 1)
    places = [
        (2 + index * step, 2 + HIGH * (1 - verdict.statistic / head))
        for index, verdict in enumerate(known)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(
        f'<circle class="moved" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
        for (x, y), verdict in zip(places, known, strict=True)
        if verdict.drifted
    )
    height = 2 + HIGH * (1 - (least or 0) / head)
    dashed = f'<line class="least" x1="2" x2="{WIDE + 2}" y1="{height:.1f}" y2="{height:.1f}"/>'
    return (
        f'<svg width="{WIDE + 4}" height="{HIGH + 4}" role="img">{dashed if least else ""}'
        f'<polyline class="line" points="{line}"/>{dots}</svg>'
    )


def _interval(line: Line) -> str:
    return f"{_moment(line.window_start_ms)} to {_moment(line.window_end_ms)}"


def _beside(live: float | None, reference: float | None) -> str:
    return f"{_number(live)} (held out when it was trained: {_number(reference)})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _moment(time_ms: int) -> str:
    time = datetime.fromtimestamp(time_ms / 1000, UTC)
    return f"{time:%Y-%m-%d %H:%M:%S}" if time.second else f"{time:%Y-%m-%d %H:%M}"
