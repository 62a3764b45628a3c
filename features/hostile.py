"""Seeded streams that are meant to break an executor.

Each seed gives one stream in an era of its own, so far from the next that no window reaches across: all seeds may go
through one job and share neither tiles nor windows. What is in them: events shuffled and late by up to a window and a
half, one hot key, a key long idle, a key never seen, keys and values that are null, ties in time, one event delivered
twice and two events under one id, instants exactly on the edges of tiles and windows and a millisecond beside them,
silent gaps, columns all of one value and all null.

What is not in them, because executors may differ there: two events of one id *and* one time with different values (which
is `last` is not defined), and values whose spread is below a thousandth of their mean (`features.tiles` says why).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from features.tile_row import KeyValue
from features.views import ColumnType, KeyType, View

Event = Mapping[str, Any]
Key = tuple[KeyValue, ...]

BASE_MS = int(datetime(2001, 1, 1, tzinfo=UTC).timestamp() * 1000)
EVENTS_MAX = 120
KEYS = 4
INSTANTS_MAX = 14
NULL_SHARE = 0.15
HOT_SHARE = 0.6

_KEYS: Mapping[KeyType, tuple[KeyValue, ...]] = {
    "string": ("hot", 'q"uote', "é /日本", "idle", "never"),
    "bigint": (7, 0, -1, 2**53 + 1, 99),
}
_STRINGS = ("", "a", "A", " a", "é", "日本", 'q"uote', "it's", "a,b", "[1]", "null", "b\\s", "10")


class Stream(NamedTuple):
    """One seed's events, in order of arrival, and what is asked of them.

    Attributes:
        seed: What it was made from.
        since_ms: The start of its era.
        until_ms: The end of its era.
        cut_ms: What a ring is asked about has arrived up to the tile of this instant.
        events: With the columns of the view's stream, `event_time_ms` and the event id.
        keys: Every entity that is asked for; the last was never seen.
        instants: As of when, ascending; each is asked of every key.
    """

    seed: int
    since_ms: int
    until_ms: int
    cut_ms: int
    events: tuple[Event, ...]
    keys: tuple[Key, ...]
    instants: tuple[int, ...]


def stream(view: View, seed: int) -> Stream:
    """The hostile stream of a seed; the same view and seed give the same stream."""
    return _Maker(view, seed).make()


class _Maker:
    def __init__(self, view: View, seed: int) -> None:
        self.view = view
        self.seed = seed
        self.dice = random.Random(f"{seed}")
        self.windows_ms = sorted({a.window_s * 1000 for a in view.aggregates})
        self.hops_ms = [layout.hop_ms for layout in view.layouts]
        longest = self.windows_ms[-1]
        era_ms = 4 * longest + 4 * self.hops_ms[-1]
        self.since_ms = BASE_MS + seed * era_ms
        self.until_ms = self.since_ms + era_ms
        self.focus_ms = self._near(self.since_ms + longest * 5 // 2)
        self.keys = [tuple(_KEYS[key.type][n] for key in view.join_keys) for n in range(KEYS + 1)]
        if len(view.join_keys) > 1:
            # A joint key whose parts are those of others.
            self.keys[2] = (*self.keys[0][:-1], self.keys[1][-1])
        # Counted values must pass the bound of what is counted exactly, sometimes.
        self.counted = {a.column for a in view.aggregates if a.function == "count_distinct"}
        self.many = bool(self.counted) and seed % 2 == 0
        self.flavour = {name: self.dice.randrange(5) for name in sorted(view.source_columns)}

    def make(self) -> Stream:
        events = self._arrived(self._with_twins(self._events()))
        return Stream(
            self.seed,
            self.since_ms,
            self.until_ms,
            self.focus_ms,
            tuple(events),
            tuple(self.keys),
            tuple(self._instants(events)),
        )

    def _chance(self, share: float) -> bool:
        return self.dice.random() < share

    def _near(self, at_ms: int) -> int:
        """On the edge of some tile, a millisecond beside it, or anywhere."""
        if self._chance(1 / 3):
            return at_ms + self.dice.randrange(self.hops_ms[-1])
        hop = self.dice.choice(self.hops_ms)
        return at_ms // hop * hop + self.dice.choice((-1, 0, 0, 1))

    def _events(self) -> list[dict[str, Any]]:
        gap = self._chance(0.3)
        found = []
        for number in range(self.dice.randint(5, EVENTS_MAX * (3 if self.many else 1))):
            idle = self._chance(0.05)
            at_ms = self._time(idle=idle)
            silent = self.windows_ms[0] // 4
            if gap and abs(at_ms - (self.focus_ms - silent)) < silent // 2:
                continue
            key = self.keys[3] if idle else self._key()
            found.append(self._event(number, at_ms, key))
        return found

    def _time(self, *, idle: bool) -> int:
        """At every scale that the view has: within a hop, within each window, before and after."""
        scale = self.dice.choice([*self.hops_ms, *self.windows_ms])
        back = int(scale * self.dice.uniform(-0.1, 1.5))
        if idle:
            back = int(self.windows_ms[-1] * self.dice.uniform(0.9, 1.1))
        at_ms = self.focus_ms - back
        return self._near(at_ms) if self._chance(0.4) else at_ms

    def _key(self) -> Key:
        if self._chance(HOT_SHARE):
            return self.keys[0]
        return self.keys[self.dice.randint(1, 2)]

    def _event(self, number: int, at_ms: int, key: Key) -> dict[str, Any]:
        columns = {
            name: self._value(kind, self.flavour[name], many=self.many and name in self.counted)
            for name, kind in self.view.source_columns.items()
        }
        names = [k.name for k in self.view.join_keys]
        event = columns | dict(zip(names, key, strict=True))
        if self._chance(0.03):
            event[self.dice.choice(names)] = None
        # Of many lengths, and not in the order of time: ties are broken by the text.
        event[self.view.event_id_field] = f"e{number * 7919 % 1000}"
        return event | {"event_time_ms": at_ms}

    def _value(self, kind: ColumnType, flavour: int, *, many: bool = False) -> float | str | None:
        dice = self.dice
        if flavour == 0 and self.seed % 3 == 0:
            return None
        if self._chance(NULL_SHARE):
            return None
        if many:
            number = dice.randrange(dice.choice((200, 2**53 + 2**20)))
            return f"é{number}" if kind == "string" else number
        if kind == "string":
            return dice.choice(_STRINGS[:3] if flavour == 1 else _STRINGS)
        if kind == "bigint":
            return 5 if flavour == 1 else dice.choice((0, dice.randint(-1_000, 1_000)))
        # Eighths add up exactly; tenths do not; few values tie.
        drawn = (dice.randint(-320, 320) / 8, 7.1, dice.choice((0.0, -0.0, 1.5, 2.5)))
        return drawn[flavour] if flavour < len(drawn) else dice.randint(1, 300) / 10

    def _with_twins(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Some events published twice, some under the id of another one at another time, some at one time."""
        twins = []
        for event in events:
            if self._chance(0.05):
                twins.append(dict(event))
            elif self._chance(0.05):
                later = event["event_time_ms"] + self.dice.choice((1, *self.hops_ms))
                twins.append(self._event(0, later, self._key()) | self._id_of(event))
            elif self._chance(0.1):
                tie = self._event(len(events) + len(twins), event["event_time_ms"], self._key())
                twins.append(tie)
        return [*events, *twins]

    def _id_of(self, event: Event) -> dict[str, Any]:
        return {self.view.event_id_field: event[self.view.event_id_field]}

    def _arrived(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """In order, backwards, some late, or any order at all."""
        events.sort(key=lambda e: e["event_time_ms"])
        match self.dice.randrange(4):
            case 0:
                events.reverse()
            case 1:
                self.dice.shuffle(events)
            case 2:
                late = [e for e in events if self._chance(0.2)]
                events = [e for e in events if all(e is not one for one in late)] + late
        return events

    def _instants(self, events: Sequence[Event]) -> list[int]:
        focus, dice = self.focus_ms, self.dice
        found = {focus - 1, focus, focus + 1}
        for hop in self.hops_ms:
            edge = (focus // hop + 1) * hop
            found |= {edge - 1, edge, edge + dice.choice(self.windows_ms)}
        for event in dice.sample(events, min(4, len(events))):
            at, hop = event["event_time_ms"], dice.choice(self.hops_ms)
            leaves = at // hop * hop + dice.choice(self.windows_ms)
            found |= {at, at - 1, leaves - 1, leaves}
        longest = self.windows_ms[-1]
        usable = sorted(t for t in found if abs(t - focus) <= longest)
        return sorted(dice.sample(usable, min(INSTANTS_MAX, len(usable))))
