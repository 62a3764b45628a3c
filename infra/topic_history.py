"""A use case's requests, results and dead letters as a history that can be judged while it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Self

from confluent_kafka import Consumer, KafkaException, TopicPartition

from infra.exactly_once import Asked, Given, History, Place, Refused
from infra.topic_scan import METADATA_TIMEOUT_S, told
from schemas.envelope import header
from schemas.errors import HeadraceError
from schemas.quarantine import PREFIX

if TYPE_CHECKING:
    from confluent_kafka import Message

    from schemas.settings import KafkaSettings


class HistoryUnreadable(HeadraceError):
    """The broker did not let a topic be read."""


def read(
    kafka: KafkaSettings,
    case: str,
    *,
    requests: Iterable[str],
    since_ms: int | None = None,
    taken: Callable[[], Iterable[Place]] = tuple,
    progress: Callable[[str], None] = lambda _: None,
) -> History:
    """Read the topics, in the order that `History` asks for.

    Args:
        kafka: The cluster.
        case: The use case.
        requests: Its request topics, one a lane.
        since_ms: Only what the broker received then or later; None reads all there is.
        taken: Called first: the places of results that a reader has taken for committed.
        progress: Told what is being read, and how far it is.

    Raises:
        HistoryUnreadable: The broker is away, or refuses.
    """
    lanes, results = list(requests), f"{case}.results"
    try:
        with _Offsets(kafka, f"{case}.scorer") as offsets:
            seen = list(taken())
            consumed = offsets.consumed(lanes)
            given = [given_of(m) for m in _since(kafka, results, offsets, since_ms, progress)]
            refused = [
                refused_of(m)
                for lane in lanes
                for m in _since(kafka, f"{lane}.dlq", offsets, since_ms, progress)
            ]
            asked = [
                asked_of(m)
                for lane in lanes
                for m in _since(kafka, lane, offsets, since_ms, progress)
            ]
            first = offsets.first(results)
            return History(
                asked=asked,
                given=given,
                refused=refused,
                consumed=consumed,
                consumed_after=offsets.consumed(lanes),
                cut=since_ms is not None or any(any(offsets.first(n).values()) for n in lanes),
                read=[
                    p for p in seen if p.topic == results and p.offset >= first.get(p.partition, 0)
                ],
            )
    except KafkaException as error:
        raise HistoryUnreadable(
            f"topics of {case} on {kafka.bootstrap_servers}",
            wanted="requests, results and dead letters",
            came=str(error.args[0]),
            mend="Is the broker up (`headrace status`)?",
        ) from error


def place_of(message: Message) -> Place:
    """Where a record lies."""
    return Place(str(message.topic()), int(message.partition() or 0), int(message.offset() or 0))


def id_of(message: Message) -> str:
    """A request's id: by its header, or where that is missing by its value; empty where neither says it."""
    said = header(message, "ce_id")
    if said:
        return said
    try:
        value = json.loads(message.value() or b"{}")
    except ValueError:
        return ""
    found = value.get("request_id") if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def asked_of(message: Message) -> Asked:
    """A record of a request topic."""
    return Asked(place_of(message), _key(message), id_of(message))


def given_of(message: Message) -> Given:
    """A result."""
    return Given(place_of(message), _key(message), id_of(message))


def refused_of(message: Message) -> Refused:
    """A dead letter, with the place of what was refused."""
    said = [header(message, PREFIX + name) for name in ("topic", "partition", "offset")]
    topic, partition, offset = said
    origin = None
    if topic and partition and offset:
        origin = Place(topic, int(partition), int(offset))
    return Refused(place_of(message), origin, id_of(message))


def _key(message: Message) -> bytes:
    key = message.key() or b""
    return key.encode() if isinstance(key, str) else key


def _since(
    kafka: KafkaSettings,
    topic: str,
    offsets: _Offsets,
    since_ms: int | None,
    progress: Callable[[str], None],
) -> Iterator[Message]:
    begin = offsets.at(topic, since_ms) if since_ms is not None else None
    return told(kafka, topic, progress, begin)


class _Offsets:
    """What the broker says of a group and of topics, by a consumer that joins nothing."""

    def __init__(self, kafka: KafkaSettings, group: str) -> None:
        self._consumer = Consumer(kafka.client_config(group_id=group, enable_auto_commit=False))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def consumed(self, topics: list[str]) -> dict[tuple[str, int], int]:
        """The group's committed offsets; 0 where it has none."""
        asked = [TopicPartition(t, p) for t in topics for p in self._partitions(t)]
        found = self._consumer.committed(asked, METADATA_TIMEOUT_S) if asked else []
        return {(p.topic, p.partition): max(0, p.offset) for p in found}

    def first(self, topic: str) -> dict[int, int]:
        """The oldest offset that each partition still holds."""
        return {
            p: self._consumer.get_watermark_offsets(TopicPartition(topic, p), METADATA_TIMEOUT_S)[0]
            for p in self._partitions(topic)
        }

    def at(self, topic: str, time_ms: int) -> Mapping[int, int]:
        """The first offset that was received at that time or later; the end where none was."""
        asked = [TopicPartition(topic, p, time_ms) for p in self._partitions(topic)]
        found = self._consumer.offsets_for_times(asked, METADATA_TIMEOUT_S) if asked else []
        return {p.partition: p.offset if p.offset >= 0 else self._end(p) for p in found}

    def _end(self, at: TopicPartition) -> int:
        place = TopicPartition(at.topic, at.partition)
        return int(self._consumer.get_watermark_offsets(place, METADATA_TIMEOUT_S)[1])

    def _partitions(self, topic: str) -> list[int]:
        known = self._consumer.list_topics(timeout=METADATA_TIMEOUT_S).topics
        return list(known[topic].partitions) if topic in known else []
