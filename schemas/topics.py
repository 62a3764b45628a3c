"""The one table of topics.

Every topic stamps its records with LogAppendTime, so that a record's Kafka timestamp is when headrace received it
(`ingest_ms`) and nobody can claim another; when it happened is `event_time_ms` in the value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    NewPartitions,
    NewTopic,
)

from schemas import control, usecase
from schemas.errors import HeadraceError
from schemas.results import Joined, Replayed, Result

if TYPE_CHECKING:
    from schemas.events import Event
    from schemas.settings import KafkaSettings

DLQ_SUFFIX = ".dlq"
VALID_SUFFIX = ".valid"
BULK_SUFFIX = ".bulk"
DAY_MS = 86_400_000
# A dead letter is its record whole, which may be as large as the broker takes (1 MiB), plus headers that say why.
DEAD_LETTER_BYTES_MAX = 2 * 1024 * 1024
CREATE_TIMEOUT_S = 30.0
# Stages that may grow while they are used, in this order: what is answered into another topic grows after it.
_GROWS = ("", "bulk", "requests")


class TopicError(HeadraceError):
    """Kafka refused to create or to describe a topic."""


@dataclass(frozen=True)
class Topic:
    """A row of the table.

    Attributes:
        name: Kafka's name of the topic.
        contract: The model of its values; None where the value is quoted (dead letters) or generated (tiles).
        key: What the key holds, in words.
        partitions: The bound of its consumers' parallelism.
        retention_ms: -1 keeps for ever.
        compacted: Only the newest record of a key is kept.
        stage: "raw" topics are validated by the intake into their `.valid` twin; so are "requests" that have one, of stage
            "own", because they are feature events themselves. "bulk" are requests that are answered after the others.
            "replay" is looked at once and soon gone.
    """

    name: str
    contract: type[Event] | None
    key: str
    partitions: int = 1
    retention_ms: int = 7 * DAY_MS
    compacted: bool = False
    stage: str = ""

    @property
    def dlq(self) -> str:
        """Where this topic's refused records go, whole."""
        return self.name.removesuffix(VALID_SUFFIX) + DLQ_SUFFIX

    @property
    def table(self) -> str:
        """The lake table of this topic's events; both lanes of requests share one."""
        return self.name.removesuffix(VALID_SUFFIX).removesuffix(BULK_SUFFIX).replace(".", "_")

    def config(self) -> dict[str, str]:
        """The topic's Kafka configuration."""
        config = {
            "cleanup.policy": "compact" if self.compacted else "delete",
            "message.timestamp.type": "LogAppendTime",
            "retention.ms": str(-1 if self.compacted else self.retention_ms),
        }
        if self.stage == "dlq":
            config["max.message.bytes"] = str(DEAD_LETTER_BYTES_MAX)
        return config


def standard_topics(
    case: str,
    *,
    request: type[Event],
    outcome: type[Event],
    streams: Mapping[str, tuple[type[Event], int]],
    request_partitions: int = 4,
    request_events: bool = False,
) -> tuple[Topic, ...]:
    """The topics that every use case has, and its own streams (name → contract, partitions).

    With `request_events` a request is a feature event too: views read `<case>.requests.valid`, partition by partition the
    same as the requests. Such a use case has no bulk lane: a request's place in the one stream is part of what it means.
    """
    requests = Topic(f"{case}.requests", request, "entity", request_partitions, stage="requests")
    results = Topic(f"{case}.results", Result, "entity of the request", request_partitions)
    raw = [
        Topic(f"{case}.{name}", contract, "entity", partitions, stage="raw")
        for name, (contract, partitions) in {**streams, "outcomes": (outcome, 2)}.items()
    ]
    valid = [replace(t, name=t.name + VALID_SUFFIX, stage="valid") for t in raw]
    if request_events:
        valid.append(replace(requests, name=requests.name + VALID_SUFFIX, stage="own"))
    bulk = replace(requests, name=requests.name + BULK_SUFFIX, stage="bulk")
    asked = (requests,) if request_events else (requests, bulk)
    dead = [
        Topic(t.dlq, None, "key of the refused record", retention_ms=30 * DAY_MS, stage="dlq")
        for t in (*asked, *raw)
    ]
    return (
        *asked,
        results,
        replace(results, name=f"{case}.shadow"),
        Topic(f"{case}.replay", Replayed, "entity", retention_ms=DAY_MS, stage="replay"),
        Topic(f"{case}.joined", Joined, "request_id", 2, compacted=True),
        *raw,
        *valid,
        *dead,
    )


CONTROL_TOPICS = (
    Topic("control.releases", control.Release, "use case", compacted=True),
    Topic("control.alerts", control.Alert, "use case", retention_ms=-1),
    Topic("control.retraining", control.RetrainingOrder, "use case", retention_ms=-1),
    Topic("control.candidates", control.Candidate, "use case", retention_ms=-1),
    Topic("control.verdicts", control.Verdict, "use case", retention_ms=-1),
    Topic("control.brake", control.Brake, "use case", retention_ms=-1),
    Topic("control.access", control.DataAccess, "use case", retention_ms=-1),
    Topic("control.incidents", control.Incident, "use case", retention_ms=-1),
    Topic("control.keys", control.KeyAct, "use case", retention_ms=-1),
    Topic("control.audit", control.AuditRecord, "use case", retention_ms=-1),
)


def tile_topic(name: str, partitions: int = 1) -> Topic:
    """The topic of a feature view's tiles: upserts, compacted.

    One partition: its key names the tile, so with more the tiles of one entity would overtake each other, and a
    reader could see an event without those before it.
    """
    return Topic(name, None, "join keys and tile", partitions, compacted=True, stage="tiles")


def base_topic(name: str) -> Topic:
    """The topic of the tiles that a feature view's job begins with: written once, read again whenever state is lost."""
    return Topic(name, None, "none", retention_ms=-1, stage="base")


def table_of(case: str) -> dict[str, Topic]:
    """Every topic of a use case and of the control plane, by name."""
    topics: tuple[Topic, ...] = usecase.load("schemas", case).TOPICS
    return {t.name: t for t in (*topics, *CONTROL_TOPICS)}


def archived_as(name: str) -> str:
    """The topic whose places the lake knows these events by: requests are archived themselves, not their copy."""
    copied = name.endswith(f".requests{VALID_SUFFIX}")
    return name.removesuffix(VALID_SUFFIX) if copied else name


def stage(case: str, name: str) -> list[Topic]:
    """The topics of one stage: "requests", "raw", "valid" or "dlq"."""
    return [t for t in table_of(case).values() if t.stage == name]


def lanes(case: str) -> list[Topic]:
    """The topics on which requests are asked, the interactive lane first."""
    return [*stage(case, "requests"), *stage(case, "bulk")]


def create(kafka: KafkaSettings, topics: Iterable[Topic]) -> list[str]:
    """Create the topics that are missing; those that exist are left as they are.

    Returns:
        The names that were created.

    Raises:
        TopicError: The cluster is out of reach, or refused one of them.
    """
    admin = AdminClient({**kafka.client_config(), "socket.timeout.ms": 10_000})
    wanted = [
        NewTopic(t.name, t.partitions, kafka.replication_factor, config=t.config()) for t in topics
    ]
    if not wanted:
        return []
    created = []
    for name, future in admin.create_topics(wanted, operation_timeout=CREATE_TIMEOUT_S).items():
        try:
            future.result(CREATE_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise _refused(kafka, name, error) from error
        else:
            created.append(name)
    return created


def missing(kafka: KafkaSettings, names: Iterable[str], timeout_s: float) -> list[str]:
    """Those of the topics that the cluster does not have; changes nothing.

    Raises:
        TopicError: The cluster does not answer in time.
    """
    # A broker that is not there is told once, by the error, and not line by line on standard error.
    admin = AdminClient({**kafka.client_config(), "log_level": 0})
    try:
        held = admin.list_topics(timeout=timeout_s).topics
    except KafkaException as error:
        raise _refused(kafka, "list", error) from error
    return [name for name in names if name not in held]


def apply(kafka: KafkaSettings, case: str) -> list[str]:
    """Create every missing topic of the use case and of the control plane."""
    return create(kafka, table_of(case).values())


def grow(kafka: KafkaSettings, case: str) -> list[str]:
    """Add partitions to requests and results that have fewer than their rows say; none ever loses one.

    Order is promised per key and partition: a key whose hash falls elsewhere from now on is answered there, beside what is
    left of it where it was. Requests grow last, so that whoever answers one finds the partition of its result.

    Returns:
        The names that grew.

    Raises:
        TopicError: The cluster is out of reach, or refused one of them; or requests are feature events, whose place in
            their stream is part of what they mean.
    """
    admin = AdminClient({**kafka.client_config(), "socket.timeout.ms": 10_000})
    rows = [t for t in table_of(case).values() if t.stage in _GROWS and not t.compacted]
    grown = []
    try:
        held = admin.list_topics(timeout=CREATE_TIMEOUT_S).topics
        for row in sorted(rows, key=lambda row: _GROWS.index(row.stage)):
            if row.name not in held or len(held[row.name].partitions) >= row.partitions:
                continue
            if stage(case, "own"):
                raise TopicError(
                    f"topic {row.name}",
                    wanted=f"{row.partitions} partitions from its first request on",
                    came=f"{len(held[row.name].partitions)}, and its requests are feature events",
                    mend="Create it anew under another name, or leave its row as it was.",
                )
            asked = admin.create_partitions([NewPartitions(row.name, row.partitions)])
            asked[row.name].result(CREATE_TIMEOUT_S)
            grown.append(row.name)
    except KafkaException as error:
        raise _refused(kafka, "grow", error) from error
    return grown


def _refused(kafka: KafkaSettings, name: str, error: KafkaException) -> TopicError:
    return TopicError(
        f"topic {name} on {kafka.bootstrap_servers}",
        wanted="it created",
        came=str(error.args[0].str()),
        mend="Is the broker up (`headrace status`), and may this user create topics?",
    )
