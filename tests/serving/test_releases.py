from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.control import Release
from schemas.results import Route
from serving.releases import ReleaseState, promoted, rolled_back, with_canary

STAMP: dict[str, Any] = {
    "event_id": "e",
    "event_time_ms": 1_370_000_000_000,
    "decided_at_ms": 1_370_000_000_000,
    "reason": "a test",
    "decided_by": "test",
}


def release(epoch: int = 1, **changes: Any) -> Release:
    fields = {"case": "flights", "epoch": epoch, "model": "m", "champion": "v1", "salt": "s"}
    return Release(**STAMP | fields | changes)


keys = st.lists(st.text(max_size=12), max_size=50)
shares = st.floats(0, 1, allow_nan=False)


@given(st.lists(st.integers(1, 20), unique=True, min_size=1), st.randoms())
def test_any_order_and_any_repeats_end_in_the_same_state(
    epochs: list[int], shuffle: random.Random
) -> None:
    events = [release(epoch, champion=f"v{epoch}") for epoch in epochs]
    disordered = events + events[: len(events) // 2]
    shuffle.shuffle(disordered)

    state = ReleaseState("flights").fold_all(disordered)

    assert state == ReleaseState("flights", release(max(epochs), champion=f"v{max(epochs)}"))


def test_another_use_case_changes_nothing() -> None:
    state = ReleaseState("flights", release(2))
    assert state.fold(release(9, case="payments")) is state


def test_an_equal_or_lower_epoch_changes_nothing() -> None:
    state = ReleaseState("flights", release(2))
    assert state.fold(release(2, champion="other")) is state
    assert state.fold(release(1, champion="other")) is state


@given(keys, shares, shares)
def test_a_larger_share_only_adds_keys(names: list[str], one: float, other: float) -> None:
    low, high = sorted((one, other))
    few = _canary_keys(names, canary_share=low)
    many = _canary_keys(names, canary_share=high)
    assert few <= many


@given(keys, shares)
def test_the_split_is_of_the_key_alone(names: list[str], share: float) -> None:
    state = ReleaseState("flights", release(canary="v2", canary_share=share))
    assert state.arms(names) == [state.arms([name])[0] for name in names]
    assert state.arms(names[::-1]) == state.arms(names)[::-1]


@given(keys)
def test_no_share_and_the_whole_share(names: list[str]) -> None:
    assert _canary_keys(names, canary_share=0.0) == set()
    assert _canary_keys(names, canary_share=1.0) == set(names)


def test_the_share_is_kept_and_the_salt_redraws() -> None:
    names = [f"N{i:05}" for i in range(50_000)]
    one = _canary_keys(names, canary_share=0.1, salt="one")
    other = _canary_keys(names, canary_share=0.1, salt="other")

    # 50,000 draws at 0.1: the standard deviation is 67 keys.
    assert len(one) == pytest.approx(5_000, abs=5 * 67)
    assert len(one & other) == pytest.approx(500, abs=5 * 22)


def test_a_known_split_never_changes() -> None:
    """Recorded: another hash would move every entity to another arm in the middle of a canary."""
    state = ReleaseState("flights", release(canary="v2", canary_share=0.3, salt="v2"))
    names = [f"N{i}" for i in range(12)]
    assert [n for n in names if state.arms([n])[0].route is Route.CANARY] == RECORDED


def test_before_the_first_release_nobody_answers() -> None:
    with pytest.raises(ValueError, match="no release"):
        ReleaseState("flights").arms(["a"])


def test_versions_come_champion_first_and_once() -> None:
    state = ReleaseState("flights", release(canary="v2", canary_share=0.1, shadow="v1"))
    assert state.versions == ("v1", "v2")


def test_canary_then_promotion_or_rollback() -> None:
    tried = with_canary(release(), candidate="v2", share=0.1, salt="v2", **STAMP)
    assert (tried.epoch, tried.canary, tried.canary_share) == (2, "v2", 0.1)

    won = promoted(tried, **STAMP)
    assert (won.epoch, won.champion, won.canary, won.canary_share) == (3, "v2", None, 0.0)

    lost = rolled_back(tried, **STAMP)
    assert (lost.epoch, lost.champion, lost.canary, lost.canary_share) == (3, "v1", None, 0.0)


def test_nothing_to_promote_or_to_roll_back() -> None:
    with pytest.raises(ValueError, match="no canary to promote"):
        promoted(release(), **STAMP)
    with pytest.raises(ValueError, match="no canary to roll back"):
        rolled_back(release(), **STAMP)


def _canary_keys(names: list[str], **changes: Any) -> set[str]:
    arms = ReleaseState("flights", release(canary="v2", **changes)).arms(names)
    return {n for n, arm in zip(names, arms, strict=True) if arm.route is Route.CANARY}


RECORDED = ["N0", "N1", "N8", "N9"]
