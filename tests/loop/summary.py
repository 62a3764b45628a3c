"""Runs of one stream as a line of the table (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tests.loop.known_case import STREAMS
from tests.loop.story import Story, Worth

Json = dict[str, Any]


def summary(runs: Sequence[Story]) -> Json:
    """One line; rows are counted from the first drifted one."""
    found = [run.found_rows for run in runs if run.found_rows is not None]
    promoted = [run.promoted_rows for run in runs if run.promoted_rows is not None]
    return {
        "stream": runs[0].stream,
        "runs": len(runs),
        "found": len(found),
        "found_rows": _spread(found),
        "promoted": len(promoted),
        "promoted_rows": _spread(promoted),
        "quiet_windows": sum(run.quiet for run in runs),
        "false_alarms": dict(Counter(kind for run in runs for kind in run.false)),
        "orders": dict(sorted(Counter(str(run.orders) for run in runs).items())),
        "orders_false": sum(run.orders_false for run in runs),
        "refused": sum(run.refused for run in runs),
        "rolled_back": sum(run.rolled_back for run in runs),
        "alerts_after": sum(run.alerts_after for run in runs),
        "auc": {name: _mean(runs, name, lambda w: w.auc) for name in _STRETCHES},
        "log_loss": {name: _mean(runs, name, lambda w: w.log_loss) for name in _STRETCHES},
        "lost": sum(run.lost for run in runs),
        "wall_s": _spread([run.wall_s for run in runs]),
    }


_STRETCHES = ("before", "between", "after", "never")


def _spread(values: Sequence[float]) -> list[float] | None:
    """Median, 95 % and most."""
    if not values:
        return None
    return [round(float(v), 1) for v in np.quantile(values, (0.5, 0.95, 1))]


def _mean(runs: Sequence[Story], stretch: str, of: Callable[[Worth], float | None]) -> float | None:
    held = [getattr(run, stretch) for run in runs]
    values = [value for worth in held if worth is not None and (value := of(worth)) is not None]
    return round(float(np.mean(values)), 4) if values else None


HEADS = (
    "stream",
    "found",
    "after rows: median",
    "all",
    "false alarms before",
    "retrainings a run",
    "promoted after rows: median",
    "all",
    "AUC before, drifted, after",
    "never retrained",
    "log-loss before, drifted, after",
    "never retrained",
    "alerts after",
)


def table(lines: Sequence[Json]) -> str:
    """As docs/drift.md has it."""
    rows = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    for line in lines:
        alarms = ", ".join(f"{n} {kind}" for kind, n in line["false_alarms"].items()) or "none"
        cells = [
            STREAMS[line["stream"]],
            f"{line['found']} of {line['runs']}",
            *_ends(line["found_rows"]),
            f"{alarms} in {line['quiet_windows']} windows",
            ", ".join(f"{n} in {runs}" for n, runs in line["orders"].items()),
            *_ends(line["promoted_rows"]),
            *_worth(line["auc"]),
            *_worth(line["log_loss"]),
            line["alerts_after"],
        ]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def _ends(spread: Sequence[float] | None) -> tuple[str, str]:
    return ("-", "-") if spread is None else (f"{spread[0]:,.0f}", f"{spread[2]:,.0f}")


def _worth(of: Mapping[str, float | None]) -> tuple[str, str]:
    """Of the champion, by stretch; and of the first one, had it answered the last."""
    return ", ".join(_number(of[name]) for name in _STRETCHES[:-1]), _number(of["never"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
