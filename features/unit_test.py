"""A definition run against rows in a file, by the reference, without any engine.

The file is TOML. Times are ISO 8601 or relative to `t0`; a column that an event leaves out is null, its id is given by
its place. An expectation names the entity, the instant, and the features it is about; `"null"` is null.

```toml
view = "origin_departures"
t0 = "2013-06-01T12:00:00Z"

[[event]]
at = "t0 - 50 min"
origin = "JFK"
dep_delay = 10.0

[[expect]]
at = "t0"
origin = "JFK"
count_delay_1h = 1
mean_delay_1h = 10.0
max_delay_3h = 10.0
```
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from features.reference import features_as_of
from features.row_events import events_of
from features.views import Plan, View
from schemas.errors import HeadraceError

TOLERANCE = 1e-9
NULL = "null"
OFFSET = re.compile(r"t0(?: *([+-]) *(\d+(?:\.\d+)?) *(ms|s|min|h|d))?")
UNITS_MS = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}

Event = Mapping[str, Any]


class TestFileRefused(HeadraceError):
    """A test file that cannot be run; the sentence names the table and the key."""

    # Not a test of pytest's.
    __test__ = False


class Outcome(NamedTuple):
    """One expected value, what came, and the events that its window holds.

    `got` and `expected` are None for null.
    """

    file: str
    view: str
    feature: str
    key: Mapping[str, Any]
    at: str
    expected: float | None
    got: float | None
    events: tuple[Event, ...]

    @property
    def ok(self) -> bool:
        """Equal within 1e-9 relative; null equals null."""
        if self.expected is None or self.got is None:
            return self.expected is self.got
        return math.isclose(self.expected, self.got, rel_tol=TOLERANCE)


def run(path: Path, plan: Plan) -> list[Outcome]:
    """Every expectation of a file.

    Raises:
        TestFileRefused: It cannot be read, or names what the view does not have.
        UnknownDefinition: The plan has no such view.
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TestFileRefused(str(path), wanted="a TOML file", came=str(error)) from error
    return list(_File(path.name, told, plan).outcomes())


class _File:
    def __init__(self, name: str, told: Mapping[str, Any], plan: Plan) -> None:
        self.name = name
        self._only(name, told, ("view", "t0", "event", "expect"))
        self.told = told
        self.view = plan.view(self._given("view"))
        self.t0_ms = self._absolute("t0", self._given("t0"))
        self.keys = [key.name for key in self.view.join_keys]

    def outcomes(self) -> Iterator[Outcome]:
        events = [self._event(n, e) for n, e in enumerate(self.told.get("event", []), start=1)]
        rows = list(events_of(self.view, events))
        expectations: Sequence[Mapping[str, Any]] = self.told.get("expect", [])
        if not expectations:
            raise self._refused(self.name, "at least one [[expect]]", "it has none")
        for number, expected in enumerate(expectations, start=1):
            yield from self._outcomes(f"expect {number}", expected, events, rows)

    def _outcomes(
        self, where: str, told: Mapping[str, Any], events: list[Event], rows: list[Event]
    ) -> Iterator[Outcome]:
        features = [a.name for a in self.view.aggregates]
        self._only(where, told, ("at", *self.keys, *features))
        key = {name: self._key(where, told, name) for name in self.keys}
        at_ms = self._time(where, told)
        values = features_as_of(self.view, events, key, at_ms)
        for name in features:
            if name in told:
                wanted = self._wanted(where, name, told[name])
                near = self._in_window(rows, key, name, at_ms)
                yield Outcome(
                    *(self.name, self.view.name, name, key, str(told["at"])),
                    *(wanted, values[name], near),
                )

    def _event(self, number: int, told: Mapping[str, Any]) -> Event:
        where = f"event {number}"
        columns = self.view.source_columns
        self._only(where, told, ("at", *columns, *self.keys, self.view.event_id_field))
        blank: dict[str, Any] = dict.fromkeys([*columns, *self.keys])
        blank[self.view.event_id_field] = f"event-{number:04d}"
        given = {name: None if value == NULL else value for name, value in told.items()}
        return blank | given | {"event_time_ms": self._time(where, told)}

    def _key(self, where: str, told: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401
        if name not in told:
            raise self._refused(where, f"the join key {name}", "it is not there")
        return told[name]

    def _wanted(self, where: str, name: str, value: Any) -> float | None:  # noqa: ANN401
        if value == NULL:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._refused(f"{where}, {name}", f'a number or "{NULL}"', f"it is {value!r}")
        return float(value)

    def _in_window(
        self, rows: list[Event], key: Mapping[str, Any], feature: str, at_ms: int
    ) -> tuple[Event, ...]:
        aggregate = self.view.aggregate(feature)
        hop_ms = aggregate.hop_s * 1000
        since = (at_ms // hop_ms - aggregate.tiles + 1) * hop_ms
        found = [
            row
            for row in rows
            if all(row[name] == value for name, value in key.items())
            and since <= row["event_time_ms"] <= at_ms
        ]
        return tuple(sorted(found, key=lambda row: int(row["event_time_ms"])))

    def _time(self, where: str, told: Mapping[str, Any]) -> int:
        if "at" not in told:
            raise self._refused(where, "`at`", "it is not there")
        relative = OFFSET.fullmatch(str(told["at"]).strip())
        if relative is None:
            return self._absolute(f"{where}, at", told["at"])
        sign, length, unit = relative.groups()
        offset_ms = round(float(length) * UNITS_MS[unit]) if length else 0
        return self.t0_ms - offset_ms if sign == "-" else self.t0_ms + offset_ms

    def _absolute(self, where: str, told: Any) -> int:  # noqa: ANN401 - TOML has times of its own
        try:
            at = told if isinstance(told, datetime) else datetime.fromisoformat(str(told).strip())
        except ValueError as error:
            wanted = "ISO 8601, or like t0 + 90 s, t0 - 5 min (ms, s, min, h, d)"
            raise self._refused(where, wanted, f"it is {told!r}") from error
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return round(at.timestamp() * 1000)

    def _given(self, name: str) -> Any:  # noqa: ANN401
        if name not in self.told:
            raise self._refused(self.name, f"`{name} = …` at the top", "it is not there")
        return self.told[name]

    def _only(self, where: str, told: Mapping[str, Any], known: Sequence[str]) -> None:
        strays = [name for name in told if name not in known]
        if strays:
            raise self._refused(
                where, f"only {', '.join(dict.fromkeys(known))}", f"it has {strays}"
            )

    def _refused(self, where: str, wanted: str, came: str) -> TestFileRefused:
        place = where if where == self.name else f"{self.name}, {where}"
        return TestFileRefused(place, wanted=wanted, came=came, mend="Mend the file.")


def window_of(view: View, feature: str) -> str:
    """In words what a feature is: `mean(dep_delay) over 3600 s by 300 s`."""
    a = view.aggregate(feature)
    return f"{a.function}({a.column}) over {a.window_s} s by {a.hop_s} s"
