"""The same distribution, 200 times; and a column that moves.

Injected: 200 windows of twelve columns (smooth, skewed, tied, half empty), each drawn from the distribution of its own
reference; then 20 streams in which one column moves by half a standard deviation, at a moment known to the case alone. Must
hold: no more windows are called drifted than the nominal rate allows, with every significant difference counted and no effect
asked for (one run in a thousand may break this by chance); every shift is found within 2,000 events. Does not show: the streams
of docs/drift.md, which `python -m tests.monitoring.known_drift` measures, or the worker around the verdicts (case 34).
"""

from __future__ import annotations

from tests.faults.stage import Stage
from tests.monitoring import rig
from tests.monitoring.known_drift import alarmed, alarms_max, found
from tests.monitoring.known_streams import KNOWN

WINDOWS, STREAMS = 200, 20
WITHIN_ROWS = 2_000


def run(stage: Stage) -> None:
    """Count false alarms, then measure how long a true shift takes."""
    first = stage.outcome.seed * 100_000
    stage.inject(f"{WINDOWS} windows of their reference's own distribution")
    alarms = sum(alarmed(seed) for seed in range(first, first + WINDOWS))
    allowed = alarms_max(WINDOWS, rig.POLICY.drift.inputs.alpha)
    stage.outcome.check(
        "false alarms at most the nominal rate", holds=alarms <= allowed, came=alarms
    )

    shift = KNOWN["one column, 0.5 deviations"]
    stage.inject(f"{STREAMS} streams: {shift.name}")
    runs = [found(shift, seed) for seed in range(first, first + STREAMS)]
    delays = [run.delay_rows for run in runs]
    late = [delay for delay in delays if delay is None or delay > WITHIN_ROWS]
    stage.outcome.check(
        f"every shift is found within {WITHIN_ROWS:,} events", holds=not late, came=late
    )
    stage.outcome.counts |= {
        "false alarms": alarms,
        "allowed": allowed,
        "events to the last alarm": max((delay or 0 for delay in delays), default=0),
    }
