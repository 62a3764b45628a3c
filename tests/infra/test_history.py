from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features.lake import Lake
from infra.demo import history, lake_history
from infra.demo.history import STREAMS, Timeline, load, midnight_ms
from schemas import flights
from tests.conftest import stores_at


def utc(year: int, month: int, day: int, hour: int, minute: int = 0) -> int:
    return int(datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp() * 1000)


@pytest.fixture(scope="module")
def year() -> Timeline:
    return load(history.YEAR_START, history.YEAR_END)


@pytest.fixture(scope="module")
def march() -> Timeline:
    return load(date(2013, 3, 9), date(2013, 3, 12))


def test_the_year_is_whole(year: Timeline) -> None:
    counts = {stream: year.table(stream).num_rows for stream in STREAMS}
    # Three departures and 58 landings of the year happen on 1 January 2014.
    assert counts == {
        "requests": 336_776,
        "departures": 328_518,
        "weather": 26_115,
        "outcomes": 327_288,
    }
    assert year.omitted["departures_cancelled"] == 8_255
    assert year.omitted["departures_without_tailnum"] == 0
    assert year.omitted["outcomes_cancelled_or_diverted"] == 9_430


@pytest.mark.parametrize("stream", STREAMS)
def test_every_stream_is_in_event_order_with_unique_ids(year: Timeline, stream: str) -> None:
    table = year.table(stream)
    assert (np.diff(table["event_time_ms"].to_numpy()) >= 0).all()
    identity = "event_id" if "event_id" in table.column_names else "request_id"
    assert pc.count_distinct(table[identity]).as_py() == table.num_rows


def test_ids_say_day_flight_origin_and_schedule(year: Timeline) -> None:
    first = year.requests.slice(0, 1).to_pylist()[0]
    assert first == {
        "event_time_ms": utc(2013, 1, 1, 10, 15),
        "request_id": "20130101-UA1545-EWR-0515",
        "carrier": "UA",
        "flight": 1545,
        "tailnum": "N14228",
        "origin": "EWR",
        "dest": "IAH",
        "distance_miles": 1400.0,
        "scheduled_hour": 5,
        "scheduled_weekday": 1,
    }


@pytest.mark.parametrize("stream", STREAMS)
def test_every_event_keeps_its_contract(march: Timeline, stream: str) -> None:
    events = list(march.events(stream))
    assert len(events) == march.table(stream).num_rows > 0
    assert {type(event) for event in events} == {history.contract_of(stream)}


def test_an_outcome_follows_its_departure_by_the_flight_and_the_taxiing(year: Timeline) -> None:
    name = "20130101-UA1545-EWR-0515"
    outcome = year.outcomes.filter(pc.equal(year.outcomes["request_id"], name)).to_pylist()[0]
    # Scheduled 5:15, left 2 minutes late, 227 minutes in the air, arrived 11 minutes late.
    assert outcome["event_time_ms"] == utc(2013, 1, 1, 10, 15 + 2) + (227 + 20) * 60_000
    assert (outcome["arr_delay"], outcome["late"]) == (11.0, False)


def test_flights_that_never_arrived_have_no_outcome(year: Timeline) -> None:
    requested = set(year.requests["request_id"].to_pylist())
    landed = set(year.outcomes["request_id"].to_pylist())
    assert landed < requested
    # 9,430 were cancelled or diverted; 58 landed when the year was over.
    assert len(requested) - len(landed) == 9_488


def test_the_clock_change_moves_the_schedule_by_an_hour(march: Timeline) -> None:
    """A flight at 6 h local is at 11 h UTC on the day before, and at 10 h on the day itself."""
    rows = pd.DataFrame(march.requests.to_pydict())
    at_six = rows[rows.request_id.str.endswith("-0600")]
    hours = (at_six.event_time_ms // 3_600_000 % 24).groupby(at_six.request_id.str[:8]).unique()
    assert {day: list(hour) for day, hour in hours.items()} == {
        "20130309": [11],
        "20130310": [10],
        "20130311": [10],
    }


def test_hours_that_do_not_exist_or_come_twice_have_an_instant() -> None:
    local = pd.to_datetime(pd.Series(["2013-03-10 02:30", "2013-11-03 01:30"]))
    assert list(history.utc_milliseconds(local)) == [utc(2013, 3, 10, 7), utc(2013, 11, 3, 5, 30)]


def test_the_repeated_hour_of_november_keeps_both_weather_reports() -> None:
    weather = load(date(2013, 11, 3), date(2013, 11, 4)).weather
    at_ewr = [i for i in weather["event_id"].to_pylist() if i.startswith("EWR")]
    assert {"EWR-2013110305", "EWR-2013110306"} <= set(at_ewr)


@pytest.mark.parametrize(
    ("clock", "minutes"), [(0, 0), (1, 1), (515, 315), (2359, 1439), (2400, 1440)]
)
def test_a_clock_is_minutes_since_midnight(clock: int, minutes: int) -> None:
    assert history.wall_time(pd.Series([clock]))[0] == pd.Timedelta(minutes=minutes)


def test_months_are_cut_without_gap_or_overlap() -> None:
    whole = load(date(2013, 5, 30), date(2013, 6, 3))
    halves = [load(date(2013, 5, 30), date(2013, 6, 1)), load(date(2013, 6, 1), date(2013, 6, 3))]
    for stream in STREAMS:
        joined = pa.concat_tables(half.table(stream) for half in halves)
        assert joined.equals(whole.table(stream)), stream


def test_the_bounds_of_the_contract_decide_what_is_absurd() -> None:
    assert history.bounds_of(flights.Weather, "humid") == (0, 100)
    assert history.bounds_of(flights.FlightRequest, "flight") == (1, 9_999)
    assert history.bounds_of(flights.FlightRequest, "distance_miles") == (-np.inf, 12_000)


def test_the_absurd_wind_of_february_is_treated_as_its_contract_says() -> None:
    """On 12 February EWR reports 1,048 mph."""
    day = load(date(2013, 2, 12), date(2013, 2, 13))
    allowed = history.bounds_of(flights.Weather, "wind_speed")[1]
    kept = max(day.weather["wind_speed"].drop_null().to_pylist())
    assert kept <= allowed
    assert day.omitted["weather_wind_speed_cleared"] == (0 if allowed >= 1_049 else 1)


def test_history_is_in_the_lake_as_if_received_when_it_happened(tmp_path: Path) -> None:
    stores = stores_at(tmp_path, "redis://127.0.0.1:1/0")
    since, until = date(2013, 1, 30), date(2013, 2, 2)
    written = lake_history.write_history(stores, since, until)
    lake = Lake(stores)
    timeline = load(since, until)
    for stream in STREAMS:
        table = f"flights_{stream}"
        rows = lake.scan(table)
        assert written[table] == rows.num_rows == timeline.table(stream).num_rows
        assert rows["ingest_ms"].equals(rows["event_time_ms"])
        assert rows["kafka_offset"].null_count == rows.num_rows
        assert lake.committed(table) == {}
    assert pc.min(lake.scan("flights_weather")["event_time_ms"]).as_py() >= midnight_ms(since)


def test_what_will_be_streamed_is_not_in_the_lake_yet(tmp_path: Path) -> None:
    stores = stores_at(tmp_path, "redis://127.0.0.1:1/0")
    since, until = date(2013, 1, 30), date(2013, 2, 2)
    lake_history.write_history(stores, since, until, streamed=timedelta(days=1))
    lake, streamed_from = Lake(stores), midnight_ms(date(2013, 2, 1))
    latest = {
        stream: pc.max(lake.scan(f"flights_{stream}")["event_time_ms"]).as_py()
        for stream in STREAMS
    }
    assert latest["departures"] < streamed_from < latest["requests"]
    assert latest["weather"] < streamed_from < latest["outcomes"]
