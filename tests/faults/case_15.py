"""Kill -9 of Redis, FLUSHALL, and a materializer killed while it fills the store again.

Injected, while requests go on: kill -9 of Redis and its restart two seconds later; FLUSHALL; FLUSHALL and kill -9 of the
materializer at a random moment of the rebuilding. Must hold: after each the rings read as the oracle says; every result
until then has the right features, or says what is wrong with them: a fallback whose reason is the store, or `unsettled`
naming the view; I1 to I6 and I8. Does not show: a power cut, which may lose a second that the append-only file had not
been synced for; what was written to Redis before a kill -9 is in the page cache.
"""

from __future__ import annotations

import time

import redis

from features.rings import OnlineStoreUnavailable
from tests.faults import answers
from tests.faults import invariants as must
from tests.faults.stage import Stage, Worker, kill, sent_row

EVENTS = 3_000
STATIONS = 150
DOWN_S = 2.0


def run(stage: Stage) -> None:
    """Fill the store, ask, and take it away three times."""
    server = stage.own_redis()
    stage.topics()
    events = stage.events(EVENTS, stations=STATIONS)
    wanted = must.truth(stage, events)
    rows = [sent_row(stage.view, row) for row in stage.tile_rows(events)]
    stage.ledger.produce(stage.rig.kafka, stage.view.topic_out, rows)
    materializer = stage.start("materializer")
    _settled(stage, wanted, "the first filling")
    answers.scorer(stage)
    answers.ask(stage, wanted.stations, wanted.as_of_ms, 0, 100)
    stage.recovers("the scorer answers", lambda: answers.answered(stage), lambda: "it does not")

    with answers.Asking(stage, wanted.stations, wanted.as_of_ms, first=100):
        kill(server)
        stage.inject(f"kill -9 of Redis, and its restart {DOWN_S:.0f} s later")
        time.sleep(DOWN_S)
        server.start()
        _settled(stage, wanted, "kill -9 of Redis")
        _flush(stage)
        _settled(stage, wanted, "FLUSHALL")
        _flush(stage)
        _kill_while_filling(stage, materializer)
        _settled(stage, wanted, "FLUSHALL and a kill of the materializer")
    stage.recovers("lag 0", lambda: answers.answered(stage), lambda: "requests are left")
    marked, fallen = answers.judge(stage, answers.check(stage), wanted)
    met = marked > 0 and fallen > 0
    stage.outcome.check("the faults were met", holds=met, came=(marked, fallen))
    topics = (stage.view.topic_out, f"{stage.case}.requests", f"{stage.case}.results")
    held = must.no_hanging_transaction(stage, *topics)
    stage.outcome.check("no hanging transaction", holds=held)


def _flush(stage: Stage) -> None:
    with redis.Redis.from_url(stage.stores.redis_url) as client:
        client.flushall()
    stage.inject("FLUSHALL")


def _kill_while_filling(stage: Stage, materializer: Worker) -> None:
    """At a moment after it has noticed, which takes it up to a second."""
    with redis.Redis.from_url(stage.stores.redis_url) as client:
        mark = f"{stage.case}:generation"
        stage.until(lambda: client.get(mark) is not None)
    pause_s = stage.dice.uniform(0.0, 0.15)
    time.sleep(pause_s)
    materializer.kill()
    stage.outcome.counts["killed in the middle"] = int(not must.whole(stage))
    stage.inject(f"kill -9 of the materializer {pause_s * 1000:.0f} ms into the rebuilding")


def _settled(stage: Stage, wanted: must.Truth, after: str) -> None:
    def right() -> bool:
        try:
            return not must.differences(stage, wanted) and must.whole(stage)
        except OnlineStoreUnavailable:
            return False

    stage.recovers(f"rings equal the oracle after {after}", right, lambda: "they do not")
