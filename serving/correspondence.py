"""Requests on their way into Kafka, and the answers that come back for those who wait.

One loop owns all state; two threads speak with Kafka and hand it what they got, a batch at a time. Every committed result
and dead letter of the use case is read, by every door, from where the topics ended when it opened.

A request holds its place until its answer is there, whoever still waits for it: so what this door has put into the log and
nobody has answered is bounded, however slow the scorer is.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Event as Flag
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import structlog
import xxhash
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from schemas.client import NO_LEADER_YET
from schemas.envelope import REQUEST_DIGEST, TIMEOUT_MS, header, headers
from schemas.errors import HeadraceError
from schemas.quarantine import PREFIX
from schemas.settings import FETCH_WAIT_MS
from serving.open_inference import DEAD_LETTERED, Answer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from schemas.events import Event
    from schemas.settings import KafkaSettings
    from serving.settings import ServingSettings

log = structlog.get_logger()

CALL_TIMEOUT_S = 5.0
POLL_S = 0.1
CHUNK = 500
# A place is given back after so long without an answer: a request whose partition nobody answers must not shut the door
# for good.
FORGET_S = 120.0
# Newest answers kept: who asks again under the same id, after a time-out for one, is given the same answer.
KEPT = 10_000

Place = tuple[int, int]


class NotTaken(HeadraceError):
    """Kafka did not acknowledge a request. Where it may have taken it all the same, a repeat under its id is recognised."""


class TooLarge(HeadraceError):
    """A request is larger than its topic takes."""


class IdReused(HeadraceError):
    """The request's id belongs to another payload."""


class Full(HeadraceError):
    """As many requests as the settings allow are on their way."""


class Arrived(NamedTuple):
    """A result, or the dead letter of the record at `origin`."""

    request_id: str
    digest: str | None
    result: bytes | None
    letter: Answer | None = None
    origin: Place | None = None


@dataclass
class _Pending:
    digest: str
    began_s: float
    taken: asyncio.Future[Place]
    answer: asyncio.Future[Answer]
    letters: dict[Place, Answer] = field(default_factory=dict)


class Correspondence:
    """Not for sharing between loops: every method is called in the loop that made it.

    Args:
        kafka: The cluster.
        case: The use case.
        settings: The bounds of the door.
    """

    def __init__(self, kafka: KafkaSettings, case: str, settings: ServingSettings) -> None:
        self._kafka, self._case, self._settings = kafka, case, settings
        self._requests = f"{case}.requests"
        self._loop = asyncio.get_running_loop()
        self._pending: dict[str, _Pending] = {}
        self._answered: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._acknowledged: list[tuple[str, KafkaError | None, Place]] = []
        self._stop = Flag()
        self._consumer = self._new_consumer()
        self._assigned: set[Place] = set()
        try:
            self._follow_partitions(from_the_end=True)
        except KafkaException:
            self._consumer.close()
            raise
        self._producer = self._new_producer()
        self._threads = [Thread(target=run, daemon=True) for run in (self._read, self._take)]
        for thread in self._threads:
            thread.start()

    @property
    def on_their_way(self) -> int:
        """Requests published and not answered."""
        return len(self._pending)

    @property
    def alive(self) -> bool:
        """Whether both threads run; where one has ended, only a new process helps."""
        return all(thread.is_alive() for thread in self._threads)

    def room_for(self, rows: int) -> bool:
        """Whether so many more requests may be on their way; gives back places that are held for too long."""
        if len(self._pending) + rows > self._settings.door_in_flight_max:
            self._forget(time.monotonic() - FORGET_S)
        return len(self._pending) + rows <= self._settings.door_in_flight_max

    def new(self, events: Iterable[Event]) -> int:
        """How many of them are neither on their way nor answered lately: only those take a place."""
        return sum(e.id not in self._pending and e.id not in self._answered for e in events)

    def reach(self) -> bool:
        """Whether the broker answers and has the topic; blocks up to a second, so call it in another thread."""
        try:
            known = self._producer.list_topics(self._requests, timeout=1.0).topics
        except KafkaException:
            return False
        return known[self._requests].error is None

    async def publish(
        self, event: Event, traceparent: str | None, timeout_ms: int | None
    ) -> asyncio.Future[Answer]:
        """Publish a request and return, once Kafka has acknowledged it, what its answer will be in.

        One that is on its way already, or was answered lately, is not published again.

        Raises:
            Full: There is no room.
            IdReused: The id stands for another payload.
            NotTaken: Kafka did not acknowledge it in time.
            TooLarge: Its topic does not take it.
        """
        value = event.encode()
        digest = xxhash.xxh3_64_hexdigest(value)
        known = self._known(event.id, digest)
        if known is not None:
            return known
        if not self.room_for(1):
            raise _full(self._settings.door_in_flight_max)
        said = headers(event, source=f"headrace/{self._case}.door", traceparent=traceparent)
        if timeout_ms is not None:
            said.append((TIMEOUT_MS, str(timeout_ms).encode()))
        pending = _Pending(
            digest, time.monotonic(), self._loop.create_future(), self._loop.create_future()
        )
        self._pending[event.id] = pending
        try:
            self._produce(event, value, said)
            # The producer gives up by itself before that, unless it is beyond repair.
            wait_s = self._settings.door_publish_timeout_ms / 1000 + 1.0
            await asyncio.wait_for(asyncio.shield(pending.taken), wait_s)
        except TimeoutError as error:
            self._pending.pop(event.id, None)
            raise _not_taken(event.id, f"nothing within {wait_s} s") from error
        except HeadraceError:
            self._pending.pop(event.id, None)
            raise
        return pending.answer

    def close(self) -> None:
        """Stop both threads and give the connections back; what is on its way is answered all the same."""
        self._stop.set()
        for thread in self._threads:
            thread.join(CALL_TIMEOUT_S)
        self._producer.flush(CALL_TIMEOUT_S)
        self._consumer.close()

    def _known(self, request_id: str, digest: str) -> asyncio.Future[Answer] | None:
        pending = self._pending.get(request_id)
        answered = self._answered.get(request_id)
        if pending is not None:
            before, future = pending.digest, pending.answer
        elif answered is not None:
            before, future = answered[0], self._loop.create_future()
            future.set_result(msgspec.json.decode(answered[1], type=Answer))
        else:
            return None
        if before != digest:
            raise IdReused(
                f"request {request_id}",
                wanted="one payload under one id",
                came="the id stands for another",
                mend="Give the new request an id of its own.",
            )
        return future

    def _produce(
        self, event: Event, value: bytes, said: list[tuple[str, str | bytes | None]]
    ) -> None:
        request_id = event.id

        def delivered(error: KafkaError | None, message: Message) -> None:
            place = int(message.partition() or 0), int(message.offset() or 0)
            self._acknowledged.append((request_id, error, place))

        try:
            self._producer.produce(
                self._requests, key=event.key, value=value, headers=said, on_delivery=delivered
            )
        except BufferError as error:
            raise _not_taken(request_id, str(error)) from error
        except KafkaException as error:
            came: KafkaError = error.args[0]
            if came.fatal():
                # Nothing that it was given will be delivered any more; those who wait are told by their time-out.
                self._producer = self._new_producer()
            raise _why(request_id, came) from error

    def _forget(self, before_s: float) -> None:
        for request_id, pending in list(self._pending.items()):
            if pending.began_s < before_s:
                log.warning("door.forgotten", request_id=request_id)
                del self._pending[request_id]

    # In the loop.

    def _were_taken(self, taken: Iterable[tuple[str, KafkaError | None, Place]]) -> None:
        for request_id, error, place in taken:
            pending = self._pending.get(request_id)
            if pending is None or pending.taken.done():
                continue
            if error is not None:
                pending.taken.set_exception(_why(request_id, error))
                continue
            pending.taken.set_result(place)
            if place in pending.letters:
                self._settle(request_id, pending, pending.letters[place])

    def _have_arrived(self, arrived: Iterable[Arrived]) -> None:
        for one in arrived:
            pending = self._pending.get(one.request_id)
            if one.result is not None:
                self._answered[one.request_id] = (one.digest or "", one.result)
                if pending is not None and one.digest in (None, pending.digest):
                    answer = msgspec.json.decode(one.result, type=Answer)
                    self._settle(one.request_id, pending, answer)
            elif pending is not None and one.letter is not None and one.origin is not None:
                # A letter may be about another record of the same id: its origin tells.
                pending.letters[one.origin] = one.letter
                if pending.taken.done() and pending.taken.result() == one.origin:
                    self._settle(one.request_id, pending, one.letter)
        while len(self._answered) > KEPT:
            self._answered.popitem(last=False)

    def _settle(self, request_id: str, pending: _Pending, answer: Answer) -> None:
        del self._pending[request_id]
        if not pending.taken.done():
            pending.taken.set_result((-1, -1))
        if not pending.answer.done():
            pending.answer.set_result(answer)

    # In threads of their own.

    def _take(self) -> None:
        """Serve the producer: acknowledgements come while it is polled."""
        while not self._stop.is_set():
            self._producer.poll(POLL_S)
            if self._acknowledged:
                taken, self._acknowledged = self._acknowledged, []
                self._loop.call_soon_threadsafe(self._were_taken, taken)

    def _read(self) -> None:
        looked_s = time.monotonic()
        while not self._stop.is_set():
            first = self._consumer.consume(1, POLL_S)
            arrived = [
                one
                for message in (*first, *(self._consumer.consume(CHUNK, 0) if first else ()))
                if (one := self._arrival(message)) is not None
            ]
            if arrived:
                self._loop.call_soon_threadsafe(self._have_arrived, arrived)
            if time.monotonic() - looked_s > CALL_TIMEOUT_S:
                looked_s = time.monotonic()
                self._follow_partitions(from_the_end=False)

    def _arrival(self, message: Message) -> Arrived | None:
        error = message.error()
        if error is not None:
            if error.fatal():
                raise KafkaException(error)
            log.warning("door.read", error=str(error))
            return None
        request_id = header(message, "ce_id")
        if request_id is None:
            return None
        if message.topic() != self._requests + ".dlq":
            return Arrived(request_id, header(message, REQUEST_DIGEST), message.value())
        said = {name: header(message, PREFIX + name) or "" for name in ("reason", "rule", "detail")}
        origin = tuple(int(header(message, PREFIX + n) or -1) for n in ("partition", "offset"))
        letter = Answer(request_id, DEAD_LETTERED, reasons=tuple(said.values()))
        return Arrived(request_id, None, None, letter, (origin[0], origin[1]))

    def _follow_partitions(self, *, from_the_end: bool) -> None:
        """Read partitions that came to be since the last look; those are read from their beginning."""
        topics = {f"{self._case}.results": 0, f"{self._requests}.dlq": 1}
        try:
            known = self._consumer.list_topics(timeout=CALL_TIMEOUT_S).topics
            new = [
                TopicPartition(name, p, 0)
                for name, number in topics.items()
                if name in known
                for p in known[name].partitions
                if (number, p) not in self._assigned
            ]
            for at in new if from_the_end else ():
                at.offset = self._end(at)
        except KafkaException:
            if from_the_end:
                raise
            return
        if new:
            self._consumer.incremental_assign(new)
            self._assigned |= {(topics[at.topic], at.partition) for at in new}

    def _end(self, at: TopicPartition) -> int:
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while True:
            try:
                return self._consumer.get_watermark_offsets(at, timeout=CALL_TIMEOUT_S)[1]
            except KafkaException as error:
                # A topic that was created a moment ago.
                if error.args[0].code() not in NO_LEADER_YET or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _new_producer(self) -> Producer:
        timeout_ms = self._settings.door_publish_timeout_ms
        return Producer(
            self._kafka.client_config(
                acks="all",
                enable_idempotence=True,
                linger_ms=0,
                delivery_timeout_ms=timeout_ms,
                # At most what may be on its way; what is more is refused instead of waiting in here.
                queue_buffering_max_messages=self._settings.door_in_flight_max + 1,
            )
        )

    def _new_consumer(self) -> Consumer:
        return Consumer(
            self._kafka.client_config(
                group_id=f"{self._case}.door",
                isolation_level="read_committed",
                enable_auto_commit=False,
                auto_offset_reset="latest",
                fetch_wait_max_ms=FETCH_WAIT_MS,
            )
        )


def _full(bound: int) -> Full:
    return Full(
        "the door",
        wanted=f"at most {bound} requests on their way",
        came="there are as many",
        mend="Ask again after a while.",
    )


def _why(request_id: str, error: KafkaError) -> HeadraceError:
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return TooLarge(f"request {request_id}", wanted="what its topic takes", came=error.str())
    return _not_taken(request_id, error.str())


def _not_taken(request_id: str, came: str) -> NotTaken:
    return NotTaken(
        f"request {request_id}",
        wanted="Kafka's acknowledgement",
        came=came,
        mend="Ask again under the same id: should Kafka have taken it all the same, it is answered once.",
    )
