from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from monitoring.loop import Decision, Loop, LoopEvent, alert_id, order_id
from monitoring.policy import DAY_MS, LoopPolicy
from schemas.control import (
    Alert,
    AlertKind,
    Candidate,
    RetrainingOrder,
    Verdict,
    VerdictKind,
)

POLICY = LoopPolicy(
    cool_down_ms=5 * DAY_MS, orders_max=2, orders_per_ms=30 * DAY_MS, look_back_ms=60 * DAY_MS
)
T0_MS = 15_858 * DAY_MS


def alert(window_ms: int, decision: Decision) -> Alert:
    return Alert(
        event_time_ms=window_ms + DAY_MS,
        event_id=alert_id("c", "v1", window_ms),
        case="c",
        decided_at_ms=1,
        kinds=(AlertKind.DATA_DRIFT,),
        window_start_ms=window_ms,
        window_end_ms=window_ms + DAY_MS,
        rows=1,
        version="v1",
        drifted=(),
        statistics={},
        metrics={},
        report="",
        acted_on=decision.acts,
        held_back_by=decision.held_back_by,
    )


def order(of: Alert) -> RetrainingOrder:
    return RetrainingOrder(
        event_time_ms=of.event_time_ms,
        event_id=order_id(of.event_id),
        case="c",
        decided_at_ms=1,
        alert_id=of.event_id,
        since_ms=of.event_time_ms - POLICY.look_back_ms,
        until_ms=of.event_time_ms,
        reason="drift",
    )


def candidate(order: str, at_ms: int, error: str | None = None) -> Candidate:
    return Candidate(
        event_time_ms=at_ms,
        event_id=f"candidate-{order}",
        case="c",
        decided_at_ms=1,
        order_id=order,
        model="m",
        version=None if error else "v2",
        folder=None,
        digest=None,
        error=error,
    )


def verdict(order: str, at_ms: int, kind: VerdictKind) -> Verdict:
    return Verdict(
        event_time_ms=at_ms,
        event_id=f"{kind}-{order}",
        case="c",
        decided_at_ms=1,
        verdict=kind,
        order_id=order,
        model="m",
        champion="v1",
        candidate="v2",
        champion_metrics={},
        candidate_metrics={},
        rows=1,
        reason="",
    )


class LoopMachine(RuleBasedStateMachine):
    """Drifted windows, answers to orders, restarts, repeats, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop(POLICY)
        self.now_ms = T0_MS
        self.events: list[LoopEvent] = []
        self.orders: list[RetrainingOrder] = []

    def publish(self, *events: LoopEvent) -> None:
        for event in events:
            self.events.append(event)
            self.loop.observe(event)

    @rule(days=st.integers(1, 12))
    def drifted_window(self, days: int) -> None:
        self.now_ms += days * DAY_MS
        decision = self.loop.decide(self.now_ms - DAY_MS, self.now_ms)
        assert not decision.repeated
        found = alert(self.now_ms - DAY_MS, decision)
        self.publish(found)
        if decision.acts:
            self.orders.append(order(found))
            self.publish(self.orders[-1])

    @precondition(lambda self: self.events)
    @rule(data=st.data())
    def window_judged_again(self, data: st.DataObject) -> None:
        known = [e for e in self.events if isinstance(e, Alert)]
        again = data.draw(st.sampled_from(known))
        assert self.loop.decide(again.window_start_ms, again.event_time_ms).repeated

    @precondition(lambda self: self.orders)
    @rule(kind=st.sampled_from(VerdictKind))
    def verdict_comes(self, kind: VerdictKind) -> None:
        self.publish(verdict(self.orders[-1].event_id, self.now_ms, kind))

    @precondition(lambda self: self.orders)
    @rule(error=st.sampled_from([None, "out of memory"]))
    def candidate_comes(self, error: str | None) -> None:
        self.publish(candidate(self.orders[-1].event_id, self.now_ms, error))

    @rule(random=st.randoms(use_true_random=False), repeats=st.integers(1, 3))
    def restart(self, random: object, repeats: int) -> None:
        replayed = self.events * repeats
        random.shuffle(replayed)  # type: ignore[attr-defined]
        rebuilt = Loop(POLICY)
        for event in replayed:
            rebuilt.observe(event)
        assert rebuilt == self.loop
        self.loop = rebuilt

    @invariant()
    def at_most_one_order_is_open(self) -> None:
        assert len(self.loop.open_orders()) <= 1

    @invariant()
    def orders_keep_their_distance_and_their_budget(self) -> None:
        times = [o.event_time_ms for o in self.orders]
        for earlier, later in pairwise(times):
            assert later - earlier >= POLICY.cool_down_ms
        for at_ms in times:
            recent = [t for t in times if at_ms - POLICY.orders_per_ms < t <= at_ms]
            assert len(recent) <= POLICY.orders_max


TestLoopMachine = LoopMachine.TestCase


@given(st.integers(0, 10**6))
def test_what_holds_an_alert_back_is_said(window: int) -> None:
    at_ms = T0_MS + window * 1_000
    loop = Loop(POLICY)
    first = alert(at_ms, loop.decide(at_ms, at_ms + DAY_MS))
    assert first.acted_on
    for event in (first, order(first)):
        loop.observe(event)
    held = loop.decide(at_ms + DAY_MS, at_ms + 2 * DAY_MS)
    assert held.held_back_by == f"open order {order_id(first.event_id)}"
    loop.observe(verdict(order_id(first.event_id), at_ms + 2 * DAY_MS, VerdictKind.REFUSE))
    assert (loop.decide(at_ms + 3 * DAY_MS, at_ms + 3 * DAY_MS).held_back_by or "").startswith(
        "cool-down"
    )
    assert loop.decide(at_ms + 8 * DAY_MS, at_ms + 8 * DAY_MS).acts
