"""The compacted topic of releases: what is in force, and the only way to change it.

Only admission and the operator's command publish here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from urllib.parse import quote

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas import topics
from schemas.control import Release
from schemas.control_log import ControlLog, Entry
from schemas.decoding import Refusal, decode
from schemas.envelope import headers
from schemas.errors import HeadraceError
from schemas.settings import KafkaSettings
from serving.releases import ReleaseState, resumed, rolled_back

TOPIC = "control.releases"
TIMEOUT_S = 10.0
_CONTRACT = Release


class ReleaseRefused(HeadraceError):
    """A release that does not follow the one in force, or that Kafka did not take."""


def current(kafka: KafkaSettings, case: str) -> Release | None:
    """The release in force; None before the first.

    Raises:
        ReleaseRefused: The topic cannot be read.
    """
    return ReleaseState(case).fold_all(_read(kafka)).release


def history(kafka: KafkaSettings, case: str, count: int) -> list[Entry]:
    """The newest releases and verdicts that are still in the log, oldest first.

    Trap: the topic of releases is compacted, so that in time only the release in force is left; verdicts are kept.

    Raises:
        ControlLogUnavailable: The topics cannot be read.
    """
    with ControlLog(kafka, case, (TOPIC, "control.verdicts")) as log:
        return sorted(log.read_all(), key=lambda entry: entry.ingest_ms)[-count:]


def publish(kafka: KafkaSettings, release: Release) -> None:
    """Publish the successor of the release in force.

    Two publishers at once cannot both succeed: they share a transactional id, so the later one fences the earlier, and it
    looks at what is in force only after that.

    Raises:
        ReleaseRefused: Its epoch is not the next one, or Kafka did not take it.
    """
    producer = Producer(
        kafka.client_config(
            transactional_id=f"{TOPIC}.{release.case}",
            transaction_timeout_ms=int(TIMEOUT_S * 1000),
            retry_backoff_ms=1,
        )
    )
    try:
        producer.init_transactions(TIMEOUT_S)
        now = current(kafka, release.case)
        _check_follows(now, release)
        producer.begin_transaction()
        producer.produce(
            TOPIC,
            key=release.key.encode(),
            value=release.encode(),
            headers=headers(release, source=f"headrace/{quote(release.decided_by)}"),
        )
        producer.commit_transaction(TIMEOUT_S)
        _await_visible(kafka, release)
    except KafkaException as error:
        raise ReleaseRefused(
            f"{TOPIC} on {kafka.bootstrap_servers}",
            wanted=f"epoch {release.epoch} of {release.case} published",
            came=str(error.args[0]),
            mend="Look at what is in force (`headrace release list`), then decide again.",
        ) from error


def _await_visible(kafka: KafkaSettings, release: Release) -> None:
    """Wait until readers see it: a commit returns some milliseconds before its marker is in the log."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while (now := current(kafka, release.case)) is None or now.epoch < release.epoch:
        if time.monotonic() > deadline_s:
            raise _unreadable(kafka, f"epoch {release.epoch} is committed but not visible")
        time.sleep(0.01)


def first(case: str, model: str, champion: str, *, event_time_ms: int, decided_by: str) -> Release:
    """Epoch 1: `champion` answers everything."""
    return Release(
        event_id=f"release-{case}-1",
        event_time_ms=event_time_ms,
        decided_at_ms=time.time_ns() // 1_000_000,
        case=case,
        epoch=1,
        model=model,
        champion=champion,
        salt=champion,
        reason="the first champion",
        decided_by=decided_by,
    )


def rollback(
    kafka: KafkaSettings,
    case: str,
    *,
    reason: str,
    decided_by: str = "operator",
    canary: str | None = None,
) -> Release:
    """End the canary in force, and say what was published.

    Args:
        kafka: The cluster.
        case: The use case.
        reason: Kept with the release.
        decided_by: The same.
        canary: Only if it is this one: who looked at another does not mean it.

    Raises:
        ReleaseRefused: There is none, or another, or Kafka did not take it.
    """
    now = _in_force(kafka, case)
    if canary not in (None, now.canary):
        raise ReleaseRefused(
            f"{TOPIC} of {case}",
            wanted=f"the canary {canary} in force",
            came=f"it is {now.canary}",
            mend="Look at what is in force (`headrace release list`), then decide again.",
        )
    return _published(kafka, rolled_back(now, **stamp(now, reason, decided_by)))


def resume(
    kafka: KafkaSettings, case: str, *, reason: str, decided_by: str = "operator"
) -> Release:
    """Ask the champion again that an incident suspended, and say what was published.

    Raises:
        ReleaseRefused: It is not suspended, or Kafka did not take it.
    """
    now = current(kafka, case)
    if now is None or not now.suspended:
        raise ReleaseRefused(
            f"{TOPIC} of {case}",
            wanted="a suspended champion",
            came="there is no release" if now is None else f"{now.champion} is asked",
            mend="`headrace release list` shows what is in force.",
        )
    return _published(kafka, resumed(now, **stamp(now, reason, decided_by)))


def _in_force(kafka: KafkaSettings, case: str) -> Release:
    now = current(kafka, case)
    if now is None or now.canary is None:
        raise ReleaseRefused(
            f"{TOPIC} of {case}",
            wanted="a canary in force",
            came="there is no release" if now is None else f"{now.champion} answers alone",
            mend="`headrace release list` shows what is in force.",
        )
    return now


def stamp(now: Release, reason: str, decided_by: str) -> dict[str, str | int]:
    """What the successor of `now` says of its making.

    An operator decides on the wall clock; the stream's clock is taken to be the last release's.
    """
    return {
        "event_id": f"release-{now.case}-{now.epoch + 1}",
        "event_time_ms": now.event_time_ms,
        "decided_at_ms": time.time_ns() // 1_000_000,
        "reason": reason,
        "decided_by": decided_by,
    }


def _published(kafka: KafkaSettings, release: Release) -> Release:
    publish(kafka, release)
    return release


def _check_follows(now: Release | None, release: Release) -> None:
    wanted = now.epoch + 1 if now else 1
    if release.epoch != wanted:
        raise ReleaseRefused(
            f"{TOPIC} of {release.case}",
            wanted=f"epoch {wanted}, the one after that in force",
            came=f"epoch {release.epoch} was offered",
            mend="Somebody else released meanwhile: read what is in force, then decide again.",
        )


def decoded(value: bytes | None, ingest_ms: int) -> Release | Refusal:
    """One record of the topic, or why it is none; a tombstone is a refusal as well."""
    return decode(_CONTRACT, value, ingest_ms)


def _read(kafka: KafkaSettings) -> Iterator[Release]:
    consumer = Consumer(
        kafka.client_config(
            group_id=f"{TOPIC}.reader",
            isolation_level="read_committed",
            enable_auto_commit=False,
            enable_partition_eof=True,
            fetch_wait_max_ms=5,
        )
    )
    try:
        consumer.assign([TopicPartition(TOPIC, 0, 0)])
        while True:
            batch = consumer.consume(1, TIMEOUT_S)
            if not batch:
                raise _unreadable(kafka, f"no answer within {TIMEOUT_S} s")
            for message in batch:
                error = message.error()
                if error is None:
                    release = decoded(message.value(), message.timestamp()[1])
                    if isinstance(release, Release):
                        yield release
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's name
                    return
                elif not error.retriable():
                    raise _unreadable(kafka, str(error))
    finally:
        consumer.close()


def _unreadable(kafka: KafkaSettings, came: str) -> ReleaseRefused:
    known = ", ".join(t.name for t in topics.CONTROL_TOPICS)
    return ReleaseRefused(
        f"{TOPIC} on {kafka.bootstrap_servers}",
        wanted="the releases in it",
        came=came,
        mend=f"Is the broker up, and do the control topics exist ({known})? `headrace topics apply`.",
    )
