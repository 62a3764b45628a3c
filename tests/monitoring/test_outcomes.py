from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer
from confluent_kafka.admin import AdminClient

from features.answers import OUTCOME, answers, contradicted, first
from features.lake import Lake
from monitoring.accuracy import Floats, accuracy
from monitoring.halves import JoinedRow, OutcomeHalf, ResultHalf, join
from monitoring.outcomes import partition_of
from pipelines import archiver
from pipelines.settings import PipelineSettings
from schemas import envelope, topics
from schemas.flights import Outcome
from schemas.results import Joined, Result
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
from tests.conftest import stores_at
from tests.monitoring import rig

ROOT = Path(__file__).parents[2]
Records = Iterator[tuple[str, str, bytes]]


def pairs(count: int, seed: int) -> list[tuple[Result, Outcome]]:
    traffic = rig.traffic(seed=seed, start_ms=rig.T0_MS, rows=count, rows_a_day=1_000)
    return [(r, outcome_of(j)) for r, j in traffic]


def outcome_of(joined: Joined) -> Outcome:
    return Outcome(
        event_time_ms=joined.outcome_time_ms,
        request_id=joined.request_id,
        arr_delay=20.0 if joined.late else 0.0,
        late=joined.late,
    )


def result_records(case: str, found: list[tuple[Result, Outcome]]) -> Records:
    return ((f"{case}.results", r.key, r.encode()) for r, _ in found)


def outcome_records(case: str, found: list[tuple[Result, Outcome]]) -> Records:
    return ((f"{case}.outcomes.valid", o.key, o.encode()) for _, o in found)


@contextmanager
def join_process(
    case: str, kafka: KafkaSettings, folder: Path, *fault: str
) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.monitoring.outcome_process"]
    process = subprocess.Popen(
        [*command, case, kafka.bootstrap_servers, str(folder), *fault],
        cwd=ROOT,
        stdout=(folder / "out").open("a"),
        stderr=(folder / "log").open("a"),
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def joined_rows(kafka: KafkaSettings, case: str) -> dict[str, Joined]:
    values = rig.read_all(kafka, f"{case}.joined")
    rows = [Joined.model_validate_json(value) for value in values]
    return {row.request_id: row for row in reversed(rows)}


def test_kill_and_restart_lose_nothing_and_repeats_are_harmless(
    kafka: KafkaSettings, case: str, tmp_path: Path
) -> None:
    early, late = pairs(3_000, seed=1), pairs(1_000, seed=2)
    unanswered = pairs(50, seed=3)
    rig.produce(kafka, result_records(case, early + unanswered))
    with join_process(case, kafka, tmp_path) as process:
        rig.wait_until(lambda: '"results": 3' in (tmp_path / "out").read_text())
        rig.produce(kafka, outcome_records(case, early))
        rig.produce(kafka, outcome_records(case, late))
        time.sleep(1.5)
        process.kill()
    rig.produce(kafka, result_records(case, late))
    rig.produce(kafka, outcome_records(case, early[:200]))
    rig.produce(kafka, outcome_records(case, [changed(pair) for pair in early[100:300]]))
    with join_process(case, kafka, tmp_path) as process:
        expected = {r.request_id: (r.score, o.late, o.event_time_ms) for r, o in early + late}
        rig.wait_until(lambda: len(joined_rows(kafka, case)) >= len(expected))
        time.sleep(1.0)
        process.terminate()
        assert process.wait(20) == 0, (tmp_path / "log").read_text()
    rows = joined_rows(kafka, case).values()
    assert {r.request_id: (r.score, r.late, r.outcome_time_ms) for r in rows} == expected
    archived(
        case, kafka, tmp_path, results=4_050, joined=len(rig.read_all(kafka, f"{case}.joined"))
    )
    scores_agree(Lake(stores_at(tmp_path, "redis://unused")), case, unlabelled=50)


def changed(pair: tuple[Result, Outcome]) -> tuple[Result, Outcome]:
    """Somebody thinks better of it, an hour later."""
    result, outcome = pair
    later = {"late": not outcome.late, "event_time_ms": outcome.event_time_ms + 3_600_000}
    return result, outcome.model_copy(update=later)


def archived(case: str, kafka: KafkaSettings, folder: Path, **rows: int) -> None:
    """Results, outcomes and what was joined of them go to the lake."""
    stores = stores_at(folder, "redis://unused")
    lake = Lake(stores)
    tables = {name: topics.table_of(case)[f"{case}.{name}"].table for name in rows}
    ctx = WorkerContext(case, threading.Event(), lambda _: None)
    often = PipelineSettings(archive_interval_s=0.3)
    thread = threading.Thread(target=archiver.run, args=(ctx, kafka, stores, often))
    thread.start()
    rig.wait_until(lambda: all(lake.exists(table) for table in tables.values()))
    rig.wait_until(lambda: rows == {name: lake.rows(table) for name, table in tables.items()})
    ctx.stop.set()
    thread.join(30)


def scores_agree(lake: Lake, case: str, unlabelled: int) -> None:
    """The accuracy of record is the same from joined rows, each counted once, as from answers beside their outcomes."""
    beside = answers(lake, case)
    known = beside.filter(pc.is_valid(beside[OUTCOME]))
    assert beside.num_rows - known.num_rows == unlabelled
    assert contradicted(lake, case) == 200
    table = lake.scan(topics.table_of(case)[f"{case}.joined"].table)
    once = first(table)
    assert once.num_rows == known.num_rows <= table.num_rows
    assert accuracy(*columns(once, "late")) == accuracy(*columns(known, OUTCOME))


def columns(rows: pa.Table, label: str) -> tuple[Floats, Floats]:
    ordered = rows.sort_by("request_id")
    return ordered["score"].to_numpy(), ordered[label].to_numpy().astype(np.float64)


def test_a_half_is_forgotten_only_after_its_joined_row_is_safe(
    kafka: KafkaSettings, case: str, tmp_path: Path
) -> None:
    found = pairs(200, seed=7)
    rig.produce(kafka, result_records(case, found))
    with join_process(case, kafka, tmp_path) as process:
        rig.wait_until(lambda: '"waiting": 200' in (tmp_path / "out").read_text())
        process.terminate()
        assert process.wait(20) == 0, (tmp_path / "log").read_text()
    rig.produce(kafka, outcome_records(case, found))
    with join_process(case, kafka, tmp_path, "die-forgetting") as process:
        assert process.wait(120) == -signal.SIGKILL, (tmp_path / "log").read_text()
    with join_process(case, kafka, tmp_path):
        rig.wait_until(lambda: len(joined_rows(kafka, case)) >= len(found))


def test_a_stop_in_the_middle_of_a_batch_loses_nothing(
    kafka: KafkaSettings, case: str, tmp_path: Path
) -> None:
    found = pairs(200, seed=8)
    rig.produce(kafka, result_records(case, found))
    rig.produce(kafka, outcome_records(case, found))
    with join_process(case, kafka, tmp_path, "stop-joining") as process:
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
    assert not joined_rows(kafka, case)
    with join_process(case, kafka, tmp_path):
        rig.wait_until(lambda: len(joined_rows(kafka, case)) >= len(found))


def test_only_committed_results_are_joined_and_headers_are_cloud_events(
    kafka: KafkaSettings, case: str, tmp_path: Path
) -> None:
    aborted, committed = pairs(100, seed=4), pairs(100, seed=5)
    said = (tmp_path / "out").read_text
    producer = Producer(kafka.client_config(transactional_id=f"{case}-scorer"))
    producer.init_transactions(30)
    for found, end in (
        (aborted, producer.abort_transaction),
        (committed, producer.commit_transaction),
    ):
        producer.begin_transaction()
        for topic, key, value in result_records(case, found):
            producer.produce(topic, value, key)
        producer.flush(10)
        end(30)
    rig.produce(kafka, outcome_records(case, aborted + committed))
    with join_process(case, kafka, tmp_path):
        rig.wait_until(lambda: len(joined_rows(kafka, case)) >= 100)
        # Outcomes of requests that nobody knows are counted among what waits.
        rig.wait_until(lambda: '"joined": 100, "undecodable": 0, "waiting": 100' in said())
        time.sleep(1.0)
    assert joined_rows(kafka, case).keys() == {r.request_id for r, _ in committed}
    parents = {r.request_id: r.traceparent for r, _ in committed}
    consumer = Consumer(kafka.client_config(group_id=case, auto_offset_reset="earliest"))
    consumer.subscribe([f"{case}.joined"])
    message = consumer.poll(20)
    assert message is not None
    headers = dict(message.headers() or [])
    key = (message.key() or b"").decode()
    consumer.close()
    assert headers["ce_id"] == key.encode()
    assert headers["ce_type"] == b"headrace.joined"
    assert (envelope.header(message, "traceparent") or "")[:35] == parents[key][:35]


def test_what_was_read_in_many_transactions_is_committed_whole(
    kafka: KafkaSettings, case: str, tmp_path: Path
) -> None:
    """Each transaction leaves a marker among the offsets, which no consumer is given."""
    producer = Producer(kafka.client_config(transactional_id=f"{case}-scorer"))
    producer.init_transactions(30)
    for seed in range(60):
        producer.begin_transaction()
        for topic, key, value in result_records(case, pairs(20, seed=seed)):
            producer.produce(topic, value, key)
        producer.commit_transaction(30)
    with join_process(case, kafka, tmp_path) as process:
        rig.wait_until(lambda: '"results": 1200' in (tmp_path / "out").read_text())
        process.terminate()
        assert process.wait(20) == 0, (tmp_path / "log").read_text()
    # The last marker is behind the last record.
    assert [left for left in uncommitted(kafka, case).values() if left > 1] == []


def uncommitted(kafka: KafkaSettings, case: str) -> dict[int, int]:
    """Partition of the results → offsets that the join would read again."""
    asked = [ConsumerGroupTopicPartitions(f"{case}-outcomes")]
    admin = AdminClient(kafka.client_config())
    (told,) = admin.list_consumer_group_offsets(asked).values()
    places = [p for p in told.result().topic_partitions if p.topic == f"{case}.results"]
    consumer = Consumer(kafka.client_config(group_id=f"{case}-look"))
    ends = {p.partition: consumer.get_watermark_offsets(p, timeout=10)[1] for p in places}
    consumer.close()
    return {p.partition: ends[p.partition] - p.offset for p in places}


@pytest.mark.parametrize("request_id", ["a", "2013-06-01-UA-1545-EWR", "é"])
def test_a_request_id_has_one_home(request_id: str) -> None:
    assert partition_of(request_id) == partition_of(request_id)
    assert partition_of(request_id) in (0, 1)


def test_contracts_of_the_join_are_those_of_the_schemas() -> None:
    result, outcome = pairs(1, seed=6)[0]
    row = join(
        msgspec.json.decode(result.encode(), type=ResultHalf),
        msgspec.json.decode(outcome.encode(), type=OutcomeHalf),
    )
    assert set(JoinedRow.__struct_fields__) == set(Joined.model_fields)
    assert Joined.model_validate_json(msgspec.json.encode(row)).score == result.score
