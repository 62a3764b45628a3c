"""What the lake and the release in force say of requirements; the online store is away."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from features.lake import Lake
from features.lake_schema import Coordinate, event_table, lake_schema
from features.settings import StoreSettings
from infra.requirement_evidence import SETTLED_MS, evidence
from infra.settings import Settings
from schemas import topics
from schemas.events import Event
from schemas.flights import FlightRequest
from schemas.results import Joined, Result, Route, Status
from schemas.settings import KafkaSettings
from serving import release_log
from tests.conftest import stores_at
from tests.monitoring import rig

CASE = "evident"
T0_MS = 1_370_131_200_000
NOW_MS = time.time_ns() // 1_000_000
OLD_MS = NOW_MS - 2 * SETTLED_MS
ROWS = 300


@pytest.fixture(scope="module")
def settings(kafka: KafkaSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    folder = tmp_path_factory.mktemp("evidence")
    rig.register(CASE)
    topics.create(kafka, topics.CONTROL_TOPICS)
    first = release_log.first(CASE, CASE, "v0001", event_time_ms=T0_MS, decided_by="test")
    release_log.publish(kafka, first)
    stores = stores_at(folder, "redis://127.0.0.1:1/0")
    fill(stores)
    yield Settings.load(data_dir=str(folder), case=CASE, kafka=kafka, stores=stores)
    rig.unregister(CASE)


def keep(stores: StoreSettings, topic: str, events: Sequence[Event], at: Sequence[int]) -> None:
    """As the archiver does."""
    lake, table, contract = Lake(stores), topics.table_of(CASE)[topic].table, type(events[0])
    lake.create(table, lake_schema(contract))
    places = [Coordinate(ingest_ms, topic, 0, n) for n, ingest_ms in enumerate(at)]
    rows = event_table(contract, [event.model_dump() for event in events], places)
    lake.append(table, rows, {(topic, 0): len(events)})


def request(number: int) -> FlightRequest:
    return FlightRequest(
        event_time_ms=T0_MS,
        request_id=f"p{number}",
        carrier="UA",
        flight=12,
        tailnum="N14228",
        origin="EWR",
        dest="SFO",
        distance_miles=2_565.0,
        scheduled_hour=7,
        scheduled_weekday=3,
    )


def result(number: int) -> Result:
    return Result(
        event_time_ms=T0_MS,
        request_id=f"p{number}",
        entity="N14228",
        status=Status.EXPIRED if number == 1 else Status.SCORED,
        score=0.5,
        label=True,
        model=CASE,
        version="v0001",
        route=Route.CHAMPION,
        epoch=1,
        features={},
        ages_ms={},
        read_at_ms=1,
        scored_at_ms=1,
        traceparent="",
    )


def joined(number: int) -> Joined:
    """Every other one is of another version."""
    return Joined(
        event_time_ms=T0_MS,
        request_id=f"p{number}",
        status=Status.SCORED,
        score=number % 10 / 10,
        model=CASE,
        version="v0001" if number % 2 else "v0009",
        route=Route.CHAMPION,
        epoch=1,
        late=number % 10 > 4,
        outcome_time_ms=T0_MS,
    )


def fill(stores: StoreSettings) -> None:
    """Every request was answered 20 ms later, but for one that expired and one that got no answer at all."""
    numbers = range(ROWS)
    at = [OLD_MS + 10 * n for n in numbers]
    keep(stores, f"{CASE}.requests", [request(n) for n in numbers], at)
    keep(stores, f"{CASE}.results", [result(n) for n in numbers[1:]], [one + 20 for one in at[1:]])
    changed = [joined(n).model_copy(update={"late": not joined(n).late}) for n in numbers[:50]]
    outcomes = [*(joined(n) for n in numbers), *changed]
    keep(stores, f"{CASE}.joined", outcomes, [*at, *at[:50]])


def test_the_lake_is_counted(settings: Settings) -> None:
    seen = evidence(settings, OLD_MS)
    assert (seen.requests, seen.answered) == (ROWS, ROWS - 2)
    assert len(seen.latencies_ms) == ROWS - 1
    assert set(seen.latencies_ms) == {20.0}
    assert len(seen.rows_per_s) == ROWS - 1
    assert max(seen.rows_per_s) == seen.busiest_rows_per_s
    assert seen.busiest_rows_per_s == pytest.approx(100, abs=1)
    assert (seen.champion, seen.suspended_by) == ("v0001", None)
    assert len(seen.labels) == ROWS // 2, "of the champion, each once"
    assert np.array_equal(seen.labels > 0, seen.scores > 0.4)
    assert seen.ages_s == {}, "nothing is applied here"


def test_what_came_before_is_not_counted(settings: Settings) -> None:
    seen = evidence(settings, NOW_MS + 60_000)
    assert (seen.requests, seen.answered, seen.busiest_rows_per_s) == (0, 0, None)
    assert len(seen.latencies_ms) == 0
