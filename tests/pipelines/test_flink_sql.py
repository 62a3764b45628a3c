from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from features.views import Aggregate, Handover, JoinKey, View
from pipelines.flink_sql import job, view_prefix
from pipelines.pace import COPIES
from pipelines.settings import FlinkSettings
from pipelines.sql_names import SqlRefused
from schemas.settings import KafkaSettings

KAFKA = KafkaSettings(bootstrap_servers="127.0.0.1:9092")
FLINK = FlinkSettings(lateness_s=3_600)
GOLDEN = Path(__file__).parents[1] / "golden"
HANDOVER = Handover(7, (12, 40), "features.levels.base.7")


def _view(
    *, key: str = "station", column: str = "level", topic: str = "toy.readings.valid"
) -> View:
    return View(
        name="levels",
        topic=topic,
        table="toy_readings",
        event_id_field="event_id",
        join_keys=(JoinKey(key), JoinKey("gate", "bigint")),
        columns={column: "double"},
        aggregates=(
            Aggregate("mean_level", column, "mean", 3_600, 300),
            Aggregate("max_level", column, "max", 3_600, 300),
            Aggregate("std_level", column, "std", 86_400, 1_800),
            Aggregate("first_level", column, "first", 86_400, 1_800),
            Aggregate("last_level", column, "last", 86_400, 1_800),
        ),
    )


@pytest.mark.parametrize(
    ("handover", "golden"), [(None, "levels.sql"), (HANDOVER, "levels_handed_over.sql")]
)
def test_the_text_is_the_golden_one(handover: Handover | None, golden: str) -> None:
    compiled = job(_view(), KAFKA, FLINK, handover)
    options = [f"-- {key} = {value}" for key, value in sorted(compiled.options.items())]
    text = "\n\n".join(["\n".join(options), *compiled.tables, *compiled.inserts]) + "\n"
    assert text == (GOLDEN / golden).read_text(encoding="utf-8")


def test_copies_of_requests_wait_for_each_other_and_streams_do_not() -> None:
    streamed, copied = (
        job(msgspec.structs.replace(_view(), origin_offsets=own), KAFKA, FLINK)
        for own in (False, True)
    )
    for name, pick in (("linger.ms", 1), ("fetch.min.bytes", 0)):
        waits = [
            int(compiled.tables[pick].split(f"'properties.{name}' = '")[1].split("'")[0])
            for compiled in (streamed, copied)
        ]
        assert waits[0] < waits[1], name
    # For the bytes that it wants a copy waits no longer than this; a stream's one byte is worth a long, parked wait.
    assert f"'properties.fetch.max.wait.ms' = '{COPIES.fetch_ms}'" in copied.tables[0]


def test_each_insert_has_a_sink_whose_primary_key_is_its_group_by() -> None:
    compiled = job(_view(), KAFKA, FLINK)
    assert len(compiled.tables) == 1 + len(compiled.inserts) == 3
    for sink, insert in zip(compiled.tables[1:], compiled.inserts, strict=True):
        name = sink.split("`")[1]
        assert insert.startswith(f"INSERT INTO `{name}`")
        assert "PRIMARY KEY (`station`, `gate`, `tile`)" in sink
        assert "GROUP BY `station`, `gate`, CONCAT(" in insert
        assert "'topic' = 'features.levels." in sink


def test_requests_that_a_snapshot_holds_are_told_by_their_own_offsets() -> None:
    own = msgspec.structs.replace(_view(), origin_offsets=True)
    compiled = job(own, KAFKA, FLINK, HANDOVER)
    assert "'scan.startup.mode' = 'earliest-offset'" in compiled.tables[0]
    for insert in compiled.inserts:
        assert "CASE `source_partition` WHEN 0 THEN 12 WHEN 1 THEN 40 ELSE 0 END" in insert


def test_requests_by_another_key_than_theirs_are_told_by_their_own_offsets_too() -> None:
    """Their topic is the intake's copy, whose offsets are not those that the lake knows."""
    shops = _view(topic="paid.requests.valid")
    compiled, plain = job(shops, KAFKA, FLINK, HANDOVER), job(shops, KAFKA, FLINK)
    assert "'scan.startup.mode' = 'earliest-offset'" in compiled.tables[0]
    assert "`source_offset` AS CAST(CAST(`headers`" in compiled.tables[0]
    assert "source_offset" not in plain.tables[0]
    for insert in compiled.inserts:
        assert "CASE `source_partition` WHEN 0 THEN 12 WHEN 1 THEN 40 ELSE 0 END" in insert


def test_a_snapshot_without_tiles_needs_no_base() -> None:
    empty = Handover(7, (12,))
    compiled, plain = job(_view(), KAFKA, FLINK, empty), job(_view(), KAFKA, FLINK)
    assert compiled.inserts == plain.inserts
    assert "'scan.startup.specific-offsets' = 'partition:0,offset:12'" in compiled.tables[0]


def test_a_tile_lives_as_long_as_the_longest_window_over_its_hop_and_what_may_come_late() -> None:
    compiled = job(_view(), KAFKA, FLINK)
    hour, day = compiled.inserts
    assert "STATE_TTL('events' = '7200 s')" in hour
    assert "STATE_TTL('events' = '90000 s')" in day
    assert compiled.options["table.exec.state.ttl"] == "90000 s"


def test_the_name_changes_with_the_definition_and_only_then() -> None:
    one, same, other = (
        job(_view(column=c), KAFKA, FLINK).name for c in ("level", "level", "depth")
    )
    assert one == same != other
    assert one.startswith(view_prefix("levels"))
    # A view whose name begins with another's is not taken for it.
    assert not one.startswith(view_prefix("level"))


@given(st.text(min_size=1))
def test_a_name_is_an_identifier_or_refused(name: str) -> None:
    plain = name.isascii() and name.isidentifier()
    if plain and name not in {"tile", "n", "clock_ms", "source_offset", "source_partition"}:
        assert f"`{name}`" in job(_view(key=name), KAFKA, FLINK).tables[0]
    else:
        with pytest.raises(SqlRefused):
            job(_view(key=name), KAFKA, FLINK)


@pytest.mark.parametrize("topic", ["a'b", "a b", "", "a\n"])
def test_a_topic_that_kafka_would_not_have_is_refused(topic: str) -> None:
    with pytest.raises(SqlRefused, match="topic"):
        job(_view(topic=topic), KAFKA, FLINK)


def test_credentials_are_quoted_and_in_the_tables_alone() -> None:
    kafka = KafkaSettings(
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username="o'hara",
        sasl_password=SecretStr('a"b\\c'),
        ssl_ca_location="/etc/ca.pem",
    )
    compiled = job(_view(), kafka, FLINK)
    for table in compiled.tables:
        assert "scram.ScramLoginModule required" in table
        assert """username="o''hara" password="a\\"b\\\\c";'""" in table
        assert "'properties.ssl.truststore.type' = 'PEM'" in table
    assert "hara" not in compiled.name + str(compiled.options) + str(compiled.inserts)
