from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from features.vectors import Vectors
from schemas.requirements import Freshness
from serving.staleness import ASK_EVERY_S, Staleness, limits_ms

VIEWS = ("cards", "merchants", "facts")
LIMITS_MS = {"cards": 60_000, "merchants": 60_000}
T0_MS = 1_370_000_000_000


class Store:
    """What the online store says of views' clocks, and how often it was asked; the wall clock stands where it is put."""

    def __init__(self, **clocks: int) -> None:
        self.clocks, self.asked, self.now_s = clocks, 0, 100.0

    def __call__(self) -> dict[str, int]:
        self.asked += 1
        return self.clocks


def staleness(store: Store, limits: dict[str, int] = LIMITS_MS) -> Staleness:
    return Staleness(VIEWS, limits, store, lambda: store.now_s)


def vectors(*ages_ms: Sequence[int]) -> Vectors:
    age_ms = np.array(ages_ms, dtype=np.int64)
    nothing = np.zeros((len(age_ms), 0))
    return Vectors((), VIEWS, nothing, age_ms, age_ms < -1, T0_MS, 0)


def at(*times_ms: int) -> np.ndarray:
    return np.array(times_ms, dtype=np.int64)


def test_an_entity_may_be_silent_while_its_view_is_not() -> None:
    store = Store()
    old, never = 86_400_000, -1
    found = staleness(store).marks(
        vectors([old, 5_000, never], [1_000, never, old]), at(T0_MS, T0_MS)
    )
    assert (found, store.asked) == ({}, 0)


def test_a_view_that_has_seen_nothing_for_too_long_is_named_row_by_row() -> None:
    store = Store(cards=T0_MS, merchants=T0_MS + 61_000)
    found = staleness(store).marks(
        vectors([60_000, 0, -1], [61_000, 1, 10**9]), at(T0_MS + 60_000, T0_MS + 61_000)
    )
    assert found == {
        1: ("stale: cards has seen no event for 61 s, 60 s are the limit",),
    }


def test_what_nobody_asked_for_was_seen_as_well() -> None:
    """The entities of the batch are old; the store knows of others."""
    store = Store(cards=T0_MS - 5, merchants=T0_MS - 5)
    assert staleness(store).marks(vectors([10**8, 10**8, -1]), at(T0_MS)) == {}
    assert store.asked == 1


def test_the_store_is_asked_once_a_second_at_most() -> None:
    store = Store(cards=T0_MS)
    judged = staleness(store)
    late = vectors([100_000, 0, 0])
    for _ in range(3):
        assert list(judged.marks(late, at(T0_MS + 100_000))) == [0]
    assert store.asked == 1
    store.clocks["cards"], store.now_s = T0_MS + 99_000, store.now_s + ASK_EVERY_S
    assert judged.marks(late, at(T0_MS + 100_000)) == {}
    assert store.asked == 2


def test_a_view_without_a_clock_or_a_limit_is_never_stale() -> None:
    store = Store(facts=1)
    assert staleness(store).marks(vectors([-1, 10**9, 10**9]), at(T0_MS)) == {}
    none = Store(cards=1)
    assert staleness(none, {}).marks(vectors([10**9, 10**9, 10**9]), at(T0_MS)) == {}
    assert none.asked == 0


@pytest.mark.parametrize(
    ("signed", "wanted"),
    [
        (None, {}),
        (Freshness(s=60), {"cards": 60_000, "merchants": 60_000}),
        (Freshness(s=60, views={"cards": 0.5}), {"cards": 500, "merchants": 60_000}),
        (Freshness(views={"facts": 3_600}), {"facts": 3_600_000}),
    ],
)
def test_the_limits_are_what_was_signed_off(
    signed: Freshness | None, wanted: dict[str, int]
) -> None:
    assert limits_ms(signed, ("cards", "merchants")) == wanted
