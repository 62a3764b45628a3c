"""Which requests were answered lately, so that one that is published twice is not answered twice.

The memory is bounded: per partition the newest `capacity` request ids, each with a digest of its payload, so that the same
id with another payload is not taken for a repeat. It is read back from the tail of the results when
a partition is taken over, which works because a result lies in the partition of its request. A repeat
that comes later than that is answered again, and so is one under another key, which lies in another partition; ids must
not be reused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.decoding import Refusal
from schemas.envelope import REQUEST_DIGEST, header
from schemas.errors import HeadraceError
from schemas.settings import KafkaSettings

READ_TIMEOUT_S = 10.0
_CHUNK = 5_000
# A result from before digests were written: any payload counts as the one that was answered.
UNKNOWN = ""
Known = tuple[str, str]


class TailUnreadable(HeadraceError):
    """The end of the results cannot be read, so nobody can say what was answered."""


class Recent:
    """The newest request ids of every partition owned (pure)."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._of: dict[int, OrderedDict[str, str]] = {}

    def digest(self, partition: int, request_id: str) -> str | None:
        """Of the payload that was answered under this id; None if none was, as far as is remembered."""
        known = self._of.get(partition)
        return None if known is None else known.get(request_id)

    def add(self, partition: int, answered: Iterable[Known]) -> None:
        """Remember these (id, digest) as answered, oldest first; the oldest beyond the capacity are forgotten."""
        known = self._of.setdefault(partition, OrderedDict())
        for request_id, digest in answered:
            known[request_id] = digest
            known.move_to_end(request_id)
        while len(known) > self._capacity:
            known.popitem(last=False)

    def replace(self, partition: int, answered: Iterable[Known]) -> None:
        """Forget the partition and remember these."""
        self._of.pop(partition, None)
        self.add(partition, answered)


def repeated(request_id: str, before: str, now: str) -> Refusal:
    """Why a request is not answered whose id was, given the digests of both payloads."""
    if before in (now, UNKNOWN):
        return Refusal(
            "duplicate", "request_id: not answered before", f"{request_id} has its result"
        )
    return Refusal(
        "id_reused",
        "request_id: one payload",
        f"{request_id} was answered for another payload: {before}, now {now}",
    )


def answered(
    kafka: KafkaSettings, topic: str, partitions: Iterable[int], capacity: int
) -> dict[int, list[Known]]:
    """The request ids of the newest committed results of each partition, oldest first, each with its payload's digest.

    Call it once no transaction of a previous owner is pending: that is so as soon as a record of the partition was
    consumed with read_committed, because the group's offset is withheld until then (KIP-447).

    Raises:
        TailUnreadable: The broker did not answer in time.
    """
    consumer = Consumer(
        kafka.client_config(
            group_id=f"{topic}.tail",
            isolation_level="read_committed",
            enable_auto_commit=False,
            enable_partition_eof=True,
            fetch_wait_max_ms=5,
        )
    )
    found: dict[int, list[Known]] = {p: [] for p in partitions}
    try:
        starts = [_start(consumer, topic, p, capacity) for p in found]
        consumer.assign([at for at in starts if at is not None])
        open_ = {at.partition for at in starts if at is not None}
        while open_:
            open_ -= _take(consumer, topic, found)
    except KafkaException as error:
        raise _unreadable(topic, str(error.args[0])) from error
    finally:
        consumer.close()
    return found


def _start(consumer: Consumer, topic: str, partition: int, capacity: int) -> TopicPartition | None:
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), READ_TIMEOUT_S)
    return TopicPartition(topic, partition, max(low, high - capacity)) if high > low else None


def _take(consumer: Consumer, topic: str, found: dict[int, list[Known]]) -> set[int]:
    """Take what is there; returns the partitions that came to their end."""
    ended = set()
    # One record, then whatever is queued: the end of a partition is reported like a record and must not be waited past.
    batch = consumer.consume(1, READ_TIMEOUT_S)
    if not batch:
        raise _unreadable(topic, f"nothing came within {READ_TIMEOUT_S} s")
    for message in (*batch, *consumer.consume(_CHUNK, 0)):
        error = message.error()
        partition = int(message.partition() or 0)
        if error is None:
            request_id = header(message, "ce_id")
            if request_id is not None:
                found[partition].append((request_id, header(message, REQUEST_DIGEST) or UNKNOWN))
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's name for it
            ended.add(partition)
        elif error.fatal():
            raise KafkaException(error)
    return ended


def _unreadable(topic: str, came: str) -> TailUnreadable:
    return TailUnreadable(
        topic, wanted="its newest results", came=came, mend="Is the broker up (`headrace status`)?"
    )
