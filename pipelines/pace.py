"""How long feature events wait for each other on their way into the rings. Pure.

A request to the broker costs nearly the same for one event as for hundreds, and what it costs all others wait for. So
whoever need not hurry sends and fetches less often.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from features.views import View
from schemas.settings import FETCH_WAIT_MS


@dataclass(frozen=True)
class Pace:
    """The waits of one way.

    Attributes:
        transaction_s: The intake's transactions begin at least so far apart. One costs the broker a dozen requests and
            writes, whatever is in it. A lone record does not wait; one that comes right behind it does.
        fetch_ms, fetch_bytes: A fetch is answered once there are so many bytes, or after so long.
        linger_ms: So long an upsert waits for others.
    """

    transaction_s: float
    fetch_ms: int
    fetch_bytes: int
    linger_ms: int


# Rings are as fresh as what waits longest. 5 ms is Kafka's own default for a producer; at 1, a sink sends nearly as many
# requests a second as there are events.
PROMPT = Pace(transaction_s=0.01, fetch_ms=FETCH_WAIT_MS, fetch_bytes=1, linger_ms=5)
# Requests that are feature events themselves: the scorer folds those that a ring lacks (`features.own_fold`), so no
# decision waits for their copies.
COPIES = Pace(transaction_s=0.025, fetch_ms=25, fetch_bytes=64 * 1024, linger_ms=25)


def of(views: Iterable[View]) -> Pace:
    """The pace of jobs and rings that these views share."""
    return COPIES if all(view.copied for view in views) else PROMPT
