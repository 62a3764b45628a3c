"""Scorers that are wrong on purpose: `python -m tests.faults.broken_scorer HOW N CASE SECTION… [SLOT]`.

HOW is `commit_first` (offsets are committed, then results are produced) or `auto_commit` (results are produced without a
transaction, and the client commits offsets by itself, later). Either is killed in its Nth batch, at the worst moment. The
checker must find out; it is told nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Sequence

from confluent_kafka import Message, Producer

from serving import channel, scorer
from serving.channel import Channel
from serving.slot_producer import Outgoing
from tests.faults import scored


class Broken(Channel):
    """A channel without transactions."""

    how = ""
    left = 0

    def commit(self, outgoing: Iterable[Outgoing], batch: Sequence[Message]) -> bool:
        """As many a consumer does it."""
        if self.how == "commit_first":
            offsets = channel._next_offsets(batch)
            self._consumer.commit(offsets=offsets, asynchronous=False)
            self._maybe_die()
        producer = Producer(self._kafka.client_config())
        for record in outgoing:
            producer.produce(
                record.topic, record.value, record.key, record.partition, headers=[*record.headers]
            )
        producer.flush()
        if self.how == "auto_commit":
            # The client commits what was consumed every five seconds by default; nobody is there any more by then.
            self._maybe_die()
        return True

    def _maybe_die(self) -> None:
        type(self).left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Become the scorer."""
    Broken.how, number, *given = sys.argv[1:]
    Broken.left = int(number)
    vars(scorer)["Channel"] = Broken
    sys.argv[1:] = given
    scored.main()


if __name__ == "__main__":
    main()
