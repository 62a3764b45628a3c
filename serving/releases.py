"""Which version answers which key: the state that release events fold into, and the next releases (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import xxhash

from schemas.control import Release
from schemas.results import Route

_HASHES = 1 << 64


@dataclass(frozen=True)
class Arm:
    """One side of the split: a version, and the route that results answered by it carry."""

    version: str
    route: Route


@dataclass(frozen=True)
class ReleaseState:
    """What `control.releases` says of one use case so far; `release` is None before the first one."""

    case: str
    release: Release | None = None

    @property
    def epoch(self) -> int:
        """The epoch in force; 0 before the first release."""
        return self.release.epoch if self.release else 0

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version that must be in memory, champion first, each once."""
        if self.release is None:
            return ()
        named = (self.release.champion, self.release.canary, self.release.shadow)
        return tuple(dict.fromkeys(version for version in named if version is not None))

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

    def arms(self, keys: Sequence[str]) -> list[Arm]:
        """The arm that answers each key; the same on every replica, whatever partition the key came from.

        Raises:
            ValueError: Before the first release there is nobody to answer; a scorer must not have polled.
        """
        release = self.release
        if release is None:
            raise ValueError(f"{self.case}: no release to route by")
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


def promoted(now: Release, **stamp: str | int) -> Release:
    """The canary of `now` becomes the champion.

    Raises:
        ValueError: There is no canary.
    """
    if now.canary is None:
        raise ValueError(f"{now.case}: epoch {now.epoch} has no canary to promote")
    return _next(now, champion=now.canary, canary=None, canary_share=0.0, **stamp)


def rolled_back(now: Release, **stamp: str | int) -> Release:
    """The champion of `now` answers alone.

    Raises:
        ValueError: There is no canary.
    """
    if now.canary is None:
        raise ValueError(f"{now.case}: epoch {now.epoch} has no canary to roll back")
    return _next(now, canary=None, canary_share=0.0, **stamp)


def _next(now: Release, **changes: str | float | None) -> Release:
    return Release.model_validate(now.model_dump() | {"epoch": now.epoch + 1} | changes)
