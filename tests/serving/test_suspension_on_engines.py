"""An incident on a real broker: admission suspends the champion, a replica answers by the rule, and an operator ends it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.control import Release
from schemas.control_log import ControlLog
from schemas.results import Result, Route, Status
from schemas.worker import WorkerContext
from serving import admission, release_log
from serving.scorer import Scorer
from tests.serving.conftest import CASE, Bench, until
from tests.serving.test_scorer import requests
from tests.serving.test_suspension import incident

EACH = 50


@contextmanager
def admitting(bench: Bench) -> Iterator[None]:
    """Admission in a thread."""
    context = WorkerContext(CASE, threading.Event(), lambda _: None)
    arguments = (context, bench.kafka, bench.stores, bench.serving)
    thread = threading.Thread(target=admission.run, args=arguments)
    thread.start()
    try:
        yield
    finally:
        context.stop.set()
        thread.join(30)
    assert not thread.is_alive()


def answers(bench: Bench, scorer: Scorer, epoch: int) -> list[Result]:
    """Of requests that are asked once the replica has applied an epoch."""
    until(lambda: scorer.counters()["epoch"] == epoch)
    before = {result.request_id for result in bench.results()}
    bench.produce(requests(EACH, first=len(before)))
    bench.await_count(f"{CASE}.results", len(before) + EACH)
    return [result for result in bench.results() if result.request_id not in before]


def in_force(bench: Bench) -> Release:
    now = release_log.current(bench.kafka, CASE)
    assert now is not None
    return now


def test_an_incident_suspends_the_champion_until_it_is_resumed(bench: Bench) -> None:
    bench.release_first("v0001")
    with bench.scorer() as scorer, admitting(bench):
        asked = answers(bench, scorer, 1)
        with ControlLog(bench.kafka, CASE, (), "test.monitoring") as control:
            control.publish(incident("stranger", version="v0009"), incident("1", version="v0001"))
        ruled = answers(bench, scorer, 2)
        now = in_force(bench)
        assert (now.suspended, now.incident, now.decided_by) == (True, "incident-1", "admission")
        release_log.resume(bench.kafka, CASE, reason="the labels were wrong")
        resumed = answers(bench, scorer, 3)

    for scored in (asked, resumed):
        assert {(r.status, r.route, r.version) for r in scored} == {
            (Status.SCORED, Route.CHAMPION, "v0001")
        }
    assert {(r.status, r.route, r.version) for r in ruled} == {
        (Status.FALLBACK, Route.RULE, "v0001")
    }
    assert {r.reasons for r in ruled} == {("suspended: incident-1",)}
    assert all(r.score is not None and not r.failed for r in ruled)
    assert len(bench.results()) == 3 * EACH
    # Whoever starts anew knows the incident, and does not suspend for it again.
    with admitting(bench):
        with ControlLog(bench.kafka, CASE, (), "test.monitoring") as control:
            control.publish(incident("1", version="v0001"), incident("2", version="v0001"))
        until(lambda: in_force(bench).epoch > 3)
    now = in_force(bench)
    assert (now.epoch, now.suspended, now.incident) == (4, True, "incident-2")
