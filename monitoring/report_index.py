"""The list of windows, newest first: what each showed, what was done about it, and where its report is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{case}: drift</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
td, th {{ text-align: left; padding: .35rem .7rem; border-bottom: 1px solid #ddd; vertical-align: top; }}
.drift td:first-child {{ border-left: 4px solid #c60; }}
</style>
<h1>{case}: windows, newest first</h1>
<table>
<tr><th>window (UTC)</th><th>champion</th><th>rows</th><th>drift</th><th>columns (effect)</th>
<th>AUC</th><th>log-loss</th><th>what was done</th></tr>
{rows}
</table></html>
"""


@dataclass(frozen=True)
class Line:
    """One window's line. `action` says what was done, or why nothing was."""

    window_start_ms: int
    window_end_ms: int
    version: str
    rows: int
    kinds: tuple[str, ...]
    columns: dict[str, float]
    auc: float | None
    log_loss: float | None
    action: str
    report: str | None


def window_name(start_ms: int) -> str:
    """The file name of a window, and its name for people: its start, in UTC."""
    return f"{_time(start_ms):%Y-%m-%dT%H%M}"


def record(folder: Path, case: str, line: Line) -> None:
    """Put a line into `folder`/index.json and write index.html; a line of the same window is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = {entry.window_start_ms: entry for entry in lines_of(folder)}
    lines[line.window_start_ms] = line
    newest_first = [lines[start] for start in sorted(lines, reverse=True)]
    _replace(folder / "index.json", json.dumps([asdict(entry) for entry in newest_first], indent=1))
    rows = "\n".join(_row(entry) for entry in newest_first)
    _replace(folder / "index.html", _PAGE.format(case=escape(case), rows=rows))


def lines_of(folder: Path) -> list[Line]:
    """What was recorded, newest first."""
    path = folder / "index.json"
    if not path.exists():
        return []
    entries = json.loads(path.read_text(encoding="utf-8"))
    return [Line(**{**entry, "kinds": tuple(entry["kinds"])}) for entry in entries]


def _row(line: Line) -> str:
    name = f"{_time(line.window_start_ms):%Y-%m-%d %H:%M} to {_time(line.window_end_ms):%Y-%m-%d %H:%M}"
    # A report is written after its line, and a page reloaded later shows the link.
    link = f'<a href="{escape(line.report)}">{name}</a>' if line.report else name
    columns = ", ".join(f"{escape(c)} {e:.2f}" for c, e in line.columns.items())
    cells = (
        link,
        escape(line.version),
        f"{line.rows:,}",
        escape(", ".join(line.kinds)) or "quiet",
        columns,
        _number(line.auc),
        _number(line.log_loss),
        escape(line.action),
    )
    css = ' class="drift"' if line.kinds else ""
    return f"<tr{css}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _time(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)


def _replace(path: Path, text: str) -> None:
    """A reader sees the old page or the new one, never half of it."""
    draft = path.with_suffix(path.suffix + ".draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
