"""Redis that does not answer for ten seconds, and Redis that has no memory left.

Injected, while requests go on: SIGSTOP of Redis for 10 s, with tile rows to be written; then `maxmemory` below what is
in use, with more tile rows. Must hold: a read of features gives up within its timeout; requests are answered all along, by
the fallback while the store is silent, none much later than the timeout; a materializer that cannot write ends with the
reason, and once Redis answers and has memory the rings read as the oracle says: I1 to I6 and I8. Does not show: a
network that swallows packets, or the eviction policies that lose rings silently; `noeviction` is what the stack sets up.
"""

from __future__ import annotations

import os
import signal
import time

import redis

from features.rings import OnlineStoreUnavailable
from schemas.results import Status
from tests.faults import answers
from tests.faults import invariants as must
from tests.faults.stage import Event, Stage, Worker, sent_row
from tests.pipelines.records import committed

EVENTS, MORE = 1_500, 600
STATIONS = 60
STOPPED_S = 10.0
TIMEOUT_MS = 1_000
# What a batch waits besides the store: its poll, its transaction, and other processes on the same processors.
SLACK_S = 3.0


def run(stage: Stage) -> None:
    """Stop it, go on, fill it up, make room."""
    server = stage.own_redis()
    stage.store_changes["redis_timeout_ms"] = TIMEOUT_MS
    stage.topics()
    events = stage.events(EVENTS, stations=STATIONS)
    wanted = must.truth(stage, events)
    _tiles(stage, events)
    materializer = stage.start("materializer")
    _settled(stage, wanted, "the first filling")
    answers.scorer(stage)
    answers.ask(stage, wanted.stations, wanted.as_of_ms, 0, 100)
    stage.recovers("the scorer answers", lambda: answers.answered(stage), lambda: "it does not")

    stopped, full = _others(stage, "stopped"), _others(stage, "full")
    with answers.Asking(stage, wanted.stations, wanted.as_of_ms, first=100):
        _stop(stage, int(server.pid or 0))
    _tiles(stage, stopped)
    _settled(stage, must.truth(stage, [*events, *stopped]), "the silence")
    with answers.Asking(stage, wanted.stations, wanted.as_of_ms, first=100_000):
        _fill(stage, materializer, full)
    _settled(stage, must.truth(stage, [*events, *stopped, *full]), "there was memory again")
    stage.recovers("all answered", lambda: answers.answered(stage), lambda: "requests are left")
    _, fallen = answers.judge(stage, answers.check(stage), wanted)
    stage.outcome.check("the silence was met", holds=fallen > 0, came=fallen)
    _in_time(stage)
    topics = (stage.view.topic_out, f"{stage.case}.requests", f"{stage.case}.results")
    held = must.no_hanging_transaction(stage, *topics)
    stage.outcome.check("no hanging transaction", holds=held)


def _stop(stage: Stage, pid: int) -> None:
    before = len(answers.results(stage))
    os.kill(pid, signal.SIGSTOP)
    stage.inject(f"SIGSTOP of Redis for {STOPPED_S:.0f} s")
    began_s = time.monotonic()
    try:
        must.vectors(stage, ["s1"], 0)
        stage.outcome.check("a read gives up in time", holds=False, came="it was answered")
    except OnlineStoreUnavailable:
        took_s = time.monotonic() - began_s
        held = took_s < TIMEOUT_MS / 1000 + 1
        stage.outcome.check("a read gives up in time", holds=held, came=took_s)
    stage.until(lambda: time.monotonic() - began_s >= STOPPED_S)
    meanwhile = answers.results(stage)[before:]
    os.kill(pid, signal.SIGCONT)
    fallen = sum(r.status is Status.FALLBACK for r in meanwhile)
    stage.outcome.check("the scorer goes on meanwhile", holds=fallen > 20, came=fallen)


def _fill(stage: Stage, materializer: Worker, events: list[Event]) -> None:
    before = materializer.restarts
    with redis.Redis.from_url(stage.stores.redis_url) as client:
        # Below what is in use, which goes up and down by what its connections hold.
        limit = int(client.info("memory")["used_memory"]) // 2
        client.config_set("maxmemory", limit)
        stage.inject(f"maxmemory at {limit} bytes, half of what is in use; noeviction")
        _tiles(stage, events)
        said = "OutOfMemoryError"
        failed = stage.until(lambda: materializer.restarts > before and materializer.said(said))
        stage.outcome.check("a write without memory fails loudly", holds=failed is not None)
        client.config_set("maxmemory", 0)


def _others(stage: Stage, name: str) -> list[Event]:
    """Readings of stations that nobody asks about, so that what is asked stays as it is."""
    first = EVENTS if name == "stopped" else EVENTS + MORE
    events = stage.events(MORE, first, STATIONS)
    return [event | {"station": f"{name}-{event['station']}"} for event in events]


def _tiles(stage: Stage, events: list[Event]) -> None:
    rows = [sent_row(stage.view, row) for row in stage.tile_rows(events)]
    stage.ledger.produce(stage.rig.kafka, stage.view.topic_out, rows)


def _settled(stage: Stage, wanted: must.Truth, after: str) -> None:
    def right() -> bool:
        try:
            return not must.differences(stage, wanted)
        except OnlineStoreUnavailable:
            return False

    stage.recovers(f"rings equal the oracle after {after}", right, lambda: "they do not")


def _in_time(stage: Stage) -> None:
    """From the broker's time of a request to its time of the result; the first ones wait for the model."""
    times = []
    for topic in ("requests", "results"):
        messages = committed(stage.rig.kafka, f"{stage.case}.{topic}")
        ids = [answers.request_id(m) for m in messages]
        times.append(dict(zip(ids, (m.timestamp()[1] for m in messages), strict=True)))
    asked, given = times
    warm = [i for i in given if int(i.removeprefix("q")) >= 100]
    worst_ms = max(given[i] - asked[i] for i in warm)
    limit_ms = TIMEOUT_MS + SLACK_S * 1000
    stage.outcome.check(
        "nobody waits longer than allowed", holds=worst_ms < limit_ms, came=worst_ms
    )
    stage.outcome.counts["worst_ms"] = worst_ms
