"""A use case whose requests are feature events, read as a scorer reads them: each must count itself."""

from __future__ import annotations

import sys
import threading
import time
from datetime import timedelta
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from features import plan_files
from features.vectors import VectorReader
from features.views import Plan
from schemas.decoding import decode
from schemas.events import Event, Id
from schemas.topics import standard_topics
from serving.own_reader import OwnReader
from serving.settings import ServingSettings
from tests.pipelines import toy
from tests.pipelines.records import produce_events

if TYPE_CHECKING:
    from features.settings import StoreSettings
    from schemas.settings import KafkaSettings

CASE = "paid"
REQUESTS = f"{CASE}.requests"
PARTITIONS = 2
CARDS, SHOPS = 6, 13
HOP = timedelta(minutes=5)


class Bill(Event):
    """A card is shown at a shop."""

    id_field: ClassVar[str] = "request_id"
    key_field: ClassVar[str] = "card"

    request_id: Id
    card: str
    shop: str
    amount: float | None


def register() -> None:
    """Make `schemas.paid` loadable."""
    module = ModuleType(f"schemas.{CASE}")
    module.__spec__ = ModuleSpec(module.__name__, loader=None)
    module.TOPICS = standard_topics(  # type: ignore[attr-defined]
        CASE,
        request=Bill,
        outcome=toy.Answer,
        streams={},
        request_partitions=PARTITIONS,
        request_events=True,
    )
    sys.modules[module.__name__] = module


def bill(index: int) -> Bill:
    """A bill a second of its own time, every eleventh without an amount."""
    return Bill(
        event_time_ms=toy.START_MS + index * 1_000,
        request_id=f"b{index}",
        card=f"c{index % CARDS}",
        shop=f"m{index * 7 % SHOPS}",
        amount=None if index % 11 == 0 else (index % 997) / 8,
    )


def define(*hours: int) -> None:
    """`features.paid`: by card, which is exact to the request, and by shop, which is not; windows of so many hours."""
    from feast import Entity, FeatureService, Field, KafkaSource, StreamFeatureView  # noqa: PLC0415
    from feast.aggregation import Aggregation  # noqa: PLC0415
    from feast.data_format import JsonFormat  # noqa: PLC0415
    from feast.types import Float64, String  # noqa: PLC0415
    from feast.value_type import ValueType  # noqa: PLC0415

    from features.lake_source import LakeSource  # noqa: PLC0415

    source = KafkaSource(
        name=f"{CASE}_requests",
        topic=f"{REQUESTS}.valid",
        message_format=JsonFormat(schema_json=""),
        timestamp_field="event_time",
        batch_source=LakeSource(f"{CASE}_requests"),
    )
    module = ModuleType(f"features.{CASE}")
    module.__spec__ = ModuleSpec(module.__name__, loader=None)
    first = []
    functions = [(f, "amount") for f in ("count", "sum", "std", "last")]
    for key in ("card", "shop"):
        asked = [*functions, ("count_distinct", "shop" if key == "card" else "card")]
        entity = Entity(name=key, join_keys=[key], value_type=ValueType.STRING)
        view = StreamFeatureView(
            name=f"{CASE}_{key}s",
            entities=[entity],
            schema=[Field(name=key, dtype=String)]
            + [Field(name=f"{f}_{h}h", dtype=Float64) for h in hours for f, _ in asked],
            source=source,
            mode="sql",
            timestamp_field="event_time",
            aggregations=[
                Aggregation(column=c, function=f, time_window=timedelta(hours=h), name=f"{f}_{h}h")
                for h in hours
                for f, c in asked
            ],
            enable_tiling=True,
            tiling_hop_size=HOP,
        )
        setattr(module, key, entity)
        setattr(module, f"{key}s", view)
        first.append(view[[f"{f}_{hours[0]}h" for f, _ in asked]])
    for h in hours:
        chosen = first if h == hours[0] else [module.cards, module.shops]
        setattr(module, f"up_to_{h}h", FeatureService(name=f"up_to_{h}h", features=chosen))
    sys.modules[module.__name__] = module


class Till(threading.Thread):
    """Bills at a steady rate until told to end; each is consumed and served as a scorer would, memory and fold included."""

    def __init__(
        self, kafka: KafkaSettings, stores: StoreSettings, service: str, begin: int, rate: int
    ) -> None:
        super().__init__()
        self._kafka, self._stores, self._service = kafka, stores, service
        self.sent, self._rate = begin, rate
        self.ending = threading.Event()
        self.versions: list[tuple[str, ...]] = []
        self.served: list[dict[str, Any]] = []
        self.marked = 0
        self.failed: list[BaseException] = []
        self._stamp: plan_files.Stamp | None = None
        self._left = 0

    def run(self) -> None:
        consumer = Consumer(
            self._kafka.client_config(
                group_id=f"{CASE}.till", enable_auto_commit=False, fetch_wait_max_ms=5
            )
        )
        try:
            self._begin(consumer)
            while not (self.ending.is_set() and not self._left):
                self._turn(consumer)
        except BaseException as error:  # noqa: BLE001 - the test's thread raises it
            self.failed.append(error)
        finally:
            consumer.close()

    def _begin(self, consumer: Consumer) -> None:
        places = [TopicPartition(REQUESTS, p) for p in range(PARTITIONS)]
        ends = [consumer.get_watermark_offsets(place, 10)[1] for place in places]
        consumer.assign([TopicPartition(REQUESTS, p, at) for p, at in enumerate(ends)])
        consumer.consume(1, 0.1)

    def _turn(self, consumer: Consumer) -> None:
        if not self.ending.is_set():
            some = range(self.sent, self.sent + self._rate // 10)
            produce_events(self._kafka, REQUESTS, [bill(i) for i in some])
            self.sent, self._left = some.stop, self._left + len(some)
        self._follow_plan()
        until_s = time.monotonic() + 0.1
        while (left_s := until_s - time.monotonic()) > 0:
            messages = consumer.consume(20, left_s)
            if messages:
                self._left -= len(messages)
                self._serve([(m, decode(Bill, m.value(), m.timestamp()[1])) for m in messages])

    def _follow_plan(self) -> None:
        if (now := plan_files.stamp(self._stores.plan_path)) == self._stamp:
            return
        self._stamp = now
        reader = VectorReader(self._stores, Plan.load(self._stores.plan_path), self._service)
        if reader.versions not in self.versions[-1:]:
            self.versions.append(reader.versions)
            self._reader = reader
            self._own = OwnReader(self._kafka, CASE, Bill, reader.own_events(), ServingSettings())

    def _serve(self, verdicts: list[tuple[Any, Any]]) -> None:
        self._own.consume(verdicts, frozenset(range(PARTITIONS)))
        bills = [event for _, event in verdicts]
        as_of_ms = np.array([b.event_time_ms for b in bills])
        entities = {"card": [b.card for b in bills], "shop": [b.shop for b in bills]}
        own = self._own.of([message for message, _ in verdicts])
        read = self._reader.read(entities, as_of_ms, own)
        while np.any(read.unsettled) and self._own.may_wait():
            read = self._reader.read(entities, as_of_ms, own)
        assert read.unsettled is not None
        self._reader.prune(self._own.events)
        # The card's view alone promises to be exact.
        card = read.views.index(f"{CASE}_cards")
        marked = read.ahead[:, card] | read.unsettled[:, card]
        self.marked += int(marked.sum())
        for row, one in enumerate(bills):
            self.served.append(
                {
                    **one.model_dump(include={"request_id", "card", "shop", "event_time_ms"}),
                    "read_at_ms": read.read_at_ms,
                    "marked": bool(marked[row]),
                    **dict(zip(read.names, read.values[row].tolist(), strict=True)),
                }
            )
