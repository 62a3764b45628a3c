"""Which views are older than their use case has signed off, as of each request.

What counts is the newest event that a view has seen, whoever's it is: a card that has not paid for a day makes nothing
stale, a stream that nobody hears of does. So it is what `headrace requirements check` measures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from features.ring import NO_RING_AGE_MS

if TYPE_CHECKING:
    from features.tiles import Ints
    from features.vectors import Vectors
    from schemas.requirements import Freshness

STALE = "stale"
# How often the online store is asked how far a view has come, while what was read says that it is too old.
ASK_EVERY_S = 1.0
_NO_LIMIT_MS = np.iinfo(np.int64).max


def limits_ms(signed: Freshness | None, windowed: Sequence[str]) -> dict[str, int]:
    """View → the age above which it is stale: `s` for those of windows, and what single views are held to."""
    if signed is None:
        return {}
    general = dict.fromkeys(windowed, signed.s) if signed.s is not None else {}
    return {view: int(limit_s * 1000) for view, limit_s in {**general, **signed.views}.items()}


class Staleness:
    """How far views have come. Keep one a reader of vectors.

    The newest event behind any vector that was read is known for nothing. Only where that is too old is the online store asked.
    A view that has no clock there (it has seen nothing yet, or is written by no stream) is never stale.

    Args:
        views: In the order of the columns of the vectors' `age_ms`.
        limits_ms: View → the age above which it is stale; views without one never are.
        clocks: View → its newest event's time, as the online store knows it.
        clock_s: A clock that only goes forward.
    """

    def __init__(
        self,
        views: Sequence[str],
        limits_ms: Mapping[str, int],
        clocks: Callable[[], Mapping[str, int]],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._views, self._clocks, self._clock_s = tuple(views), clocks, clock_s
        self._limited = any(view in limits_ms for view in views)
        self._limits = np.array([limits_ms.get(view, _NO_LIMIT_MS) for view in views], np.int64)
        self._latest = np.zeros(len(self._views), dtype=np.int64)
        self._has_clock = np.zeros(len(self._views), dtype=np.bool_)
        self._asked_s = -np.inf

    def marks(self, vectors: Vectors, as_of_ms: Ints) -> dict[int, tuple[str, ...]]:
        """Row → a reason for each of its stale views; most batches have none.

        Raises:
            OnlineStoreUnavailable: The store was asked and did not answer.
        """
        if not self._limited or not len(as_of_ms):
            return {}
        as_of = as_of_ms[:, np.newaxis]
        clock = np.where(vectors.age_ms == NO_RING_AGE_MS, 0, as_of - vectors.age_ms)
        self._latest = np.maximum(self._latest, clock.max(axis=0))
        if not (as_of_ms.max() - self._latest > self._limits).any():
            return {}
        self._ask()
        ages = as_of - self._latest
        marked: dict[int, tuple[str, ...]] = {}
        for row, at in np.argwhere((ages > self._limits) & self._has_clock).tolist():
            why = self._reason(at, int(ages[row, at]))
            marked[row] = (*marked.get(row, ()), why)
        return marked

    def _ask(self) -> None:
        if self._clock_s() - self._asked_s < ASK_EVERY_S:
            return
        found = self._clocks()
        self._asked_s = self._clock_s()
        held = np.array([found.get(view, 0) for view in self._views], dtype=np.int64)
        self._has_clock |= held > 0
        self._latest = np.maximum(self._latest, held)

    def _reason(self, at: int, age_ms: int) -> str:
        said = f"{STALE}: {self._views[at]} has seen no event for {age_ms / 1000:.0f} s"
        return f"{said}, {self._limits[at] / 1000:.0f} s are the limit"
