"""The one table of topics, on a real broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    ResourceType,
)

from schemas import topics
from schemas.errors import HeadraceError
from schemas.usecase import UnknownUseCase, load

if TYPE_CHECKING:
    from schemas.settings import KafkaSettings


def test_every_raw_topic_has_its_valid_twin_and_its_dead_letters() -> None:
    table = topics.table_of("flights")
    for raw in topics.stage("flights", "raw"):
        valid = table[raw.name + topics.VALID_SUFFIX]
        assert (valid.contract, valid.partitions) == (raw.contract, raw.partitions)
        assert valid.table == raw.table
        assert valid.dlq == raw.dlq
        assert raw.dlq in table


def test_results_lie_in_the_partitions_of_their_requests() -> None:
    table = topics.table_of("flights")
    assert table["flights.results"].partitions == table["flights.requests"].partitions


def test_apply_creates_once_and_stamps_the_append_time(kafka: KafkaSettings) -> None:
    topics.apply(kafka, "flights")
    assert topics.apply(kafka, "flights") == []
    admin = AdminClient(dict(kafka.client_config()))
    resource = ConfigResource(ResourceType.TOPIC, "flights.requests")
    config = next(iter(admin.describe_configs([resource]).values())).result(10)
    assert config["message.timestamp.type"].value == "LogAppendTime"


def test_what_is_missing_is_told_and_not_created(kafka: KafkaSettings) -> None:
    topics.apply(kafka, "flights")
    names = ["flights.requests", "flights.nowhere"]
    for _ in range(2):
        assert topics.missing(kafka, names, 5.0) == ["flights.nowhere"]
    nowhere = kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})
    with pytest.raises(topics.TopicError):
        topics.missing(nowhere, names, 0.2)


def test_an_unknown_use_case_is_a_sentence() -> None:
    with pytest.raises(UnknownUseCase, match=r"wanted a module schemas\.trains") as caught:
        load("schemas", "trains")
    assert isinstance(caught.value, HeadraceError)
