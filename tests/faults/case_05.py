"""The broker away for longer than a transaction may last.

Injected, while requests go on: as in case 4, but the broker stays away for twice the transaction timeout. Must hold: the
scorer gives the transaction up and answers once the broker is back, restarted by its supervisor if need be; it is not
stuck; I1 to I8. Does not show: requests that come meanwhile from somebody who does not wait; who publishes is told by its own
producer that nothing was acknowledged.
"""

from __future__ import annotations

from tests.faults import broker_away
from tests.faults.replicas import TRANSACTION_TIMEOUT_MS
from tests.faults.stage import Stage


def run(stage: Stage) -> None:
    """Away for twice the timeout."""
    broker_away.play(stage, 2 * TRANSACTION_TIMEOUT_MS / 1000)
