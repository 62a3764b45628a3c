"""The loop of a replica: poll, decode, read features, predict, and one transaction for it all.

It needs neither Ray nor a web server, so it runs as well in a plain process; `serving.replica` puts it into a Ray Serve
replica.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import xxhash
from confluent_kafka import Message

from features import plan_files
from features.rings import OnlineStoreUnavailable
from features.settings import StoreSettings
from features.vectors import VectorReader, Vectors
from features.views import Plan
from schemas import requirements, topics, usecase
from schemas.decoding import Refusal, decode
from schemas.envelope import REQUEST_DIGEST, header, raw_headers
from schemas.errors import HeadraceError
from schemas.events import Event
from schemas.quarantine import dead_letter
from schemas.requirements import Stale
from schemas.results import Status
from schemas.settings import KafkaSettings
from schemas.timed_calls import TimedCalls
from serving import runtime, scoring
from serving.asking import Asking
from serving.channel import Channel
from serving.declared import Fallback, declared
from serving.observer import Observer
from serving.output_contract import Output
from serving.own_reader import OwnReader
from serving.recent import Recent, answered, repeated
from serving.release_watch import ReleaseWatch
from serving.scoring import Answer, Batch, Rules, Serving
from serving.settings import ServingSettings
from serving.slot_producer import Outgoing
from serving.staleness import Staleness, limits_ms
from serving.stopwatch import Took
from serving.tiers import Placing
from serving.trust import Trust

log = structlog.get_logger()

IDLE_S = 0.05
# A store that does not answer is asked again this much later; until then the rule answers without waiting for it.
STORE_RETRY_S = 1.0
# Longer than this between two turns of the loop is not work any more: the worst transaction with its abort, a new
# producer and the committed offsets take 5 + 5 + 13 + 5 s.
STUCK_S = 30.0
# How often it is asked what the owned partitions hold; who scales by it looks no more often.
LAG_EVERY_S = 1.0


class ServiceMoved(HeadraceError):
    """The service of this replica was given another meaning."""


class Scorer:
    """One replica. `run` blocks in the thread that calls it; everything else may be called from any thread.

    Args:
        case: The use case.
        kafka: The cluster.
        stores: The online store and the plan. Another version of a view is read from the next batch on.
        settings: Bounds of a batch, timeouts, and the model folder.
        slot: A number that no other live replica has.
    """

    def __init__(
        self,
        case: str,
        kafka: KafkaSettings,
        stores: StoreSettings,
        settings: ServingSettings,
        *,
        slot: int = 0,
    ) -> None:
        self._case, self._kafka, self._stores, self._settings = case, kafka, stores, settings
        self._slot = slot
        contracts, rules = usecase.load("schemas", case), usecase.load("serving", case)
        self._plan_stamp = plan_files.stamp(stores.plan_path)
        plan = Plan.load(stores.plan_path)
        self._contract: type[Event] = contracts.REQUEST
        self._expected = runtime.Expected.of(case, plan)
        self._reader = VectorReader(stores, plan, contracts.SERVICE)
        self._own = self._own_reader()
        self._join_keys = self._reader.entity_columns
        signed = requirements.load(case)
        self._freshness = signed.freshness if signed else None
        stale = self._freshness.stale if self._freshness else Stale.MARK
        self._staleness = self._new_staleness(plan)
        declares = declared(case, self._expected.inputs, stale)
        self._placing = Placing(
            declares.tiers,
            runtime.available(),
            settings.gpu,
            settings.batch_rows_max,
        )
        self._placing.check()
        self._trust = Trust(Path(settings.trust_dir)) if settings.trust_dir else None
        self._calls: TimedCalls[Output] = TimedCalls(declares.predict_ms_max / 1000)
        self._asking = Asking(
            declares.contract,
            declares.breaker,
            predict_ms_max=declares.predict_ms_max,
            retry=Fallback.RETRY in declares.fallbacks,
        )
        self._rules = Rules(
            inputs=contracts.INPUTS,
            features=self._reader.service.names,
            fallback=declares.rule,
            threshold=declares.threshold,
            fallbacks=declares.fallbacks,
            fresh_ms=_fresh_ms(plan, declares.fresh_s),
            stale=stale,
        )
        self._deadline_ms: int | None = getattr(rules, "DEADLINE_MS", None)
        self._recent = Recent(settings.recent_ids)
        self._counts: Counter[str] = Counter()
        self._observer = Observer(settings, case, slot)
        self._epoch = 0
        self._owned: frozenset[int] = frozenset()
        self._watch: ReleaseWatch | None = None
        self._store_retry_at_s = 0.0
        self._turned_s = time.monotonic()
        self._lag_at_s = 0.0
        self.lag = 0

    def run(self, stop: threading.Event) -> None:
        """Score until `stop` is set, then leave the group with everything committed.

        While there is no release whose champion can be loaded, nothing is polled: requests wait in the log.

        Raises:
            HeadraceError: The replica cannot go on; what was not committed, its successor answers.
        """
        channel: Channel | None = None
        try:
            with ReleaseWatch(self._kafka, self._case, self._load, self._doubts) as watch:
                self._watch = watch
                while not stop.is_set():
                    self._turned_s = time.monotonic()
                    serving = watch.serving
                    if serving is None:
                        stop.wait(IDLE_S)
                        continue
                    channel = channel or self._open()
                    self._turn(channel, serving)
        finally:
            if channel is not None:
                channel.close()
            self._reader.close()
            self._observer.close()
            self._calls.close()
            log.info("scorer.ended", **self.counters())

    def move_to(self, slot: int) -> None:
        """Take another slot before the next batch."""
        self._slot = slot

    def stuck_s(self) -> float:
        """Seconds since the loop last began a turn; above `STUCK_S` it hangs."""
        return time.monotonic() - self._turned_s

    def counters(self) -> dict[str, int]:
        """Counts since the start, the epoch in force, and the partitions owned."""
        return {
            **dict(self._counts),
            **dict(self._asking.counts),
            "slot": self._slot,
            "epoch": self._epoch,
            "partitions": len(self._owned),
        }

    def refused(self) -> dict[str, str]:
        """Version of the newest release → why it is not loaded, or should not be; what answered before answers on."""
        return self._watch.refused if self._watch else {}

    def stages(self) -> dict[str, Any]:
        """How long each stage took since the start, and what was answered (`serving.stages`)."""
        return self._observer.snapshot()

    def _open(self) -> Channel:
        return Channel(
            self._kafka,
            self._settings,
            group=f"{self._case}.scorer",
            slot=self._slot,
            topic=f"{self._case}.requests",
            bulk=next((t.name for t in topics.stage(self._case, "bulk")), None),
            produced=self._produced(),
            deadline_ms=self._deadline_ms,
        )

    def _produced(self) -> list[str]:
        letters = [t.dlq for t in topics.lanes(self._case)]
        return [f"{self._case}.results", f"{self._case}.shadow", *letters]

    def _load(self, model: str, version: str) -> runtime.Model:
        folder = Path(self._settings.models_dir) / model / version
        loaded = runtime.load(folder, self._expected, self._calls, self._placing, self._trust)
        wanted = self._placing.tier(loaded.manifest.estimator).device
        self._counts[f"placed_on_{loaded.device}"] += 1
        self._counts["gpu_missing"] += int(wanted == "gpu" and loaded.device != "gpu")
        return loaded

    def _doubts(self, model: runtime.Model) -> bool:
        """Whether the key that vouched for it has been revoked since."""
        return bool(self._trust and model.signed_by and not self._trust.trusts(model.signed_by))

    def _own_reader(self) -> OwnReader:
        events = self._reader.own_events()
        return OwnReader(self._kafka, self._case, self._contract, events, self._settings)

    def _new_staleness(self, plan: Plan) -> Staleness:
        windowed = [view.name for view in plan.service_views(self._reader.service.name)]
        limits = limits_ms(self._freshness, windowed)
        return Staleness(self._reader.views, limits, self._reader.clocks_ms)

    def _follow_plan(self) -> None:
        """Read what the plan says now; a look at it costs microseconds.

        Raises:
            ServiceMoved: The service means something else now, and the models in memory do not fit it.
        """
        stamp = plan_files.stamp(self._stores.plan_path)
        if stamp == self._plan_stamp:
            return
        self._plan_stamp = stamp
        service, plan = self._reader.service.name, Plan.load(self._stores.plan_path)
        if plan.service_fingerprint(service) != self._reader.fingerprint:
            raise ServiceMoved(
                f"service {service}",
                wanted="the definitions that the models in memory were checked against",
                came="the plan has others under the same name",
                mend="This replica ends; its successor refuses models that do not fit. Train one for them.",
            )
        reader = VectorReader(self._stores, plan, service)
        if reader.versions == self._reader.versions:
            reader.close()
            return
        log.info("scorer.plan", versions=reader.versions)
        self._reader.close()
        self._reader = reader
        self._own = self._own_reader()
        self._staleness = self._new_staleness(plan)

    def _turn(self, channel: Channel, serving: Serving) -> None:
        self._follow_plan()
        channel.move_to(self._slot)
        messages = channel.poll()
        self._epoch, self._owned = serving.state.epoch, channel.owned
        if self._turned_s - self._lag_at_s > LAG_EVERY_S:
            self._lag_at_s, self.lag = self._turned_s, channel.lag()
        if not messages:
            return
        took = Took(taken_ms=_now_ms())
        self._recall(channel, messages)
        verdicts = self._verdicts(messages)
        self._own.consume(verdicts, channel.owned)
        requests, refused = self._judge(verdicts)
        answers = self._in_time(requests, serving, channel, took)
        outgoing, counts = self._outgoing(requests, answers, refused)
        with took.committing():
            committed = channel.commit(outgoing, messages)
        if committed:
            self._observer.batch(took, requests, answers, refused)
            for message, event in requests:
                self._recent.add(int(message.partition() or 0), [(event.id, _digest(message))])
            self._counts.update(counts)
            self._counts["batches"] += 1
        self._counts.update({k: v - self._counts[k] for k, v in channel.counts.items()})

    def _recall(self, channel: Channel, messages: list[Message]) -> None:
        """Read back what was answered in partitions that were taken over, now that their first record came."""
        fresh = channel.fresh & {int(m.partition() or 0) for m in messages}
        if fresh:
            found = answered(self._kafka, f"{self._case}.results", fresh, self._settings.recent_ids)
            for partition, request_ids in found.items():
                self._recent.replace(partition, request_ids)
            channel.fresh -= fresh

    def _verdicts(self, messages: list[Message]) -> list[tuple[Message, Event | Refusal]]:
        """What the contract says of each record: the same as it says to the intake, which sees the same bytes."""
        return [(m, decode(self._contract, m.value(), m.timestamp()[1])) for m in messages]

    def _judge(
        self, verdicts: list[tuple[Message, Event | Refusal]]
    ) -> tuple[list[tuple[Message, Event]], list[tuple[Message, Refusal]]]:
        requests: list[tuple[Message, Event]] = []
        refused: list[tuple[Message, Refusal]] = []
        here: dict[tuple[int, str], str] = {}
        for message, event in verdicts:
            if isinstance(event, Refusal):
                refused.append((message, event))
                continue
            at, digest = (int(message.partition() or 0), event.id), _digest(message)
            before = here.get(at) or self._recent.digest(*at)
            if before is not None:
                refused.append((message, repeated(event.id, before, digest)))
                continue
            here[at] = digest
            requests.append((message, event))
        return requests, refused

    def _in_time(
        self,
        requests: list[tuple[Message, Event]],
        serving: Serving,
        channel: Channel,
        took: Took,
    ) -> list[Answer | Refusal]:
        """Answers in the order of the requests; those whose deadline has passed are told so and not scored."""
        now_ms = _now_ms()
        due = [channel.due_ms(message) for message, _ in requests]
        waited_us = [took.waited_us(message.timestamp()[1]) for message, _ in requests]
        late = {
            row: scoring.expired(
                event, header(message, "traceparent"), serving, at_ms, now_ms, waited_us[row]
            )
            for row, ((message, event), at_ms) in enumerate(zip(requests, due, strict=True))
            if at_ms is not None and at_ms <= now_ms
        }
        live = [one for row, one in enumerate(requests) if row not in late]
        took.queue_us = [us for row, us in enumerate(waited_us) if row not in late]
        scored = iter(self._answer(live, serving, took))
        return [late[row] if row in late else next(scored) for row in range(len(requests))]

    def _answer(
        self, requests: list[tuple[Message, Event]], serving: Serving, took: Took
    ) -> list[Answer | Refusal]:
        if not requests:
            return []
        events = [event for _, event in requests]
        with took.reading():
            vectors, stale, why = self._vectors(requests)
        batch = Batch(
            requests=events,
            traceparents=[header(message, "traceparent") for message, _ in requests],
            vectors=vectors,
            read_at_ms=vectors.read_at_ms if vectors else _now_ms(),
            why=why,
            took=took,
            stale=stale,
        )
        timed = replace(serving, models=took.timed(serving.models))
        return scoring.answer(batch, timed, self._rules, _now_ms, self._asking)

    def _vectors(
        self, requests: list[tuple[Message, Event]]
    ) -> tuple[Vectors | None, Mapping[int, tuple[str, ...]], str]:
        """The features of a batch and, by row, the reasons why they are stale; or why there are none."""
        if time.monotonic() < self._store_retry_at_s:
            return None, {}, "the online store did not answer a moment ago"
        events = [event for _, event in requests]
        entities = {name: [getattr(event, name) for event in events] for name in self._join_keys}
        read = {name: [getattr(e, name) for e in events] for name in self._reader.request_columns}
        as_of_ms = np.array([event.event_time_ms for event in events], dtype=np.int64)
        try:
            own = self._own.of([message for message, _ in requests])
            vectors = self._reader.read(entities, as_of_ms, own, read)
            # The wait comes out of the budget of a takeover, once; after that, what is missing is marked.
            while _unsettled(vectors) and self._own.may_wait():
                vectors = self._reader.read(entities, as_of_ms, own, read)
            stale = self._staleness.marks(vectors, as_of_ms)
        except OnlineStoreUnavailable as error:
            self._store_retry_at_s = time.monotonic() + STORE_RETRY_S
            self._counts["store_failures"] += 1
            log.warning("scorer.store", error=str(error))
            return None, {}, str(error)
        self._reader.prune(self._own.events)
        return vectors, stale, ""

    def _outgoing(
        self,
        requests: list[tuple[Message, Event]],
        answers: list[Answer | Refusal],
        refused: list[tuple[Message, Refusal]],
    ) -> tuple[list[Outgoing], Counter[str]]:
        """The records of a batch: results and shadows in the partitions of their requests, and dead letters."""
        out: list[Outgoing] = []
        counts: Counter[str] = Counter()
        letters = list(refused)
        for (message, event), answer in zip(requests, answers, strict=True):
            if isinstance(answer, Refusal):
                letters.append((message, answer))
                continue
            counts[answer.status.value] += 1
            counts.update(answer.marks)
            if answer.status is Status.FALLBACK:
                counts[f"fallback_{answer.fell}"] += 1
            out.append(self._record("results", message, event, answer, answer.value))
            if answer.shadow is not None:
                counts["shadow"] += 1
                out.append(self._record("shadow", message, event, answer, answer.shadow))
        for message, refusal in letters:
            letter = dead_letter(message, refusal)
            counts["dead_lettered"] += 1
            out.append(Outgoing(letter.topic, -1, letter.key, letter.value, letter.headers))
        return out, counts

    def _record(
        self, topic: str, message: Message, event: Event, answer: Answer, value: bytes
    ) -> Outgoing:
        headers = raw_headers(
            event_id=event.id,
            event_type="headrace.result",
            event_time_ms=event.event_time_ms,
            source=f"headrace/{self._case}.scorer",
            traceparent=answer.traceparent,
        )
        headers.append((REQUEST_DIGEST, _digest(message).encode()))
        partition = int(message.partition() or 0)
        key = message.key()
        raw = key.encode() if isinstance(key, str) else key
        return Outgoing(
            f"{self._case}.{topic}", partition, raw or event.key.encode(), value, headers
        )


def _fresh_ms(plan: Plan, fresh_s: Mapping[str, float]) -> dict[str, int]:
    """The use case's limits of age; a limit of a view that nobody has is a mistake, and raises `UnknownDefinition`."""
    return {plan.view(view).name: int(limit_s * 1000) for view, limit_s in fresh_s.items()}


def _unsettled(vectors: Vectors) -> bool:
    return vectors.unsettled is not None and bool(vectors.unsettled.any())


def _digest(message: Message) -> str:
    """Tells payloads apart that bear the same id; no protection against those made to collide."""
    return xxhash.xxh3_64_hexdigest(message.value() or b"")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
