"""What must be true after every fault, recomputed from the topics by the oracle."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from features.progress import WHOLE_KEY
from features.reference import features_as_of
from features.rings import Rings
from features.vectors import VectorReader
from tests.faults.stage import SERVICE, Event, Stage
from tests.pipelines.records import committed

REL = 1e-9
COORDINATOR_LOADS = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
)
NOTHING = float("nan")


def topic_holds_ledger(stage: Stage, topic: str) -> bool:
    """Acknowledged ⊆ topic, no record twice, none that was never sent."""
    messages = committed(stage.rig.kafka, topic)
    found = [(int(m.partition() or 0), int(m.offset() or 0)) for m in messages]
    return (
        set(stage.ledger.acknowledged[topic]) <= set(found)
        and len(found) == len(set(found))
        and len(found) <= stage.ledger.sent[topic]
    )


class Truth(NamedTuple):
    """What the oracle says of every station, as of one instant."""

    stations: tuple[str, ...]
    as_of_ms: int
    values: dict[str, dict[str, float]]
    ages_ms: dict[str, int]


def truth(stage: Stage, events: Sequence[Event], *, later_ms: int = 0) -> Truth:
    """The oracle, as of the latest event and `later_ms` after; slow, so ask it once."""
    by_station: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_station[event["station"]].append(event)
    as_of_ms = max(e["event_time_ms"] for e in events) + later_ms
    values, ages_ms = {}, {}
    for station, mine in by_station.items():
        said = features_as_of(stage.view, mine, {"station": station}, as_of_ms)
        values[station] = {name: _number(value) for name, value in said.items()}
        ages_ms[station] = as_of_ms - max(e["event_time_ms"] for e in mine)
    return Truth(tuple(sorted(by_station)), as_of_ms, values, ages_ms)


def differences(stage: Stage, wanted: Truth) -> list[str]:
    """Where features read from the online store are not the oracle's."""
    names, values, ages = vectors(stage, wanted.stations, wanted.as_of_ms)
    found = []
    for row, station in enumerate(wanted.stations):
        mine = tuple(wanted.values[station][name.rpartition("__")[2]] for name in names)
        if not _equal(mine, values[row]):
            found.append(f"{station}: wanted {mine}, came {values[row]}")
        if ages[row] != wanted.ages_ms[station]:
            found.append(f"{station}: wanted age {wanted.ages_ms[station]}, came {ages[row]}")
    return found


def ring_differences(stage: Stage, events: Sequence[Event], *, later_ms: int = 0) -> list[str]:
    """Where features read from the online store are not the oracle's, as of the latest event and `later_ms` after."""
    return differences(stage, truth(stage, events, later_ms=later_ms))


def vectors(
    stage: Stage, stations: Sequence[str], as_of_ms: int
) -> tuple[tuple[str, ...], list[tuple[float, ...]], list[int]]:
    """What the scorer would read: names, values by station, and the age of each station's ring (−1: none)."""
    reader = VectorReader(stage.stores, stage.plan, SERVICE)
    try:
        read = reader.read({"station": list(stations)}, np.full(len(stations), as_of_ms))
    finally:
        reader.close()
    rows = [tuple(float(v) for v in row) for row in read.values]
    return read.names, rows, [int(age) for age in read.age_ms[:, 0]]


def whole(stage: Stage) -> bool:
    """Whether the store says that it holds all of the view's rings."""
    rings = Rings(stage.stores)
    try:
        return bool(rings.read(stage.view.versioned, [WHOLE_KEY])[0])
    finally:
        rings.close()


def no_hanging_transaction(stage: Stage, *topics: str) -> bool:
    """The last stable offset of every partition is its high watermark."""
    admin = AdminClient(stage.rig.kafka.client_config())
    return _ends(admin, topics, IsolationLevel.READ_COMMITTED) == _ends(
        admin, topics, IsolationLevel.READ_UNCOMMITTED
    )


def lag(stage: Stage, group: str, *topics: str) -> int:
    """Records that a group has still to commit; all of them where it never committed.

    Read through a consumer that joins nothing, so that it cannot disturb the group.
    """
    kafka = stage.rig.kafka
    ends = _ends(AdminClient(kafka.client_config()), topics, IsolationLevel.READ_UNCOMMITTED)
    consumer = Consumer(kafka.client_config(group_id=group, enable_auto_commit=False))
    try:
        places = consumer.committed([TopicPartition(*place) for place in ends], timeout=10)
    except KafkaException as error:
        # A broker that just started is still loading its coordinator: nothing is known to be committed yet.
        if error.args[0].code() not in COORDINATOR_LOADS:
            raise
        places = []
    finally:
        consumer.close()
    held = {(p.topic, p.partition): max(0, p.offset) for p in places}
    return sum(end - held.get(place, 0) for place, end in ends.items())


def materializer_group(stage: Stage) -> str:
    """The consumer group whose lag is the materializer's."""
    return f"{stage.case}.materializer"


def _partitions(admin: AdminClient, topic: str) -> list[int]:
    return list(admin.list_topics(topic, timeout=10).topics[topic].partitions)


def _ends(
    admin: AdminClient, topics: Sequence[str], level: IsolationLevel
) -> dict[tuple[str, int], int]:
    places = [TopicPartition(t, p) for t in topics for p in _partitions(admin, t)]
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = admin.list_offsets(dict.fromkeys(places, latest), isolation_level=level)
    return {(place.topic, place.partition): asked[place].result(10).offset for place in asked}


def _equal(wanted: Sequence[float], came: Sequence[float]) -> bool:
    return all(
        (math.isnan(w) and math.isnan(c)) or math.isclose(w, c, rel_tol=REL)
        for w, c in zip(wanted, came, strict=True)
    )


def _number(value: float | None) -> float:
    return NOTHING if value is None else float(value)
