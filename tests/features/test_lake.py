from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pyarrow as pa
import pytest
from pydantic import BaseModel
from pyiceberg.exceptions import CommitStateUnknownException
from pyiceberg.table import Table

from features.lake import Lake, LakeSchemaChanged, NoSuchLakeTable, OffsetsTaken
from features.lake_schema import Coordinate, NoArrowType, arrow_schema, event_table, lake_schema
from features.settings import StoreSettings


class Reading(BaseModel):
    event_time_ms: int
    event_id: str
    value: float | None
    tags: tuple[str, ...] = ()
    more: dict[str, float | None] = {}


def rows(*offsets: int, partition: int = 0) -> pa.Table:
    values: list[dict[str, Any]] = [
        {"event_time_ms": 1_000 * o, "event_id": f"e{o}", "value": None, "tags": ["x"], "more": {}}
        for o in offsets
    ]
    return event_table(Reading, values, [Coordinate(5, "lab", partition, o) for o in offsets])


@pytest.fixture
def settings(tmp_path: Path) -> StoreSettings:
    return StoreSettings(
        catalog_uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=f"file://{tmp_path}/warehouse"
    )


@pytest.fixture
def lake(settings: StoreSettings) -> Lake:
    made = Lake(settings)
    assert made.create("lab", lake_schema(Reading))
    return made


def test_a_contract_becomes_columns() -> None:
    schema = arrow_schema(Reading)
    assert schema.field("value") == pa.field("value", pa.float64(), nullable=True)
    assert schema.field("event_id") == pa.field("event_id", pa.string(), nullable=False)
    assert schema.field("tags").type == pa.list_(pa.string())


def test_a_field_without_a_column_type_is_refused_by_name() -> None:
    class Odd(BaseModel):
        shape: complex

    with pytest.raises(NoArrowType, match=r"Odd\.shape"):
        arrow_schema(Odd)


def test_creating_twice_is_harmless_and_other_columns_are_refused(lake: Lake) -> None:
    assert not lake.create("lab", lake_schema(Reading))
    with pytest.raises(LakeSchemaChanged, match="lake table lab"):
        lake.create("lab", pa.schema({"other": pa.int64()}))


def test_a_contract_that_gained_a_field_gains_a_column_that_old_rows_lack(lake: Lake) -> None:
    class Wider(Reading):
        took_us: dict[str, int] = {}

    lake.append("lab", rows(1, 2))
    lake.create("lab", lake_schema(Wider))
    lake.create("lab", lake_schema(Wider))
    new = Wider(event_time_ms=3_000, event_id="e3", value=None, took_us={"read": 5})
    lake.append("lab", event_table(Wider, [new.model_dump()], [Coordinate(1)]))
    assert lake.scan("lab")["took_us"].to_pylist().count(None) == 2
    found = lake.scan("lab", equal={"event_id": "e3"}, columns=("took_us",))
    assert [dict(one) for one in found["took_us"].to_pylist()] == [{"read": 5}]
    with pytest.raises(LakeSchemaChanged, match="took_us"):
        lake.create("lab", lake_schema(Reading))


def test_workers_that_make_the_catalog_at_once_all_have_it(tmp_path: Path) -> None:
    def made(at: str) -> list[bool]:
        mine = StoreSettings(catalog_uri=f"sqlite:///{at}/c.db", warehouse=f"file://{at}/w")
        together = Barrier(6)

        def make(_: int) -> bool:
            together.wait()
            return Lake(mine).create("lab", lake_schema(Reading))

        with ThreadPoolExecutor(6) as pool:
            return sorted(pool.map(make, range(6)))

    # Without the second look about every second one failed.
    for attempt in range(5):
        assert made(f"{tmp_path}/{attempt}") == [False] * 5 + [True]


def test_rows_and_offsets_commit_together(lake: Lake, settings: StoreSettings) -> None:
    assert lake.committed("lab") == {}
    lake.append("lab", rows(0, 1, 2), {("lab", 0): 3})
    lake.append("lab", rows(0, partition=1), {("lab", 1): 1})
    again = Lake(settings)
    assert again.committed("lab") == {("lab", 0): 3, ("lab", 1): 1}
    assert again.rows("lab") == again.scan("lab").num_rows == 4


def test_history_moves_no_offset(lake: Lake) -> None:
    lake.append("lab", rows(0), {("lab", 0): 1})
    values = [{"event_time_ms": 1, "event_id": "h", "value": 1.0, "tags": [], "more": {}}]
    lake.append("lab", event_table(Reading, values, [Coordinate(1)]))
    assert lake.committed("lab") == {("lab", 0): 1}
    assert lake.rows("lab") == 2


def test_a_zombie_cannot_archive_what_another_did(lake: Lake, settings: StoreSettings) -> None:
    zombie = Lake(settings)
    lake.append("lab", rows(0, 1), {("lab", 0): 2})
    with pytest.raises(OffsetsTaken):
        zombie.append("lab", rows(0, 1), {("lab", 0): 2})
    with pytest.raises(OffsetsTaken):
        zombie.append("lab", rows(1, 2), {("lab", 0): 3})
    assert lake.rows("lab") == 2


def test_competing_committers_lose_and_repeat_nothing(settings: StoreSettings, lake: Lake) -> None:
    def archive(partition: int) -> None:
        mine = Lake(settings)
        for offset in range(5):
            mine.append("lab", rows(offset, partition=partition), {("lab", partition): offset + 1})

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(archive, range(3)))
    assert lake.committed("lab") == {("lab", p): 5 for p in range(3)}
    held = lake.scan("lab").select(["kafka_partition", "kafka_offset"]).to_pylist()
    assert sorted((r["kafka_partition"], r["kafka_offset"]) for r in held) == [
        (p, o) for p in range(3) for o in range(5)
    ]


def test_scans_are_bounded_by_event_time_and_snapshot(lake: Lake) -> None:
    first = lake.append("lab", rows(1, 2, 3), {("lab", 0): 4})
    lake.append("lab", rows(4), {("lab", 0): 5})
    assert lake.scan("lab", since_ms=2_000, until_ms=4_000)["event_id"].to_pylist() == ["e2", "e3"]
    assert lake.scan("lab", snapshot_id=first, columns=("event_id",)).num_rows == 3


def test_a_table_that_is_not_there_is_named(lake: Lake) -> None:
    with pytest.raises(NoSuchLakeTable, match="lake table nothing"):
        lake.scan("nothing")
    with pytest.raises(NoSuchLakeTable):
        lake.append("nothing", rows(1))


def test_a_commit_in_doubt_is_looked_up_not_repeated(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Table.append

    def doubtful(self: Table, *given: Any, **options: Any) -> None:
        append(self, *given, **options)
        raise CommitStateUnknownException("the line went dead after the commit")

    monkeypatch.setattr(Table, "append", doubtful)
    assert lake.append("lab", rows(0), {("lab", 0): 1}) is not None
    assert lake.rows("lab") == 1
