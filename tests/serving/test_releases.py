from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.control import CanaryRule, Release, RoutingRule
from schemas.results import Route
from serving.releases import (
    ReleaseState,
    promoted,
    rolled_back,
    with_canary,
    with_pin,
    with_rule,
    with_shadow,
)

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


tenants = st.sampled_from(["acme", "bank", "other"])
rules = st.lists(
    st.builds(
        RoutingRule,
        field=st.sampled_from(["tenant", "tier"]),
        value=st.sampled_from(["acme", "bank", "high"]),
        canary=st.sampled_from(CanaryRule),
    ),
    max_size=4,
).map(tuple)
asked = st.lists(st.tuples(st.text(max_size=6), tenants, st.sampled_from(["low", "high"])))
pins = st.dictionaries(st.text(max_size=6), st.sampled_from(["v1", "v2", "v7"]), max_size=4)


def _arms(state: ReleaseState, requests: list[tuple[str, str, str]]) -> list[Any]:
    keys, tenant, tier = zip(*requests, strict=True) if requests else ((), (), ())
    return state.arms(keys, {"tenant": tenant, "tier": tier})


@given(asked, shares, rules, rules, pins)
def test_rules_only_narrow_a_canary_and_pins_win(
    requests: list[tuple[str, str, str]],
    share: float,
    declared: tuple[RoutingRule, ...],
    released: tuple[RoutingRule, ...],
    pinned: dict[str, str],
) -> None:
    free = ReleaseState("flights", release(canary="v2", canary_share=share))
    now = release(canary="v2", canary_share=share, rules=released, pins=pinned)
    state = ReleaseState("flights", now, declared)

    arms = _arms(state, requests)

    assert arms == [_arms(state, [one])[0] for one in requests]
    for (key, *_), arm, before in zip(requests, arms, _arms(free, requests), strict=True):
        if key in pinned:
            assert (arm.version, arm.route) == (pinned[key], Route.ASSIGNED)
        elif arm.route is Route.CANARY:
            assert before.route is Route.CANARY
        else:
            assert arm.version == "v1"
        assert bool(arm.why) == (arm.route is Route.ASSIGNED)


def test_never_only_and_split() -> None:
    never = RoutingRule(field="tier", value="high", canary=CanaryRule.NEVER)
    only = RoutingRule(field="tenant", value="acme", canary=CanaryRule.ONLY)
    whole = release(canary="v2", canary_share=1.0)
    requests = [("a", "acme", "low"), ("b", "acme", "high"), ("c", "bank", "low")]

    def versions(state: ReleaseState) -> list[str]:
        return [arm.version for arm in _arms(state, requests)]

    assert versions(ReleaseState("flights", whole, (never,))) == ["v2", "v1", "v2"]
    assert versions(ReleaseState("flights", whole, (never, only))) == ["v2", "v1", "v1"]
    lifted = with_rule(whole, "tier", "high", CanaryRule.SPLIT, **STAMP)
    assert versions(ReleaseState("flights", lifted, (never,))) == ["v2", "v2", "v2"]
    assert ReleaseState("flights", lifted, (never,)).fields == ()
    back = with_rule(lifted, "tier", "high", None, **STAMP)
    assert versions(ReleaseState("flights", back, (never,))) == ["v2", "v1", "v2"]
    narrowed = with_rule(whole, "tenant", "acme", CanaryRule.ONLY, **STAMP)
    assert ReleaseState("flights", narrowed).arms(["a"], {})[0].version == "v1"


def test_without_a_canary_rules_hold_nobody() -> None:
    never = RoutingRule(field="tier", value="high", canary=CanaryRule.NEVER)
    [arm] = _arms(ReleaseState("flights", release(), (never,)), [("a", "acme", "high")])
    assert (arm.route, arm.why) == (Route.CHAMPION, "")


def test_pins_and_shadow_come_and_go() -> None:
    pinned = with_pin(with_pin(release(), "a", "v7", **STAMP), "b", "v1", **STAMP)
    assert pinned.pins == {"a": "v7", "b": "v1"}
    assert ReleaseState("flights", pinned).versions == ("v1", "v7")
    assert with_pin(pinned, "a", None, **STAMP).pins == {"b": "v1"}
    assert with_shadow(pinned, "v3", **STAMP).shadow == "v3"
    assert with_shadow(with_shadow(pinned, "v3", **STAMP), None, **STAMP).shadow is None


def test_a_roll_back_takes_the_pins_to_the_canary_with_it() -> None:
    tried = with_canary(release(), candidate="v2", share=0.1, salt="v2", **STAMP)
    tried = with_pin(with_pin(tried, "a", "v2", **STAMP), "b", "v7", **STAMP)
    assert rolled_back(tried, **STAMP).pins == {"b": "v7"}
    assert promoted(tried, **STAMP).pins == {"a": "v2", "b": "v7"}


changes = st.lists(
    st.one_of(
        st.builds(
            lambda v, s: lambda now: with_canary(now, candidate=v, share=s, salt=v, **STAMP),
            st.sampled_from(["v2", "v3"]),
            shares,
        ),
        st.just(lambda now: promoted(now, **STAMP) if now.canary else now),
        st.just(lambda now: rolled_back(now, **STAMP) if now.canary else now),
        st.builds(
            lambda k, v: lambda now: with_pin(now, k, v, **STAMP),
            st.text(max_size=3),
            st.none() | st.just("v2"),
        ),
    ),
    max_size=12,
)


@given(changes)
def test_every_change_is_the_next_epoch(steps: list[Any]) -> None:
    now = release()
    for step in steps:
        after = step(now)
        assert after is now or after.epoch == now.epoch + 1
        assert Release.model_validate_json(after.encode()) == after
        now = after


def _canary_keys(names: list[str], **changes: Any) -> set[str]:
    arms = ReleaseState("flights", release(canary="v2", **changes)).arms(names)
    return {n for n, arm in zip(names, arms, strict=True) if arm.route is Route.CANARY}


RECORDED = ["N0", "N1", "N8", "N9"]
