"""The stream executor's part in a certificate: hostile events through the very Flink job of a view.

Each view runs under a name of its own, from a topic of its own to a topic of its own, so nothing of what is applied is
touched, whatever happens; topics and jobs are gone afterwards.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

import msgspec
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from features.certify import Emitted
from features.hostile import Event
from features.row_events import events_of
from features.tile_row import TileRowDecoder
from features.views import View
from pipelines.flink_jobs import FlinkJobs, TooFewSlots, submit
from pipelines.flink_sql import job
from pipelines.settings import FlinkSettings
from schemas import topics
from schemas.envelope import ORIGIN_OFFSET
from schemas.errors import HeadraceError
from schemas.settings import KafkaSettings

TOPIC = "headrace.certify"
# More than one, so that the events of a key reach the job in an order that nobody chose.
PARTITIONS = 2
# The job starts within seconds; the rest is for a machine that does everything else meanwhile.
SILENCE_S = 120.0
CLEAN_TIMEOUT_S = 30.0
SLOTS_TIMEOUT_S = 20.0
# After the last expected row, that none comes that was not.
SETTLE_S = 1.0

Say = Callable[[str], None]


class StreamSilent(HeadraceError):
    """The Flink job did not give the tiles of all events."""


def rows_of(
    streams: Mapping[str, tuple[View, Sequence[Event]]],
    kafka: KafkaSettings,
    flink: FlinkSettings,
    say: Say = lambda _: None,
) -> Iterator[tuple[str, list[Emitted]]]:
    """The tile rows of each view's events, as many views at a time as the cluster has free slots.

    Args:
        streams: View name → the view and its events in order of arrival.
        kafka: Where the temporary topics go.
        flink: The session cluster.
        say: Told what takes long.

    Raises:
        TooFewSlots, StreamSilent, FlinkUnavailable, SubmissionFailed, TopicError: see there.
    """
    waiting = list(streams)
    while waiting:
        room = _room(flink)
        batch, waiting = waiting[:room], waiting[room:]
        say(f"submitting {', '.join(batch)}")
        with _running([streams[name] for name in batch], kafka, flink, say) as renamed:
            for name, view in zip(batch, renamed, strict=True):
                say(f"{name}: waiting for its tiles")
                yield name, _read(view, _wanted(view, streams[name][1]), kafka)


def _room(flink: FlinkSettings) -> int:
    """How many jobs the cluster has slots for; those of jobs that were cancelled are free a moment later."""
    deadline_s = time.monotonic() + SLOTS_TIMEOUT_S
    with FlinkJobs(flink) as cluster:
        while not (room := cluster.slots_free() // flink.parallelism):
            if time.monotonic() > deadline_s:
                raise TooFewSlots(
                    f"Flink at {flink.rest_address}:{flink.rest_port}",
                    wanted=f"{flink.parallelism} free task slots",
                    came="all are taken",
                    mend="Raise local.flink_slots (taskmanager.numberOfTaskSlots), or stop a job.",
                )
            time.sleep(0.2)
    return room


@contextmanager
def _running(
    streams: Sequence[tuple[View, Sequence[Event]]],
    kafka: KafkaSettings,
    flink: FlinkSettings,
    say: Say,
) -> Iterator[list[View]]:
    """The views' jobs under temporary names; whatever happens, they and their topics are gone afterwards."""
    run = uuid.uuid4().hex[:8]
    views = [_renamed(view, run) for view, _ in streams]
    made = [
        topic
        for view in views
        for topic in (
            topics.Topic(view.topic, None, "none", PARTITIONS, stage="certify"),
            topics.tile_topic(view.topic_out),
        )
    ]
    try:
        topics.create(kafka, made)
        for view, (_, events) in zip(views, streams, strict=True):
            _produce(view.topic, events, kafka)
        submit([job(view, kafka, flink) for view in views], flink)
        yield views
    finally:
        try:
            _cancel(views, flink)
        finally:
            groups = [view.topic_out for view in views]
            _delete([topic.name for topic in made], groups, kafka, say)


def _renamed(view: View, run: str) -> View:
    return msgspec.structs.replace(
        view, name=f"certify_{run}_{view.name}", topic=f"{TOPIC}.{run}.{view.name}"
    )


def _produce(topic: str, events: Sequence[Event], kafka: KafkaSettings) -> None:
    producer = Producer(kafka.client_config(linger_ms=50))
    for offset, event in enumerate(events):
        headers: list[tuple[str, str | bytes | None]] = [(ORIGIN_OFFSET, str(offset).encode())]
        producer.produce(topic, msgspec.json.encode(event), headers=headers)
        producer.poll(0)
    left = producer.flush(SILENCE_S)
    if left:
        raise StreamSilent(f"topic {topic}", wanted=f"{len(events)} events", came=f"{left} stuck")


def _wanted(view: View, events: Sequence[Event]) -> dict[int, int]:
    """How many events the tiles of each hop must count in the end."""
    names = [key.name for key in view.join_keys]
    counted = sum(all(e[n] is not None for n in names) for e in events_of(view, events))
    return {layout.hop_s: counted for layout in view.layouts}


def _read(view: View, wanted: Mapping[int, int], kafka: KafkaSettings) -> list[Emitted]:
    """Every row of the view's topic, until the tiles count all events."""
    config = kafka.client_config(group_id=view.topic_out, enable_auto_commit=False)
    consumer = Consumer({**config, "isolation.level": "read_committed"})
    consumer.assign([TopicPartition(view.topic_out, 0, OFFSET_BEGINNING)])
    decoder = TileRowDecoder(view)
    counts: dict[tuple[object, int, int], int] = {}
    rows: list[Emitted] = []
    told_s = time.monotonic()
    try:
        while True:
            batch = [m.value() for m in consumer.consume(5_000, SETTLE_S) if m.error() is None]
            for emitted in filter(None, map(decoder.decode, batch)):
                rows.append(emitted)
                key, row = emitted
                place = (key, row.hop_s, row.tile)
                counts[place] = max(counts.get(place, 0), row.n)
            held = {hop: sum(n for (_, of, _), n in counts.items() if of == hop) for hop in wanted}
            if batch:
                told_s = time.monotonic()
            elif held == wanted:
                return rows
            elif time.monotonic() - told_s > SILENCE_S:
                raise _silent(view, wanted, held)
    finally:
        consumer.close()


def _silent(view: View, wanted: Mapping[int, int], held: Mapping[int, int]) -> StreamSilent:
    return StreamSilent(
        f"Flink job of view {view.name}",
        wanted=f"tiles that count {dict(wanted)} events by hop",
        came=f"they count {dict(held)} after {SILENCE_S:.0f} s of silence",
        mend="Look at the job's exceptions on Flink's page (`headrace status` has its address).",
    )


def _cancel(views: Sequence[View], flink: FlinkSettings) -> None:
    with FlinkJobs(flink) as cluster:
        cluster.cancel([running for view in views for running in cluster.of_view(view.name)])


def _delete(names: Sequence[str], groups: Sequence[str], kafka: KafkaSettings, say: Say) -> None:
    admin = AdminClient(kafka.client_config())
    futures: dict[str, Future[None]] = {
        **admin.delete_topics(list(names), operation_timeout=CLEAN_TIMEOUT_S),
        **admin.delete_consumer_groups(list(groups)),
    }
    for name, future in futures.items():
        try:
            future.result(CLEAN_TIMEOUT_S)
        except KafkaException as error:
            # A group is there only once a checkpoint was made. What stays is named for who must remove it.
            if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                say(f"left behind: {name}: {error.args[0].str()}")
