"""A scorer that is hurt in its Nth transaction: `python -m tests.faults.hurt_scorer POINT N SIGNAL CASE SECTION… [SLOT]`.

POINT is `produced` (the results are with the broker, the offsets are not), `offsets` (both are, and nobody has asked for
the commit) or `commit` (the commit is asked for, and the signal comes N ms later, before or after it returns). The signal
comes from itself, so nothing of its own runs in between.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from confluent_kafka import Producer

from serving import slot_producer
from tests.faults import scored

FLUSH_S = 5.0
COMMIT_NUMBER = 3


def main() -> None:
    """Become the scorer."""
    point, number, name, *given = sys.argv[1:]
    # The first transaction of a producer is its sweep, which it aborts itself.
    left = 1 + (COMMIT_NUMBER if point == "commit" else int(number))

    def hurt() -> None:
        os.kill(os.getpid(), signal.Signals[name])

    class Hurt(Producer):
        def send_offsets_to_transaction(self, *arguments: Any) -> None:
            nonlocal left
            left -= 1
            if point == "produced" and not left:
                self.flush(FLUSH_S)
                hurt()
            super().send_offsets_to_transaction(*arguments)

        def commit_transaction(self, *arguments: Any) -> None:
            if point == "offsets" and not left:
                hurt()
            if point == "commit" and not left:
                threading.Timer(int(number) / 1000, hurt).start()
            super().commit_transaction(*arguments)

    vars(slot_producer)["Producer"] = Hurt
    sys.argv[1:] = given
    scored.main()


if __name__ == "__main__":
    main()
