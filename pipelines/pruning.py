"""What is left of versions that nobody reads any more: topics, rings, consumer groups, state of jobs. Removed for good."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from features.rings import Rings
from features.settings import StoreSettings
from features.views import Plan
from pipelines.polling import unavailable
from pipelines.recovery import Recovery
from schemas.settings import KafkaSettings

TIMEOUT_S = 30.0
GONE = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.GROUP_ID_NOT_FOUND)


def prune(
    plan: Plan, kafka: KafkaSettings, stores: StoreSettings, recovery: Recovery | None
) -> tuple[str, ...]:
    """Remove what the plan's retired versions left. Repeating it changes nothing. Their jobs must be gone.

    Returns:
        What was removed, in words.

    Raises:
        KafkaUnavailable, OnlineStoreUnavailable: An engine is out of reach; prune again.
    """
    said: list[str] = []
    rings = Rings(stores)
    for one in plan.retired:
        topics = [one.view.topic_out]
        topics += [one.handover.base_topic] if one.handover and one.handover.base_topic else []
        said += [f"topic {name}" for name in _delete(kafka, topics, one.view.topic_out)]
        if keys := rings.delete(one.view.versioned):
            said.append(f"{keys} keys of {one.view.versioned}")
        if recovery:
            recovery.drop(one.view.versioned)
    for name in plan.retired_rows:
        if keys := rings.delete(name):
            said.append(f"{keys} keys of {name}")
    rings.close()
    return tuple(said)


def _delete(kafka: KafkaSettings, topics: list[str], group: str) -> list[str]:
    """Delete topics and the group that read for the job; the topics that were there."""
    admin = AdminClient(kafka.client_config())
    groups = admin.delete_consumer_groups([group])
    _settled(groups.items())
    return _settled(admin.delete_topics(topics, operation_timeout=TIMEOUT_S).items())


def _settled(asked: Iterable[tuple[str, Future[None]]]) -> list[str]:
    done = []
    for name, future in asked:
        try:
            future.result(TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() not in GONE:
                raise unavailable(f"removing {name}", error) from error
        else:
            done.append(name)
    return done
