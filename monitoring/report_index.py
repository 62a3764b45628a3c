"""The list of windows, newest first: what each showed, what was done about it, and where its page and its plots are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monitoring import report_html
from monitoring.column_drift import ColumnDrift

INDEX, PAGE = "index.json", "index.html"
MINUTE_MS = 60_000
UNDATED = "undated"


@dataclass(frozen=True)
class Line:
    """One window's line. What an older release wrote lacks what has a default.

    Attributes:
        kinds: What drifted; empty for a quiet window.
        columns: The drifted ones → their effect.
        action: What was done, or why nothing was.
        report: The file of the window's page, beside the index.
        plots: The file of Evidently's page, which comes some seconds later; None where nothing was judged.
        verdicts: Every column's.
        effect_min: The least effect of an input that counts.
        reference_auc, reference_log_loss: The champion's, held out.
    """

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
    plots: str | None = None
    verdicts: tuple[ColumnDrift, ...] = ()
    effect_min: float | None = None
    reference_auc: float | None = None
    reference_log_loss: float | None = None


def window_name(start_ms: int) -> str:
    """The file name of a window, and its name for people: its start, in UTC; to the millisecond where windows are by rows.

    `UNDATED` where no calendar has it: no such window was judged, but an alert on the log may speak of one.
    """
    try:
        minute = f"{datetime.fromtimestamp(start_ms / 1000, UTC):%Y-%m-%dT%H%M}"
    except (ValueError, OverflowError):
        return UNDATED
    seconds, ms = divmod(start_ms % MINUTE_MS, 1_000)
    return f"{minute}{seconds:02}-{ms:03}" if start_ms % MINUTE_MS else minute


def record(folder: Path, case: str, line: Line) -> None:
    """Write the window's page, put its line into `folder`/index.json, and write index.html; a line of the same window is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = {entry.window_start_ms: entry for entry in lines_of(folder)}
    lines[line.window_start_ms] = line
    newest_first = [lines[start] for start in sorted(lines, reverse=True)]
    if line.report is not None:
        _replace(folder / line.report, report_html.page(case, line))
    _replace(folder / INDEX, json.dumps([asdict(entry) for entry in newest_first], indent=1))
    _replace(folder / PAGE, report_html.index(case, newest_first))


def amend(folder: Path, case: str, window_start_ms: int, was: str, now: str) -> None:
    """Put `now` in place of `was` in what a window's line and page say was done; one that does not say so is left alone."""
    for line in lines_of(folder):
        if line.window_start_ms == window_start_ms and was in line.action:
            record(folder, case, replace(line, action=line.action.replace(was, now)))


def lines_of(folder: Path) -> list[Line]:
    """What was recorded, newest first."""
    path = folder / INDEX
    if not path.exists():
        return []
    return [_line(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]


def _line(entry: dict[str, Any]) -> Line:
    verdicts = tuple(ColumnDrift(**one) for one in entry.pop("verdicts", ()))
    return Line(**{**entry, "kinds": tuple(entry["kinds"]), "verdicts": verdicts})


def _replace(path: Path, text: str) -> None:
    """A reader sees the old page or the new one, never half of it."""
    draft = path.with_suffix(path.suffix + ".draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
