from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from features.rings import Rings
from schemas.envelope import TIMEOUT_MS, header
from schemas.events import Event
from schemas.results import Route, Status
from serving import release_log
from serving.release_orders import Orders
from serving.releases import with_canary
from tests.serving import model_folders
from tests.serving.conftest import CASE, CLOCK_MS, Bench, until
from tests.serving.test_scoring import request

REQUESTS = f"{CASE}.requests"
RESULTS = f"{CASE}.results"
DEAD = f"{CASE}.requests.dlq"


def requests(count: int, first: int = 0) -> list[Event]:
    return [request(n) for n in range(first, first + count)]


def test_every_request_is_answered_once_where_it_came_from(bench: Bench) -> None:
    bench.release_first()
    bench.produce(requests(500))

    with bench.scorer() as scorer:
        bench.await_count(RESULTS, 500)
        until(lambda: scorer.counters().get("scored") == 500)

    asked = {m.key(): m.partition() for m in bench.read(REQUESTS)}
    answered = bench.read(RESULTS)
    assert {m.key(): m.partition() for m in answered} == asked
    assert Counter(header(m, "ce_id") for m in answered) == Counter(f"r{n}" for n in range(500))
    results = bench.results()
    assert {(r.status, r.version, r.epoch) for r in results} == {(Status.SCORED, "v0001", 1)}
    assert all(header(m, "traceparent") for m in answered)
    assert {frozenset(r.timings_us) for r in results} == {frozenset(("queue", "read", "predict"))}
    told = scorer.stages()
    assert {(entry[0], entry[1], entry[-1]) for entry in told["answers"]} == {
        ("scored", "v0001", 500)
    }
    counted = {entry[0]: sum(entry[-2]) for entry in told["stages"]}
    assert counted["end_to_end"] == counted["queue"] == 500
    assert counted["commit"] == counted["read"] == counted["predict"] > 1


def test_without_a_release_nothing_is_taken(bench: Bench) -> None:
    bench.produce(requests(10))
    with bench.scorer() as scorer:
        time.sleep(1.0)
        assert scorer.counters() == {"slot": 0, "epoch": 0, "partitions": 0}
        bench.release_first()
        bench.await_count(RESULTS, 10)


def test_refused_requests_and_repeats_become_dead_letters(bench: Bench) -> None:
    bench.release_first()
    good = requests(20)
    producer = Producer(bench.kafka.client_config())
    wrong = [b"{", b"\xff\xfe", None, b"[]", b"x" * 70_000, good[0].encode()[:-1] + b',"a":1}']
    for value in wrong:
        producer.produce(REQUESTS, key="N0000", value=value)
    producer.flush()
    bench.produce([*good, *good[:5]])

    with bench.scorer():
        bench.await_count(RESULTS, 20)
        letters = bench.await_count(DEAD, len(wrong) + 5)

    reasons = Counter(header(m, "headrace_reason") for m in letters)
    assert reasons == {
        "not_json": 2,
        "null_value": 1,
        "contract": 2,
        "too_large": 1,
        "duplicate": 5,
    }
    assert len(bench.results()) == 20


def test_an_id_with_another_payload_is_no_repeat_also_after_a_restart(bench: Bench) -> None:
    bench.release_first()
    first = request(1)
    other = first.model_copy(update={"scheduled_hour": 3})
    bench.produce([first, other])
    with bench.scorer():
        bench.await_count(RESULTS, 1)
        bench.await_count(DEAD, 1)
    bench.produce([first, other])
    with bench.scorer():
        letters = bench.await_count(DEAD, 3)
    reasons = Counter(header(m, "headrace_reason") for m in letters)
    assert reasons == {"id_reused": 2, "duplicate": 1}
    assert len(bench.results()) == 1


def test_a_request_past_its_deadline_is_told_so_and_not_scored(bench: Bench) -> None:
    producer = Producer(bench.kafka.client_config())
    for n in range(40):
        asked = request(n)
        said: Any = [(TIMEOUT_MS, b"50" if n % 2 else b"600000")]
        producer.produce(REQUESTS, key=asked.key, value=asked.encode(), headers=said)
    producer.flush()
    time.sleep(0.2)
    bench.release_first()
    with bench.scorer() as scorer:
        bench.await_count(RESULTS, 40)
        until(lambda: scorer.counters().get("expired") == 20)
    for result in bench.results():
        late = bool(int(result.request_id[1:]) % 2)
        assert result.status is (Status.EXPIRED if late else Status.SCORED)
        assert (result.score is None, result.features == {}) == (late, late)
        assert result.reasons[0].startswith("deadline: passed ") if late else not result.reasons
        assert result.timings_us["queue"] >= 200_000
        assert ("predict" in result.timings_us) == (not late)


def test_bulk_requests_are_answered_beside_the_others_and_once(bench: Bench) -> None:
    bench.release_first()
    producer = Producer(bench.kafka.client_config())
    for n in range(3_000):
        asked = request(n)
        producer.produce(f"{REQUESTS}.bulk", key=asked.key, value=asked.encode())
    producer.flush()
    bench.produce(requests(1_000, first=3_000))
    # Asked before in the other lane: whichever is answered first, the other is a repeat.
    bench.produce(requests(10))
    with bench.scorer(), bench.scorer(1) as second:
        until(lambda: second.counters()["partitions"] == 2)
        bench.await_count(RESULTS, 4_000)
    with bench.scorer():
        bulk_letters = bench.read(f"{REQUESTS}.bulk.dlq")
        bench.await_count(DEAD, 10 - len(bulk_letters))
    seen = Counter(header(m, "ce_id") for m in bench.read(RESULTS))
    assert seen == Counter(f"r{n}" for n in range(4_000))
    asked_in = {m.key(): m.partition() for m in bench.read(f"{REQUESTS}.bulk")}
    given_in = {m.key(): m.partition() for m in bench.read(RESULTS)}
    assert {key: given_in[key] for key in asked_in} == asked_in


def test_a_repeat_is_recognised_after_a_restart(bench: Bench) -> None:
    bench.release_first()
    bench.produce(requests(50))
    with bench.scorer():
        bench.await_count(RESULTS, 50)
    bench.produce([*requests(50), *requests(5, first=50)])
    with bench.scorer():
        bench.await_count(RESULTS, 55)
        bench.await_count(DEAD, 50)
    assert len(bench.results()) == 55


def test_a_dead_letter_as_large_as_the_broker_takes_does_not_stop_the_loop(bench: Bench) -> None:
    bench.release_first()
    producer = Producer(bench.kafka.client_config(message_max_bytes=2_000_000))
    producer.produce(REQUESTS, key="N0000", value=random.Random(1).randbytes(1_048_576 - 200))
    producer.flush()
    bench.produce(requests(5))
    with bench.scorer():
        bench.await_count(RESULTS, 5)
        bench.await_count(DEAD, 1)


def test_a_canary_starts_and_ends_between_two_batches(bench: Bench) -> None:
    bench.release_first()
    model_folders.write(bench.models, "v0002", bias=3.0)
    with bench.scorer() as scorer:
        bench.produce(requests(200))
        bench.await_count(RESULTS, 200)
        now = release_log.current(bench.kafka, CASE)
        assert now is not None
        stamp: dict[str, Any] = {"event_id": "e", "reason": "try", "decided_by": "test"}
        stamp |= {"event_time_ms": CLOCK_MS, "decided_at_ms": CLOCK_MS}
        canary = with_canary(now, candidate="v0002", share=0.3, salt="v0002", **stamp)
        release_log.publish(bench.kafka, canary)
        until(lambda: scorer.counters()["epoch"] == 2)
        bench.produce(requests(200, first=200))
        bench.await_count(RESULTS, 400)
        orders = Orders(bench.kafka, bench.stores, bench.serving, CASE, decided_by="test")
        orders.promote("better")
        until(lambda: scorer.counters()["epoch"] == 3)
        bench.produce(requests(200, first=400))
        bench.await_count(RESULTS, 600)

    by_epoch = {
        epoch: Counter((r.version, r.route) for r in bench.results() if r.epoch == epoch)
        for epoch in (1, 2, 3)
    }
    assert by_epoch[1] == {("v0001", Route.CHAMPION): 200}
    assert by_epoch[2].keys() == {("v0001", Route.CHAMPION), ("v0002", Route.CANARY)}
    assert 30 <= by_epoch[2]["v0002", Route.CANARY] <= 90
    assert by_epoch[3] == {("v0002", Route.CHAMPION): 200}


def test_a_view_that_fell_silent_is_named_by_what_was_signed_off(bench: Bench) -> None:
    """Flights' views may have seen nothing for six hours, by night; `tests/serving/test_staleness.py` has the rest."""
    of_origin, of_aircraft = model_folders.plan().views
    rings, hour_ms = Rings(bench.stores), 3_600_000
    clocks = {
        of_origin.versioned: CLOCK_MS - 7 * hour_ms,
        of_aircraft.versioned: CLOCK_MS - 5 * hour_ms,
    }
    rings.advance_clock(clocks)
    try:
        bench.release_first()
        with bench.scorer() as scorer:
            bench.produce(requests(10))
            bench.await_count(RESULTS, 10)
            until(lambda: scorer.counters().get("stale") == 10)
    finally:
        for view in clocks:
            rings.delete(view)
        rings.close()
    said = {(result.status, result.reasons) for result in bench.results()}
    why = "stale: origin_departures has seen no event for 25200 s, 21600 s are the limit"
    assert said == {(Status.SCORED, (why,))}


def test_the_champion_before_answers_for_one_that_gives_no_score(bench: Bench) -> None:
    bench.release_first()
    # Nobody fills the features here, so that it answers NaN for every row.
    model_folders.write(bench.models, "v0002", fragile=True)
    with bench.scorer() as scorer:
        bench.produce(requests(10))
        bench.await_count(RESULTS, 10)
        bench.release_second("v0002")
        until(lambda: scorer.counters()["epoch"] == 2)
        bench.produce(requests(40, first=10))
        bench.await_count(RESULTS, 50)
        until(lambda: scorer.counters().get("fallback", 0) == 40)
        counts = scorer.counters()
    helped = [r for r in bench.results() if r.epoch == 2]
    assert {(r.status, r.version, r.route, r.failed) for r in helped} == {
        (Status.FALLBACK, "v0001", Route.CHAMPION, ("v0002",))
    }
    assert {r.reasons[-1] for r in helped} == {"other_model: v0001"}
    kinds = {"fallback_output_not_finite", "fallback_circuit_open"}
    assert sum(counts.get(kind, 0) for kind in kinds) == 40


def test_a_refused_champion_changes_nothing(bench: Bench) -> None:
    bench.release_first()
    model_folders.write(bench.models, "v0002", contract="0" * 64)
    with bench.scorer() as scorer:
        bench.produce(requests(10))
        bench.await_count(RESULTS, 10)
        bench.release_second("v0002")
        time.sleep(1.0)
        bench.produce(requests(10, first=10))
        bench.await_count(RESULTS, 20)
        assert scorer.counters()["epoch"] == 1
    assert {r.version for r in bench.results()} == {"v0001"}


def test_without_the_online_store_the_rule_answers(bench: Bench) -> None:
    bench.stores = bench.stores.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    bench.release_first()
    bench.produce(requests(50))
    with bench.scorer():
        bench.await_count(RESULTS, 50)
    results = bench.results()
    assert {(r.status, r.route) for r in results} == {(Status.FALLBACK, Route.RULE)}
    assert all(r.reasons[0].startswith("features_unavailable") for r in results)
    assert all(r.score is not None for r in results)


def test_replicas_come_and_go_and_nothing_is_lost_or_repeated(bench: Bench) -> None:
    bench.release_first()
    with bench.scorer(0):
        bench.produce(requests(2_000))
        with bench.scorer(1) as second:
            until(lambda: second.counters()["partitions"] == 2)
            bench.produce(requests(2_000, first=2_000))
            bench.await_count(RESULTS, 3_000)
        bench.produce(requests(1_000, first=4_000))
        bench.await_count(RESULTS, 5_000)
    assert_exactly_once(bench, 5_000)


def test_a_second_replica_of_the_same_slot_fences_the_first(bench: Bench) -> None:
    bench.release_first()
    with bench.scorer(0) as first:
        bench.produce(requests(100))
        bench.await_count(RESULTS, 100)
        with bench.scorer(1) as second:
            second.move_to(0)
            until(lambda: second.counters()["partitions"] == 2)
            bench.produce(requests(1_000, first=100))
            bench.await_count(RESULTS, 1_100)
            until(lambda: first.counters().get("producers_renewed", 0) >= 1)
            second.move_to(1)
            time.sleep(0.5)
    assert_exactly_once(bench, 1_100)


@pytest.mark.slow
def test_killed_replicas_lose_nothing_and_repeat_nothing(bench: Bench, tmp_path: Path) -> None:
    seed = int(os.environ.get("HEADRACE_SEED", "") or time.time())
    print(f"seed {seed}")  # noqa: T201 - to run it again: HEADRACE_SEED
    chance = random.Random(seed)
    bench.release_first()
    total, sent = 12_000, 0
    replica = _spawn(bench, tmp_path)
    try:
        for kill in range(3):
            bench.produce(requests(total // 3, first=sent))
            sent += total // 3
            answered = kill * 1_000 + chance.randrange(2_000)
            until(lambda n=answered: len(bench.read(RESULTS)) > n, timeout_s=40)  # type: ignore[misc]
            time.sleep(chance.uniform(0.0, 0.05))
            replica.send_signal(signal.SIGKILL)
            replica.wait()
            replica = _spawn(bench, tmp_path)
            if kill == 0:
                bench.produce(requests(1_001, first=total))
        bench.await_count(RESULTS, total + 1_001, timeout_s=60)
    finally:
        replica.terminate()
        assert replica.wait(30) == 0
    assert_exactly_once(bench, total + 1_001)


def assert_exactly_once(bench: Bench, count: int) -> None:
    seen = Counter(header(m, "ce_id") for m in bench.read(RESULTS))
    assert seen == Counter(f"r{n}" for n in range(count))
    assert bench.read(DEAD) == []


def _spawn(bench: Bench, folder: Path) -> subprocess.Popen[bytes]:
    told = {
        "case": CASE,
        "kafka": bench.kafka.model_dump(),
        "stores": bench.stores.model_dump(),
        "serving": bench.serving.model_dump(),
        "slot": 0,
    }
    path = folder / "scorer.json"
    path.write_text(json.dumps(told))
    with (folder / "scorer.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.serving.scorer_process", str(path)],
            stdout=log,
            stderr=log,
            cwd=Path(__file__).parents[2],
        )
