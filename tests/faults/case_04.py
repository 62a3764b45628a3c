"""Kill -9 of the broker while a scorer is inside a transaction, and its restart at once.

Injected, while requests go on: the scorer stopped when the results of a batch are with the broker, kill -9 of the broker,
the scorer woken up, the broker started again. Must hold: nothing acknowledged is lost, I1 to I8; the time to recovery is
reported. Does not show: a power cut (kill -9 keeps the page cache), or a cluster, where another broker would take over.
"""

from __future__ import annotations

from tests.faults import broker_away
from tests.faults.stage import Stage


def run(stage: Stage) -> None:
    """Away for as long as a start takes."""
    broker_away.play(stage, 0.0)
