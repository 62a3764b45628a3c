"""Results meet their outcomes: `<case>.results` + `<case>.outcomes.valid` → `<case>.joined`, by request id (Faust).

```
results (key: entity) ──┐ forward                                  ┌─► joined (key: request_id)
                        ├────────► <app>-halves (key: request_id) ─┤
outcomes.valid ─────────┘           2 partitions                   └─► <app>-waiting (key: request_id, compacted)
```

Both sides go through one topic of the app's own, because they are not co-partitioned: results are keyed by entity and
have other partitions, and outcomes were partitioned by librdkafka's hash, not by this app's.

Delivery is at least once and every effect is an upsert by request id, so repeats change nothing. A source offset is
acknowledged only after the broker has acknowledged what followed from it – the joined rows first, the changes of what
waits after them. (Its `exactly_once` loses joins: faust#323, #517.)
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from monitoring.half_log import HalfLog
from monitoring.halves import (
    OUTCOME,
    RESULT,
    Change,
    Forwarded,
    Half,
    OutcomeHalf,
    Pair,
    ResultHalf,
    WaitingHalves,
    Watermarks,
    encode,
    join,
)
from schemas import topics
from schemas.envelope import child_traceparent, raw_headers

if TYPE_CHECKING:
    from monitoring.settings import MonitoringSettings
    from schemas.settings import KafkaSettings
    from schemas.worker import WorkerContext

DAY_MS = 86_400_000
PARTITIONS = 2
BATCH_ROWS_MAX = 500
BATCH_WAIT_S = 0.05
REPORT_INTERVAL_S = 1.0
# The defaults leave a killed worker's partitions unowned for 59 s.
SESSION_TIMEOUT_S = 6.0
HEARTBEAT_INTERVAL_S = 1.0

log = structlog.get_logger()


def run(ctx: WorkerContext, kafka: KafkaSettings, monitoring: MonitoringSettings) -> None:
    """Join until `ctx.stop` is set. The topics of the use case must exist.

    Raises:
        Exception: Whatever made the Faust app crash; the supervisor starts the worker again.
    """
    asyncio.run(_serve(ctx, kafka, monitoring))


async def _serve(ctx: WorkerContext, kafka: KafkaSettings, monitoring: MonitoringSettings) -> None:
    app = new_app(ctx.case, kafka, monitoring)
    outcome_join = OutcomeJoin(app, ctx.case, kafka, monitoring)
    await app.start()
    try:
        while not ctx.stop.is_set() and not app.should_stop:
            ctx.report(outcome_join.counters())
            await asyncio.sleep(REPORT_INTERVAL_S)
    finally:
        await app.stop()
    if app.crash_reason is not None:
        raise app.crash_reason


def new_app(case: str, kafka: KafkaSettings, monitoring: MonitoringSettings) -> Any:  # noqa: ANN401
    """A Faust app for this process; its id, `<case>-outcomes`, prefixes the topics it makes for itself."""
    # Faust takes seconds to import and belongs to this worker alone.
    import faust  # noqa: PLC0415

    from monitoring.committed_transport import CommittedTransport  # noqa: PLC0415

    class JoinApp(faust.App):
        """An app that reads only what is committed."""

        def _new_transport(self) -> CommittedTransport:
            return CommittedTransport(self.conf.broker_consumer, self)

    servers = ";".join(f"kafka://{s.strip()}" for s in kafka.bootstrap_servers.split(","))
    return JoinApp(
        f"{case}-outcomes",
        broker=servers,
        broker_credentials=credentials(kafka),
        broker_session_timeout=SESSION_TIMEOUT_S,
        broker_heartbeat_interval=HEARTBEAT_INTERVAL_S,
        broker_commit_interval=1.0,
        # A batch that failed is read again from what was acknowledged, not gone on from with what it left in memory.
        agent_supervisor="mode.supervisors.CrashingSupervisor",
        consumer_auto_offset_reset="earliest",
        datadir=monitoring.faust_dir,
        processing_guarantee="at_least_once",
        producer_acks=-1,
        producer_linger=0.005,
        stream_wait_empty=False,
        topic_disable_leader=True,
        topic_partitions=PARTITIONS,
        topic_replication_factor=kafka.replication_factor,
        web_enabled=False,
    )


def credentials(kafka: KafkaSettings) -> Any:  # noqa: ANN401
    """The cluster's credentials as Faust wants them; None for plain text."""
    import faust  # noqa: PLC0415

    context = None
    if kafka.security_protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=kafka.ssl_ca_location)
    if kafka.security_protocol.startswith("SASL"):
        password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else None
        return faust.SASLCredentials(
            username=kafka.sasl_username,
            password=password,
            ssl_context=context,
            mechanism=kafka.sasl_mechanism,
        )
    return faust.SSLCredentials(context) if context else None


def partition_of(request_id: str) -> int:
    """The partition of the app's own topics where this id is at home."""
    return zlib.crc32(request_id.encode()) % PARTITIONS


@dataclass
class Counters:
    """What went through since the start."""

    results: int = 0
    outcomes: int = 0
    joined: int = 0
    undecodable: int = 0


class OutcomeJoin:
    """The app's three agents and what they share."""

    def __init__(
        self,
        app: Any,  # noqa: ANN401
        case: str,
        kafka: KafkaSettings,
        monitoring: MonitoringSettings,
    ) -> None:
        self._app = app
        self._monitoring = monitoring
        self._source = f"headrace/{case}/outcomes"
        self._counters = Counters()
        self._waiting: dict[int, WaitingHalves] = {}
        table = topics.table_of(case)
        results, outcomes = table[f"{case}.results"], table[f"{case}.outcomes{topics.VALID_SUFFIX}"]
        self._partitions = {RESULT: results.partitions, OUTCOME: outcomes.partitions}
        self._halves = app.topic(f"{app.conf.id}-halves", internal=True, **_raw(PARTITIONS))
        self._joined = app.topic(f"{case}.joined", **_raw())
        log_topic = app.topic(
            f"{app.conf.id}-waiting",
            internal=True,
            compacting=True,
            deleting=False,
            **_raw(PARTITIONS),
        )
        self._log = HalfLog(log_topic, kafka)
        app.on_partitions_revoked.connect(self._forget, weak=False)
        self._listen(results, msgspec.json.Decoder(ResultHalf).decode, "results")
        self._listen(outcomes, msgspec.json.Decoder(OutcomeHalf).decode, "outcomes")
        app.agent(self._halves, name="join")(self._join)

    def counters(self) -> dict[str, float | int | str]:
        """For `ctx.report`."""
        waiting = self._waiting.values()
        return {
            **vars(self._counters),
            "waiting": sum(len(w) for w in waiting),
            "evicted": sum(w.evicted for w in waiting),
        }

    def _listen(self, topic: topics.Topic, decode: Callable[[bytes], Half], counter: str) -> None:
        async def forward(stream: Any) -> None:  # noqa: ANN401
            async for events in stream.noack_take(BATCH_ROWS_MAX, within=BATCH_WAIT_S):
                await _delivered([await self._forward(e.message, decode) for e in events])
                await _acknowledge(stream, events)
                setattr(self._counters, counter, getattr(self._counters, counter) + len(events))

        channel = self._app.topic(topic.name, **_raw())
        self._app.agent(channel, name=f"forward-{counter}")(forward)

    async def _forward(
        self,
        message: Any,  # noqa: ANN401
        decode: Callable[[bytes], Half],
    ) -> Awaitable[Any] | None:
        try:
            half = decode(message.value)
        except (msgspec.DecodeError, TypeError):
            # Both topics hold what the platform itself has judged: a mistake of ours, to be seen and passed by.
            self._counters.undecodable += 1
            log.exception(
                "undecodable",
                topic=message.topic,
                partition=message.partition,
                offset=message.offset,
            )
            return None
        delivery: Awaitable[Any] = await self._halves.send(
            key=half.request_id.encode(),
            value=encode(Forwarded(message.partition, half)),
            partition=partition_of(half.request_id),
        )
        return delivery

    async def _join(self, stream: Any) -> None:  # noqa: ANN401
        decode = msgspec.json.Decoder(Forwarded).decode
        async for events in stream.noack_take(BATCH_ROWS_MAX, within=BATCH_WAIT_S):
            # One look for the whole batch: partitions revoked meanwhile are forgotten for the next one only.
            stores = {p: await self._waiting_at(p) for p in {e.message.partition for e in events}}
            joined: list[Awaitable[Any] | None] = []
            changes: list[tuple[int, Change]] = []
            for event in events:
                partition = event.message.partition
                forwarded = decode(event.message.value)
                pair, changed = stores[partition].offer(forwarded.origin, forwarded.half)
                changes += [(partition, change) for change in changed]
                if pair is not None:
                    joined.append(await self._publish(pair))
                    self._counters.joined += 1
            for partition, store in stores.items():
                changes += [(partition, change) for change in store.evict()]
            # A half may be forgotten only when its joined row is safe: killed between the two, the other half comes
            # again and must find it.
            await _delivered(joined)
            await _delivered([await self._log.write(*change) for change in changes])
            await _acknowledge(stream, events)

    async def _waiting_at(self, partition: int) -> WaitingHalves:
        if partition not in self._waiting:
            self._waiting[partition] = WaitingHalves(
                await self._log.read(partition),
                Watermarks(self._partitions),
                keep_ms=int(self._monitoring.unlabelled_keep_days * DAY_MS),
                rows_max=self._monitoring.unlabelled_rows_max,
            )
        return self._waiting[partition]

    async def _forget(self, *_: object, **__: object) -> None:
        """What waits is read anew when a partition comes back: another worker may have had it."""
        self._waiting.clear()

    async def _publish(self, pair: Pair) -> Awaitable[Any]:
        row = join(*pair)
        delivery: Awaitable[Any] = await self._joined.send(
            key=row.request_id.encode(),
            value=encode(row),
            headers=raw_headers(
                event_id=row.request_id,
                event_type="headrace.joined",
                event_time_ms=row.event_time_ms,
                source=self._source,
                traceparent=child_traceparent(pair[0].traceparent),
            ),
        )
        return delivery


async def _delivered(deliveries: list[Awaitable[Any] | None]) -> None:
    await asyncio.gather(*(d for d in deliveries if d is not None))


async def _acknowledge(stream: Any, events: list[Any]) -> None:  # noqa: ANN401
    """Only now: `take_events` would do so on its way out of a batch that was given up, too."""
    for event in events:
        await stream.ack(event)


def _raw(partitions: int | None = None) -> dict[str, Any]:
    return {
        "partitions": partitions,
        "key_type": bytes,
        "value_type": bytes,
        "key_serializer": "raw",
        "value_serializer": "raw",
    }
