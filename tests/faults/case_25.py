"""The same request id again: at once, after a restart, with another payload, and later than the window.

Injected: requests published twice; again after the scorer was restarted; again with an event time two days later, which makes
them another payload; and the first ones once more after so many others that the stated window (`recent_ids` of a partition)
has passed. Must hold: within the window one result an id, and every other record under it a dead letter with the reason
`duplicate`, or `id_reused` where the payload is another; beyond the window a repeat is answered again, as is stated; I6 and I7.
Does not show: a repeat under another key, which lies in another partition and is answered there.
"""

from __future__ import annotations

from collections import Counter

from schemas.envelope import header
from schemas.quarantine import PREFIX
from tests.faults.ledger import Sent
from tests.faults.replicas import AS_OF_MS, Replicas, assigned_within
from tests.faults.stage import Stage
from tests.pipelines import toy
from tests.pipelines.records import committed

WINDOW = 200
TWO_DAYS_MS = 2 * 86_400_000
FIRST = 100


def run(stage: Stage) -> None:
    """Ask again in every way."""
    replicas = Replicas(stage, recent_ids=WINDOW)
    ask(stage, range(FIRST))
    ask(stage, range(FIRST))
    scorer = replicas.start()
    stage.outcome.check("it came to work", holds=assigned_within(scorer))
    _all_taken(stage, replicas)
    scorer.restart()
    ask(stage, range(FIRST))
    ask(stage, range(FIRST), later_ms=TWO_DAYS_MS)
    _all_taken(stage, replicas)
    stage.inject(f"{FIRST} requests published four times, once of them as another payload")
    ids = Counter(str(header(m, "ce_id")) for m in committed(stage.rig.kafka, replicas.results))
    once = ids == Counter(f"q{n}" for n in range(FIRST))
    stage.outcome.check("within the window one result an id", holds=once, came=ids.most_common(3))
    letters = committed(stage.rig.kafka, f"{replicas.requests}.dlq")
    reasons = Counter(str(header(m, PREFIX + "reason")) for m in letters)
    wanted = {"duplicate": 2 * FIRST, "id_reused": FIRST}
    stage.outcome.check("the others are dead letters", holds=reasons == wanted, came=reasons)

    # So many that every partition has forgotten the first.
    ask(stage, range(FIRST, FIRST + 12 * WINDOW))
    ask(stage, range(FIRST))
    _all_taken(stage, replicas)
    stage.inject(f"again, after {12 * WINDOW} others")
    ids = Counter(str(header(m, "ce_id")) for m in committed(stage.rig.kafka, replicas.results))
    again = {ids[f"q{n}"] for n in range(FIRST)}
    stage.outcome.check("beyond the window it is answered again", holds=again == {2}, came=again)
    replicas.check_log()
    stage.outcome.counts |= {"results": ids.total(), "dead letters": len(letters)}


def ask(stage: Stage, numbers: range, later_ms: int = 0) -> None:
    """A station for each, so that every partition gets its share."""
    asked = [
        toy.Question(event_time_ms=AS_OF_MS + later_ms, request_id=f"q{n}", station=f"s{n % FIRST}")
        for n in numbers
    ]
    sent = [Sent(one.id, one.key, one.encode()) for one in asked]
    stage.ledger.produce(stage.rig.kafka, f"{stage.case}.requests", sent)


def _all_taken(stage: Stage, replicas: Replicas) -> None:
    stage.recovers("all taken", lambda: not replicas.lag(), lambda: "requests are left")
