"""Which version answers which key: the state that release events fold into, and the next releases (pure).

A pin goes before a rule, a rule before the split. The split is a hash of (key, salt); rules only take keys away from it, so
that a canary never answers more than its share of the keys that are not pinned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import xxhash

from schemas.control import CanaryRule, Release, RoutingRule
from schemas.results import PINNED, ROUTED, Route

_HASHES = 1 << 64


@dataclass(frozen=True)
class Arm:
    """One side of the split: a version, and the route that results answered by it carry; `why` where it was assigned."""

    version: str
    route: Route
    why: str = ""


@dataclass(frozen=True)
class ReleaseState:
    """What `control.releases` says of one use case so far; `release` is None before the first one.

    `rules` are the use case's own (`serving.<case>.ROUTING`).
    """

    case: str
    release: Release | None = None
    rules: tuple[RoutingRule, ...] = ()

    @property
    def epoch(self) -> int:
        """The epoch in force; 0 before the first release."""
        return self.release.epoch if self.release else 0

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version that must be in memory, champion first, each once."""
        if self.release is None:
            return ()
        now = self.release
        named = (now.champion, now.canary, now.shadow, *now.pins.values())
        return tuple(dict.fromkeys(version for version in named if version is not None))

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a request that `arms` must be told of."""
        return tuple(dict.fromkeys(field for field, _ in self._rules_in_force()))

    def fold(self, event: Release) -> ReleaseState:
        """The state after `event`; another use case's, or an epoch not above this one, changes nothing.

        Repeats and disorder are therefore harmless: any order of the same events ends in the same state.
        """
        if event.case != self.case or event.epoch <= self.epoch:
            return self
        return replace(self, release=event)

    def fold_all(self, events: Iterable[Release]) -> ReleaseState:
        """The state after all of `events`."""
        state = self
        for event in events:
            state = state.fold(event)
        return state

    def arms(
        self, keys: Sequence[str], attributes: Mapping[str, Sequence[object]] | None = None
    ) -> list[Arm]:
        """The arm that answers each key; the same on every replica, whatever partition the key came from.

        Args:
            keys: One a request.
            attributes: Field → its value in each request, for every one of `fields`; a rule over a field that is
                not given fits nothing.

        Raises:
            ValueError: Before the first release there is nobody to answer; a scorer must not have polled.
        """
        release = self.release
        if release is None:
            raise ValueError(f"{self.case}: no release to route by")
        arms = _split(release, keys)
        if release.canary is not None:
            for row, why in _held(self._rules_in_force(), attributes or {}, len(keys)).items():
                arms[row] = Arm(release.champion, Route.ASSIGNED, why)
        if release.pins:
            for row, key in enumerate(keys):
                if (version := release.pins.get(key)) is not None:
                    arms[row] = Arm(version, Route.ASSIGNED, f"{PINNED}: {version}")
        return arms

    def _rules_in_force(self) -> dict[tuple[str, str], CanaryRule]:
        """(field, value) → what holds of it; the release's go before the use case's."""
        if self.release is None:
            return {}
        said = {(r.field, r.value): r.canary for r in (*self.rules, *self.release.rules)}
        return {place: rule for place, rule in said.items() if rule is not CanaryRule.SPLIT}


def _split(release: Release, keys: Sequence[str]) -> list[Arm]:
    champion = Arm(release.champion, Route.CHAMPION)
    if release.canary is None or release.canary_share <= 0:
        return [champion] * len(keys)
    canary = Arm(release.canary, Route.CANARY)
    # Whole numbers, because a share of 1 must take every hash and floats round the highest ones up to 1.
    bound = int(release.canary_share * _HASHES)
    salt = release.salt
    return [
        canary if xxhash.xxh64_intdigest(f"{key}{salt}".encode()) < bound else champion
        for key in keys
    ]


def _held(
    rules: Mapping[tuple[str, str], CanaryRule],
    attributes: Mapping[str, Sequence[object]],
    rows: int,
) -> dict[int, str]:
    """Row → why it stays with the champion."""
    only = [place for place, rule in rules.items() if rule is CanaryRule.ONLY]
    held: dict[int, str] = {}
    if only:
        fitting = {row for place in only for row in _fitting(place, attributes)}
        said = " or ".join(f"{field}={value}" for field, value in only)
        why = f"{ROUTED}: the canary is tried on {said} only"
        held = {row: why for row in range(rows) if row not in fitting}
    for place, rule in rules.items():
        if rule is CanaryRule.NEVER:
            why = f"{ROUTED}: {place[0]}={place[1]} never goes to a canary"
            held |= dict.fromkeys(_fitting(place, attributes), why)
    return held


def _fitting(place: tuple[str, str], attributes: Mapping[str, Sequence[object]]) -> Iterable[int]:
    field, value = place
    return [row for row, one in enumerate(attributes.get(field, ())) if str(one) == value]


def with_canary(
    now: Release, *, candidate: str, share: float, salt: str, **stamp: str | int
) -> Release:
    """`candidate` answers `share` of the keys beside the champion of `now`.

    A salt of its own draws other keys than the last canary's, so that no entity is always the one experimented on.

    Args:
        now: The release in force.
        candidate: The version to try.
        share: Part of the keys in [0, 1].
        salt: What the split is salted with; the candidate's version will do.
        **stamp: `event_id`, `event_time_ms`, `decided_at_ms`, `reason`, `decided_by`.
    """
    return _next(now, canary=candidate, canary_share=share, salt=salt, **stamp)


def with_shadow(now: Release, version: str | None, **stamp: str | int) -> Release:
    """`version` scores what the others answer, beside them; None ends that."""
    return _next(now, shadow=version, **stamp)


def with_pin(now: Release, key: str, version: str | None, **stamp: str | int) -> Release:
    """`version` answers `key` from now on, whatever the split and the rules say; None gives it back to them."""
    others = {pinned: to for pinned, to in now.pins.items() if pinned != key}
    return _next(now, pins=others if version is None else others | {key: version}, **stamp)


def with_rule(
    now: Release, field: str, value: str, canary: CanaryRule | None, **stamp: str | int
) -> Release:
    """A rule that goes before the use case's; None takes it back, so that the use case's holds again."""
    others = [r for r in now.rules if (r.field, r.value) != (field, value)]
    if canary is not None:
        others.append(RoutingRule(field=field, value=value, canary=canary))
    return _next(now, rules=tuple(others), **stamp)


def promoted(now: Release, **stamp: str | int) -> Release:
    """The canary of `now` becomes the champion.

    Raises:
        ValueError: There is no canary.
    """
    if now.canary is None:
        raise ValueError(f"{now.case}: epoch {now.epoch} has no canary to promote")
    return _next(now, champion=now.canary, canary=None, canary_share=0.0, suspended=False, **stamp)


def suspended(now: Release, incident: str, **stamp: str | int) -> Release:
    """The champion of `now` is asked no more, and the rule answers in its place, because of an incident."""
    return _next(now, suspended=True, incident=incident, **stamp)


def resumed(now: Release, **stamp: str | int) -> Release:
    """The champion of `now` is asked again; the incident stays known, so that only a later one suspends it again."""
    return _next(now, suspended=False, **stamp)


def rolled_back(now: Release, **stamp: str | int) -> Release:
    """The champion of `now` answers alone; pins to the canary end with it.

    Raises:
        ValueError: There is no canary.
    """
    if now.canary is None:
        raise ValueError(f"{now.case}: epoch {now.epoch} has no canary to roll back")
    pins = {key: version for key, version in now.pins.items() if version != now.canary}
    return _next(now, canary=None, canary_share=0.0, pins=pins, **stamp)


def _next(now: Release, **changes: object) -> Release:
    return Release.model_validate(now.model_dump() | {"epoch": now.epoch + 1} | changes)
