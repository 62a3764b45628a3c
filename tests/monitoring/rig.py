"""A use case of each test's own, simulated traffic for it, and workers run in threads."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Consumer, Producer

from monitoring.drift import Thresholds
from monitoring.policy import (
    DAY_MS,
    HOUR_MS,
    DriftPolicy,
    GuardPolicy,
    LoopPolicy,
    Policy,
    WindowPolicy,
)
from monitoring.windows import JoinedRow, ResultRow
from schemas import topics
from schemas.control import ControlEvent, Release
from schemas.envelope import new_traceparent
from schemas.flights import FlightRequest, Outcome
from schemas.inputs import RequestInput
from schemas.results import Joined, Result, Route, Status
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext

T0_MS = 15_858 * DAY_MS  # 2013-06-02, on a window's edge
FEATURES = ("hour", "origin", "delays__mean_1h", "delays__mean_1d", "weather__wind")
POLICY = Policy(
    window=WindowPolicy(length_ms=DAY_MS, grace_ms=HOUR_MS, rows_min=200),
    drift=DriftPolicy(
        inputs=Thresholds(alpha=0.01, effect_min=0.1),
        columns_min=3,
        score=Thresholds(alpha=0.01, effect_min=0.1),
        auc_drop_min=0.05,
        log_loss_rise_min=0.1,
        alpha=0.01,
    ),
    loop=LoopPolicy(
        cool_down_ms=2 * DAY_MS, orders_max=2, orders_per_ms=30 * DAY_MS, look_back_ms=10 * DAY_MS
    ),
    guard=GuardPolicy(rows_min=100, rows_decide=300, duration_max_ms=14 * DAY_MS),
)


def register(case: str) -> str:
    """Make the modules `schemas.<case>` and `monitoring.<case>` importable; test cases have no files."""
    contents: dict[str, dict[str, object]] = {
        "schemas": {
            "TOPICS": topics.standard_topics(
                case, request=FlightRequest, outcome=Outcome, streams={}
            ),
            "INPUTS": (RequestInput("hour"), RequestInput("origin", categories=("EWR", "JFK"))),
        },
        "monitoring": {"POLICY": POLICY},
    }
    for layer, names in contents.items():
        module = ModuleType(f"{layer}.{case}")
        module.__spec__ = ModuleSpec(module.__name__, None)
        vars(module).update(names)
        sys.modules[module.__name__] = module
    return case


def unregister(case: str) -> None:
    for layer in ("schemas", "monitoring"):
        del sys.modules[f"{layer}.{case}"]


def vector(generator: np.random.Generator, shift: float = 0.0) -> dict[str, float | None]:
    numbers = generator.normal(shift, 1.0, len(FEATURES) - 2)
    features: dict[str, float | None] = dict(zip(FEATURES[2:], map(float, numbers), strict=True))
    return {
        "hour": float(generator.integers(5, 23)),
        "origin": float(generator.integers(2)),
    } | features


def traffic(
    *,
    seed: int,
    start_ms: int,
    rows: int,
    rows_a_day: int,
    shift: float = 0.0,
    canary_share: float = 0.0,
    epoch: int = 1,
    canary_score: Callable[[float, np.random.Generator], float] = lambda p, _: p,
) -> Iterator[tuple[Result, Joined]]:
    """Results whose score is the true chance of their label, and their joined rows."""
    generator = np.random.default_rng(seed)
    for index in range(rows):
        event_time_ms = start_ms + index * DAY_MS // rows_a_day
        p = float(generator.beta(1.2, 3.5))
        on_canary = bool(generator.random() < canary_share)
        score = canary_score(p, generator) if on_canary else p
        late = bool(generator.random() < p)
        result = Result(
            event_time_ms=event_time_ms,
            request_id=f"r{seed}-{index}",
            entity=f"N{index % 97}",
            status=Status.SCORED,
            score=score,
            label=score > 0.5,
            model="m",
            version="v2" if on_canary else "v1",
            route=Route.CANARY if on_canary else Route.CHAMPION,
            epoch=epoch,
            features=vector(generator, shift),
            ages_ms={},
            read_at_ms=1,
            scored_at_ms=1,
            traceparent=new_traceparent(),
        )
        yield result, joined_of(result, late=late)


def joined_of(result: Result, *, late: bool) -> Joined:
    return Joined(
        event_time_ms=result.event_time_ms,
        request_id=result.request_id,
        status=result.status,
        score=result.score,
        model=result.model,
        version=result.version,
        route=result.route,
        epoch=result.epoch,
        late=late,
        outcome_time_ms=result.event_time_ms + HOUR_MS,
    )


def rows_of(pair: tuple[Result, Joined]) -> tuple[ResultRow, JoinedRow]:
    result, joined = pair
    return (
        ResultRow(**result.model_dump(include=set(ResultRow.__struct_fields__))),
        JoinedRow(**joined.model_dump(include=set(JoinedRow.__struct_fields__))),
    )


def release(
    case: str,
    *,
    epoch: int = 1,
    canary: str | None = None,
    champion: str = "v1",
    at_ms: int = T0_MS,
) -> Release:
    return Release(
        event_time_ms=at_ms,
        event_id=f"release-{case}-{epoch}",
        case=case,
        decided_at_ms=1,
        epoch=epoch,
        model="m",
        champion=champion,
        canary=canary,
        canary_share=0.1 if canary else 0.0,
        salt="s",
        reason="test",
        decided_by="test",
    )


def write_model(models_dir: Path, version: str, *, seed: int = 0, shift: float = 0.0) -> None:
    """A folder with what drift reads of it."""
    generator = np.random.default_rng(seed)
    rows = [vector(generator, shift) for _ in range(3_000)]
    columns: dict[str, list[float | None]] = {name: [r[name] for r in rows] for name in FEATURES}
    columns["score"] = generator.beta(1.2, 3.5, len(rows)).tolist()
    folder = models_dir / "m" / version
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "reference.parquet")
    manifest = {
        "inputs": list(FEATURES),
        "metrics": {"auc": 0.76, "log_loss": 0.49, "rows": 3_000},
        "trained": {"label_rate": 0.25},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def produce(kafka: KafkaSettings, records: Iterator[tuple[str, str, bytes]]) -> None:
    """(topic, key, value), delivered."""
    producer = Producer(kafka.client_config(linger_ms=5))
    for topic, key, value in records:
        while True:
            try:
                producer.produce(topic, value, key)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(30) == 0


def publish(kafka: KafkaSettings, topic: str, *events: ControlEvent) -> None:
    produce(kafka, ((topic, e.key, e.encode()) for e in events))


def read_all(kafka: KafkaSettings, topic: str) -> list[bytes]:
    """Every committed record's value."""
    consumer = Consumer(
        kafka.client_config(
            group_id=f"read-{time.time_ns()}",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            enable_partition_eof=True,
            isolation_level="read_committed",
        )
    )
    partitions = set(consumer.list_topics(topic, 10).topics[topic].partitions)
    consumer.subscribe([topic])
    values: list[bytes] = []
    deadline = time.monotonic() + 30
    while partitions and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is None:
            continue
        if message.error():
            partitions.discard(message.partition() or 0)
        else:
            values.append(message.value() or b"")
    consumer.close()
    assert not partitions, f"{topic} was not read to its end"
    return values


Reports = list[Mapping[str, float | int | str]]


@contextmanager
def running(case: str, run: Callable[[WorkerContext], None]) -> Iterator[Reports]:
    """A worker in a thread; it must end cleanly when it is told to stop."""
    reports: Reports = []
    stop = threading.Event()
    crashes: list[BaseException] = []

    def body() -> None:
        try:
            run(WorkerContext(case, stop, reports.append))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the test's own thread
            crashes.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    try:
        yield reports
    finally:
        stop.set()
        thread.join(40)
        if crashes:
            raise crashes[0]
    assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)
