"""The producer's five lines: publish requests, await results.

```python
from schemas.client import Client
from schemas.flights import FlightRequest

with Client("127.0.0.1:9092", case="flights") as client:
    result = client.ask(FlightRequest(request_id="…", event_time_ms=…, …))
```
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas.envelope import header, headers
from schemas.errors import HeadraceError
from schemas.quarantine import PREFIX
from schemas.results import Result
from schemas.settings import FETCH_WAIT_MS, KafkaSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from confluent_kafka import Message

    from schemas.events import Event

ASSIGN_TIMEOUT_S = 10.0
# A topic that was created a moment ago.
NO_LEADER_YET = (
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)


class ResultTimeout(HeadraceError):
    """No answer within the wait. The request is acknowledged and will be answered; read it from the results topic."""


class RequestRefused(HeadraceError):
    """The request broke its contract and lies in the dead letters, whole."""


class Client:
    """Publishes requests and awaits their results; one thread, one client.

    Only results that are committed are seen, and only those produced after the client was opened.
    """

    def __init__(self, kafka: KafkaSettings | str, *, case: str, source: str = "client") -> None:
        settings = KafkaSettings(bootstrap_servers=kafka) if isinstance(kafka, str) else kafka
        self._case, self._source = case, source
        self._requests = f"{case}.requests"
        self._producer = Producer(settings.client_config(enable_idempotence=True, linger_ms=0))
        self._consumer = Consumer(
            settings.client_config(
                group_id=f"{case}.client",
                isolation_level="read_committed",
                enable_auto_commit=False,
                fetch_wait_max_ms=FETCH_WAIT_MS,
            )
        )
        self._consumer.assign(self._ends([f"{case}.results", f"{case}.requests.dlq"]))

    def ask(self, request: Event, timeout_s: float = 10.0) -> Result:
        """Publish one request and await its result."""
        return self.ask_many([request], timeout_s)[0]

    def ask_many(self, requests: Sequence[Event], timeout_s: float = 10.0) -> list[Result]:
        """Publish requests together and await all their results, in the order of the requests.

        Raises:
            RequestRefused: One of them lies in the dead letters.
            ResultTimeout: Not all were answered within `timeout_s` of the last acknowledgement.
        """
        self.publish(requests)
        waiting = {request.id for request in requests}
        answers: dict[str, Result] = {}
        deadline = time.monotonic() + timeout_s
        while waiting and time.monotonic() < deadline:
            for message in self._consumer.consume(500, 0.05):
                self._take(message, waiting, answers)
        if waiting:
            raise ResultTimeout(
                f"{self._case}.results",
                wanted=f"{len(requests)} results within {timeout_s} s",
                came=f"{len(waiting)} are missing, {min(waiting)} among them",
                mend="They are acknowledged and will be answered; `headrace status` shows the lag.",
            )
        return [answers[request.id] for request in requests]

    def publish(self, requests: Sequence[Event]) -> None:
        """Publish requests and return once the broker has acknowledged every one."""
        failed: list[str] = []

        def delivered(error: object, _: Message) -> None:
            if error is not None:
                failed.append(str(error))

        for request in requests:
            self._produce(request, delivered)
        self._producer.flush()
        if failed:
            raise HeadraceError(
                self._requests,
                wanted="every request acknowledged",
                came=f"{len(failed)} were not: {failed[0]}",
                mend="Is the broker up (`headrace status`)? Publish them again under the same ids.",
            )

    def close(self) -> None:
        """Close both connections; harmless when repeated."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _produce(self, request: Event, delivered: Callable[[object, Message], None]) -> None:
        while True:
            try:
                self._producer.produce(
                    self._requests,
                    key=request.key,
                    value=request.encode(),
                    headers=headers(request, source=self._source),
                    on_delivery=delivered,
                )
            except BufferError:
                self._producer.poll(0.05)
            else:
                return

    def _take(self, message: Message, waiting: set[str], answers: dict[str, Result]) -> None:
        if message.error():
            raise KafkaException(message.error())
        request_id = header(message, "ce_id")
        if request_id not in waiting:
            return
        if message.topic() == self._requests + ".dlq":
            raise RequestRefused(
                f"request {request_id}",
                wanted=f"its contract kept ({header(message, PREFIX + 'rule')})",
                came=header(message, PREFIX + "detail") or "it was not",
            )
        value = message.value()
        if value is not None:
            answers[request_id] = Result.model_validate_json(value)
            waiting.discard(request_id)

    def _ends(self, topics: list[str]) -> list[TopicPartition]:
        known = self._consumer.list_topics(timeout=ASSIGN_TIMEOUT_S).topics
        missing = [name for name in topics if name not in known]
        if missing:
            raise HeadraceError(
                f"topic {missing[0]}",
                wanted="it to exist",
                came="the broker does not know it",
                mend="Create the topics of the use case: `headrace topics apply`.",
            )
        # OFFSET_END would be resolved at the first fetch: an answer that came before it would never be seen.
        return [self._end(TopicPartition(t, p)) for t in topics for p in known[t].partitions]

    def _end(self, at: TopicPartition) -> TopicPartition:
        deadline = time.monotonic() + ASSIGN_TIMEOUT_S
        while True:
            try:
                _, high = self._consumer.get_watermark_offsets(at, timeout=ASSIGN_TIMEOUT_S)
            except KafkaException as error:
                if error.args[0].code() not in NO_LEADER_YET or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return TopicPartition(at.topic, at.partition, high)
