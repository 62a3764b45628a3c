"""A table of any columns reads as the rows of a view."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.row_table import RowsUnreadable, between, epoch_ms, milliseconds, view_rows
from features.row_views import RowView

VIEW = RowView("v", "t", ("driver",), ("trips",), 0, "ts", "made", {"driver": "id", "trips": "n"})
PLAIN = RowView("v", "t", ("id",), ("n",))
YEAR_2200_MS = 7_258_118_400_000
instants = st.integers(0, YEAR_2200_MS).map(lambda ms: datetime.fromtimestamp(ms / 1000, tz=UTC))


@settings(deadline=None)
@given(st.lists(instants, min_size=1))
def test_times_are_milliseconds_with_and_without_a_zone(times: list[datetime]) -> None:
    wanted = [epoch_ms(at) for at in times]
    aware = pa.chunked_array([pa.array(times, pa.timestamp("us", tz="UTC"))])
    naive = pa.chunked_array([pa.array([t.replace(tzinfo=None) for t in times])])
    elsewhere = aware.cast(pa.timestamp("us", tz="Asia/Tokyo"))
    for given_times in (aware, naive, elsewhere):
        assert milliseconds(VIEW, given_times).to_pylist() == wanted


@settings(deadline=None)
@given(st.lists(st.integers(0, 10)), st.integers(0, 10), st.integers(0, 10))
def test_both_ends_of_a_range_are_in_it(times_ms: list[int], first: int, last: int) -> None:
    table = pa.table({"at": pa.array(times_ms, pa.int64())})
    ends = (datetime.fromtimestamp(ms / 1000, tz=UTC) for ms in (first, last))
    found = between(table, table["at"], *ends)["at"].to_pylist()
    assert found == [ms for ms in times_ms if first <= ms <= last]
    assert between(table, table["at"], None, None).equals(table)


def test_an_instant_is_the_same_in_every_zone() -> None:
    at = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert epoch_ms(at) == epoch_ms(at.astimezone(timezone(timedelta(hours=9))))
    assert epoch_ms(at) == epoch_ms(at.replace(tzinfo=None))


def test_columns_are_found_by_the_views_names() -> None:
    stamps = pa.array([1_000_000], pa.timestamp("us"))
    table = pa.table({"id": [7], "n": [3], "ts": stamps, "made": stamps.cast(pa.timestamp("ms"))})
    (row,) = view_rows(VIEW, table).to_pylist()
    assert row == {"driver": 7, "trips": 3, "event_time_ms": 1_000, "ingest_ms": 1_000}
    assert VIEW.source_columns == ("id", "n")


def test_the_lakes_own_columns_need_no_telling() -> None:
    table = pa.table({"id": [7], "n": [3], "event_time_ms": [5], "ingest_ms": [6]})
    (row,) = view_rows(PLAIN, table).to_pylist()
    assert (row["event_time_ms"], row["ingest_ms"]) == (5, 6)


def test_a_table_without_the_column_and_a_column_without_times_are_refused() -> None:
    with pytest.raises(RowsUnreadable, match="'ts'"):
        view_rows(VIEW, pa.table({"id": [1], "n": [1]}))
    with pytest.raises(RowsUnreadable, match="int64"):
        view_rows(VIEW, pa.table({"id": [1], "n": [1], "ts": [1], "made": [1]}))


def test_where_a_view_reads_from_is_part_of_its_meaning() -> None:
    plain = RowView("v", "t", ("driver",), ("trips",))
    assert VIEW.fingerprint != plain.fingerprint
    assert plain.fingerprint == RowView("w", "t", ("driver",), ("trips",)).fingerprint
