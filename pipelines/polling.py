"""Batches of records from Kafka, and the errors that end a worker."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from schemas.errors import HeadraceError
from schemas.settings import KafkaSettings
from schemas.unreadable import Unreadable

BATCH_MAX = 2_000
START_TIMEOUT_S = 30.0
# How long a member that is gone holds its partitions, where its successor asks for other topics than it did.
SESSION_TIMEOUT_MS = 6_000

log = structlog.get_logger()


class KafkaUnavailable(HeadraceError):
    """The cluster did not answer, or refused this client."""


class SlotTaken(HeadraceError):
    """Another process holds the same place (transactional id, static membership): this one must end."""


def consumer_config(
    kafka: KafkaSettings,
    group: str,
    *,
    slot: str | None = None,
    topics: Sequence[str] = (),
    fetch_bytes: int = 1,
    fetch_ms: int = 50,
) -> dict[str, object]:
    """A consumer that reads committed records, commits nothing by itself and waits for nobody.

    Where the subscription changes, drop the consumer rather than `close()` it: closing serves a rebalance that is under way, and may
    wait there for ever with Python's lock held (librdkafka#4884). Nothing is lost: offsets are committed by us, and a static member
    does not leave its group by closing either.

    Args:
        kafka: Where and how.
        group: The consumer group.
        slot: A stable name for static membership: a successor takes over at once, and fences its predecessor, instead
            of waiting for the end of its session.
        topics: What a static member will subscribe to. They are part of its name: the broker gives a static member that
            comes back its old assignment without looking at what it asks for now.
        fetch_bytes: A fetch is answered once there is as much,
        fetch_ms: or after so long.
    """
    membership: dict[str, object] = {}
    if slot:
        digest = hashlib.blake2b("\n".join(sorted(topics)).encode(), digest_size=4).hexdigest()
        membership = {
            "group.instance.id": f"{slot}.{digest}",
            "session.timeout.ms": SESSION_TIMEOUT_MS,
        }
    return {
        **kafka.client_config(
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
        ),
        **membership,
        "fetch.wait.max.ms": fetch_ms,
        "fetch.min.bytes": fetch_bytes,
        "fetch.error.backoff.ms": 20,
    }


def poll(
    consumer: Consumer,
    timeout_s: float,
    batch_max: int = BATCH_MAX,
    unreadable: Unreadable | None = None,
) -> list[Message]:
    """The next batch, empty after `timeout_s` without a record. A lone record does not wait for company.

    With `unreadable`, what cannot be unfolded is stepped over: it comes without a value.

    Raises:
        SlotTaken: Another consumer has taken this one's place.
        KafkaUnavailable: The consumer cannot go on.
    """
    # `consume(n, timeout)` alone waits until n have come or the time is over.
    first = consumer.poll(timeout_s)
    if first is None:
        return []
    rest = consumer.consume(batch_max - 1, 0)
    came = unreadable.stepped_over(consumer, (first, *rest)) if unreadable else (first, *rest)
    return [message for message in came if _is_record(message)]


def next_offsets(messages: Iterable[Message]) -> list[TopicPartition]:
    """Where to go on reading after these messages: one past the last of each partition."""
    last: dict[tuple[str, int], int] = {}
    for message in messages:
        place = (str(message.topic()), int(message.partition() or 0))
        last[place] = max(last.get(place, -1), int(message.offset() or 0))
    return [TopicPartition(topic, part, offset + 1) for (topic, part), offset in last.items()]


def taken(slot: str, cause: object) -> SlotTaken:
    """The error of a fenced holder of `slot`."""
    return SlotTaken(
        slot,
        wanted="one process at a time in this place",
        came=f"another has taken it over ({cause})",
        mend="Stop one of the two.",
    )


def unavailable(where: str, error: KafkaException | KafkaError) -> KafkaUnavailable:
    """A Kafka error as a sentence; `where` is the address, or what was being done."""
    cause = error if isinstance(error, KafkaError) else error.args[0]
    return KafkaUnavailable(
        where,
        wanted="Kafka to answer and to allow it",
        came=str(cause.str()),
        mend="Is the broker up (`headrace status`), and may this user read and write there?",
    )


def _is_record(message: Message) -> bool:
    error = message.error()
    if error is None:
        return True
    if error.code() == KafkaError.FENCED_INSTANCE_ID:
        raise taken("consumer group", error.str())
    if error.fatal():
        raise unavailable("consumer", error)
    log.warning("consumer", topic=message.topic(), cause=error.str())
    return False
