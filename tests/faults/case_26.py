"""Events that come hours late, and events dated 1970 and 2099.

Injected through the intake: readings hours late among others in time, and readings dated at the epoch, in seconds
instead of milliseconds, before 1970, in 2099 and two days ahead, at random places between them. Must hold: the tiles that
the real stream job makes are a batch recomputation of all that is not absurd, late ones in the tile of their own time;
each absurd one is in the dead letters, whole, with its reason and place; the stream's clock is that of the latest honest
event; events after them are counted as before; lag 0 and no hanging transaction. Does not show: a reading up to a day
ahead of its arrival, which passes for a clock that is wrong, and does move the stream's clock.
"""

from __future__ import annotations

import json
import time
from typing import Any

from features.rings import Rings
from schemas.envelope import header
from tests.faults import invariants as must
from tests.faults.flink import Cluster, check_tiles, send
from tests.faults.ledger import Sent
from tests.faults.stage import Event, Stage
from tests.pipelines import toy
from tests.pipelines.records import committed

IN_TIME, LATE, AFTER = 400, 60, 100
HOUR_MS = 3_600_000
LATE_MS_MAX = 5 * HOUR_MS


def run(stage: Stage) -> None:
    """Mix, send, and go on."""
    stage.topics()
    raw = f"{stage.case}.readings"
    honest, absurd = _events(stage)
    with Cluster(stage) as cluster:
        cluster.submit()
        stage.start("intake")
        stage.start("materializer")
        mixed = [Sent(e["event_id"], e["station"], json.dumps(e).encode()) for e in honest + absurd]
        stage.dice.shuffle(mixed)
        stage.inject(f"{LATE} readings up to 5 hours late, {len(absurd)} absurd ones, shuffled")
        stage.ledger.produce(stage.rig.kafka, raw, mixed)
        check_tiles(stage, honest, "late and absurd ones")
        after = stage.events(AFTER, IN_TIME + LATE)
        send(stage, raw, after)
        check_tiles(stage, honest + after, "going on")
    _quarantined(stage, absurd)
    _clock(stage, honest + after)
    valid, dead = f"{raw}.valid", f"{raw}.dlq"
    lags = ((f"{stage.case}.intake", raw), (must.materializer_group(stage), stage.view.topic_out))
    stage.recovers(
        "lag 0 of the raw and the tile topic",
        lambda: all(must.lag(stage, group, topic) == 0 for group, topic in lags),
        lambda: "records are left",
    )
    held = must.no_hanging_transaction(stage, raw, valid, dead)
    stage.outcome.check("no hanging transaction", holds=held)


def _events(stage: Stage) -> tuple[list[Event], list[Event]]:
    honest = stage.events(IN_TIME + LATE)
    for event in stage.dice.sample(honest, LATE):
        event["event_time_ms"] -= stage.dice.randrange(HOUR_MS, LATE_MS_MAX)
    now_ms = time.time_ns() // 1_000_000
    times = {
        "1970": 0,
        "seconds": toy.START_MS // 1_000,
        "1969": -stage.dice.randrange(1, 10**10),
        "2099": 4_070_908_800_000 + stage.dice.randrange(10**9),
        "2200": 7_258_118_400_000,
        "ahead": now_ms + 48 * HOUR_MS,
    }
    absurd: list[dict[str, Any]] = []
    for name, at_ms in times.items():
        for number in range(5):
            like = stage.dice.choice(honest)
            absurd.append(like | {"event_id": f"{name}-{number}", "event_time_ms": at_ms})
    return honest, absurd


def _quarantined(stage: Stage, absurd: list[Event]) -> None:
    raw = f"{stage.case}.readings"
    letters = {
        json.loads(m.value() or b"{}")["event_id"]: m
        for m in committed(stage.rig.kafka, f"{raw}.dlq")
    }
    wanted = {e["event_id"]: e for e in absurd}
    same = letters.keys() == wanted.keys()
    stage.outcome.check("the absurd ones, and only they, are dead letters", holds=same)
    for name, message in letters.items():
        whole = json.loads(message.value() or b"{}") == wanted.get(name)
        reason = header(message, "headrace_reason")
        origin = header(message, "headrace_topic")
        held = whole and reason == "absurd_time" and origin == raw
        stage.outcome.check("each whole, with reason and origin", holds=held, came=(name, reason))
    counts = stage.outcome.counts
    counts["dead letters"] = len(letters)


def _clock(stage: Stage, honest: list[Event]) -> None:
    latest_ms = max(e["event_time_ms"] for e in honest)
    wanted = must.truth(stage, honest)
    wrong: list[str] = []

    def right() -> bool:
        wrong[:] = must.differences(stage, wanted)
        return not wrong

    stage.recovers("rings equal the oracle", right, lambda: wrong[:2])
    rings = Rings(stage.stores)
    clock_ms = rings.clock()
    rings.close()
    held = clock_ms == latest_ms
    stage.outcome.check("the clock is the latest honest event's", holds=held, came=clock_ms)
