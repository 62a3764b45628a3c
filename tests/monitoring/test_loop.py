from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from monitoring import brake
from monitoring.brake import BrakeRefused, Word
from monitoring.loop import Decision, Loop, LoopEvent, alert_id, order_id
from monitoring.policy import DAY_MS, HOUR_MS, LoopPolicy, QuietHours
from schemas.control import (
    Alert,
    AlertKind,
    Brake,
    BrakeKind,
    Candidate,
    RetrainingOrder,
    Verdict,
    VerdictKind,
)

POLICY = LoopPolicy(
    cool_down_ms=5 * DAY_MS, orders_max=2, orders_per_ms=30 * DAY_MS, look_back_ms=60 * DAY_MS
)
T0_MS = 15_858 * DAY_MS  # a Sunday
NIGHTS = QuietHours(22, 6)


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


def order(of: Alert, at_ms: int | None = None, approve_by_ms: int | None = None) -> RetrainingOrder:
    at_ms = of.event_time_ms if at_ms is None else at_ms
    return RetrainingOrder(
        event_time_ms=at_ms,
        event_id=order_id(of.event_id),
        case="c",
        decided_at_ms=1,
        alert_id=of.event_id,
        since_ms=at_ms - POLICY.look_back_ms,
        until_ms=at_ms,
        reason="drift",
        approve_by_ms=approve_by_ms,
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
    """Drifted windows, answers to orders, words of operators, restarts, repeats, in any order."""

    policy = POLICY

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop(self.policy)
        self.now_ms = T0_MS
        self.events: list[LoopEvent] = []
        self.orders: list[RetrainingOrder] = []

    def publish(self, *events: LoopEvent) -> None:
        for event in events:
            self.events.append(event)
            self.loop.observe(event)

    def open(self, found: Alert, at_ms: int) -> None:
        assert self.loop.paused(at_ms) is None
        assert self.policy.quiet_until_ms(at_ms) is None
        approve_by_ms = at_ms + self.policy.approval_ms if self.policy.approval else None
        self.orders.append(order(found, at_ms, approve_by_ms))
        self.publish(self.orders[-1])

    def settle(self) -> None:
        if (late := self.loop.lapsed(self.now_ms)) and late.approve_by_ms:
            word = Word(BrakeKind.LAPSE, "drift", "", late.event_id)
            brake.check(self.loop, word, late.approve_by_ms)
            self.publish(brake.brake("c", self.loop, word, late.approve_by_ms))
        if deferred := self.loop.deferred(self.now_ms):
            self.open(*deferred)

    @rule(hours=st.integers(1, 12 * 24))
    def drifted_window(self, hours: int) -> None:
        self.now_ms += hours * HOUR_MS
        self.settle()
        decision = self.loop.decide(self.now_ms - DAY_MS, self.now_ms)
        assert not decision.repeated
        found = alert(self.now_ms - DAY_MS, decision)
        self.publish(found)
        if decision.acts:
            self.open(found, self.now_ms)

    @rule(hours=st.integers(1, 48))
    def time_passes(self, hours: int) -> None:
        self.now_ms += hours * HOUR_MS
        self.settle()

    @precondition(lambda self: self.events)
    @rule(data=st.data())
    def window_judged_again(self, data: st.DataObject) -> None:
        known = [e for e in self.events if isinstance(e, Alert)]
        if known:
            again = data.draw(st.sampled_from(known))
            assert self.loop.decide(again.window_start_ms, again.event_time_ms).repeated

    @precondition(lambda self: self.orders)
    @rule(kind=st.sampled_from(VerdictKind))
    def verdict_comes(self, kind: VerdictKind) -> None:
        if self.may_train():
            self.publish(verdict(self.orders[-1].event_id, self.now_ms, kind))

    @precondition(lambda self: self.orders)
    @rule(error=st.sampled_from([None, "out of memory"]))
    def candidate_comes(self, error: str | None) -> None:
        if self.may_train():
            self.publish(candidate(self.orders[-1].event_id, self.now_ms, error))

    def may_train(self) -> bool:
        newest = self.orders[-1]
        return newest.approve_by_ms is None or newest.event_id in self.loop.approved

    @rule(
        kind=st.sampled_from(BrakeKind),
        hours=st.one_of(st.none(), st.integers(1, 200)),
        data=st.data(),
    )
    def word_of_an_operator(self, kind: BrakeKind, hours: int | None, data: st.DataObject) -> None:
        until_ms = self.now_ms + hours * HOUR_MS if hours and kind is BrakeKind.PAUSE else None
        of = None
        if kind not in (BrakeKind.PAUSE, BrakeKind.RESUME):
            of = data.draw(st.sampled_from(["order-x", *(o.event_id for o in self.orders)]))
        word = Word(kind, "somebody", "because", of, until_ms)
        if kind is BrakeKind.LAPSE:
            return
        try:
            brake.check(self.loop, word, self.now_ms)
        except BrakeRefused:
            return
        closed = set(self.loop.closed_ms)
        self.publish(brake.brake("c", self.loop, word, self.now_ms))
        if kind is BrakeKind.REFUSE:
            assert of not in self.loop.open_orders()
        elif kind is BrakeKind.APPROVE:
            assert of in self.loop.open_orders()
            assert of not in closed
        elif kind is BrakeKind.PAUSE:
            assert self.loop.paused(self.now_ms)
        else:
            assert not self.loop.paused(self.now_ms)

    @rule(random=st.randoms(use_true_random=False), repeats=st.integers(1, 3))
    def restart(self, random: object, repeats: int) -> None:
        replayed = self.events * repeats
        random.shuffle(replayed)  # type: ignore[attr-defined]
        rebuilt = Loop(self.policy)
        for event in replayed:
            rebuilt.observe(event)
        assert rebuilt == self.loop
        self.loop = rebuilt

    @invariant()
    def at_most_one_order_is_open(self) -> None:
        assert len(self.loop.open_orders()) <= 1

    @invariant()
    def nothing_is_approved_and_lapsed(self) -> None:
        words = [e for e in self.events if isinstance(e, Brake)]
        lapsed = {w.order_id for w in words if w.kind is BrakeKind.LAPSE}
        assert not lapsed & self.loop.approved

    @invariant()
    def orders_keep_their_distance_and_their_budget(self) -> None:
        times = [o.event_time_ms for o in self.orders]
        for earlier, later in pairwise(times):
            assert later - earlier >= POLICY.cool_down_ms
        for at_ms in times:
            recent = [t for t in times if at_ms - POLICY.orders_per_ms < t <= at_ms]
            assert len(recent) <= POLICY.orders_max


class CautiousMachine(LoopMachine):
    """The same where nothing trains unapproved, and nights and Saturdays are quiet."""

    policy = replace(
        POLICY, approval=True, quiet=(NIGHTS, QuietHours(6, 22, weekdays=(5,))), approval_ms=DAY_MS
    )


TestLoopMachine = LoopMachine.TestCase
TestCautiousMachine = CautiousMachine.TestCase


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


def at(day: int, hour: float) -> int:
    return T0_MS + day * DAY_MS + int(hour * HOUR_MS)


@pytest.mark.parametrize(
    ("quiet", "asked_ms", "until_ms"),
    [
        ((NIGHTS,), at(0, 21.9), None),
        ((NIGHTS,), at(0, 22), at(1, 6)),
        ((NIGHTS,), at(1, 5.9), at(1, 6)),
        ((NIGHTS,), at(1, 6), None),
        ((QuietHours(0, 24, weekdays=(6,)),), at(0, 0), at(1, 0)),
        ((QuietHours(0, 24, weekdays=(6,)),), at(1, 0), None),
        ((QuietHours(22, 6, weekdays=(0,)),), at(1, 3), None),
        ((NIGHTS, QuietHours(6, 12)), at(0, 23), at(1, 12)),
        ((), at(0, 0), None),
    ],
)
def test_quiet_hours_end_where_the_last_of_them_does(
    quiet: tuple[QuietHours, ...], asked_ms: int, until_ms: int | None
) -> None:
    assert replace(POLICY, quiet=quiet).quiet_until_ms(asked_ms) == until_ms


@pytest.mark.parametrize("given", [(1, 1), (-1, 3), (0, 25)])
def test_quiet_hours_that_cannot_be_meant_are_refused(given: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="quiet hours"):
        QuietHours(*given)


def quiet_alert(loop: Loop) -> Alert:
    """Of a window that closed at 23:00."""
    closed_ms = at(0, 23)
    found = alert(closed_ms - DAY_MS, loop.decide(closed_ms - DAY_MS, closed_ms))
    assert found.held_back_by == "quiet hours until 2013-06-03 06:00"
    return found


def test_what_quiet_hours_held_back_is_ordered_once_at_their_end() -> None:
    loop = Loop(replace(POLICY, quiet=(NIGHTS,)))
    found = quiet_alert(loop)
    loop.observe(found)
    assert loop.deferred(at(1, 5)) is None
    assert loop.deferred(at(1, 6)) == (found, at(1, 6)) == loop.deferred(at(2, 20))
    loop.observe(order(found, at(1, 6)))
    assert loop.deferred(at(1, 7)) is None


def test_a_pause_holds_back_what_quiet_hours_held_back() -> None:
    loop = Loop(replace(POLICY, quiet=(NIGHTS,)))
    loop.observe(quiet_alert(loop))
    word = Word(BrakeKind.PAUSE, "ann", "the labels are late", until_ms=at(3, 0))
    loop.observe(brake.brake("c", loop, word, at(1, 1)))
    assert loop.deferred(at(1, 6)) is None
    loop.observe(brake.brake("c", loop, Word(BrakeKind.RESUME, "ann", ""), at(2, 0)))
    assert loop.deferred(at(2, 1)) is None, "it was paused when it was due"
    loop.observe(brake.brake("c", loop, word, at(2, 6)))
    held = loop.decide(at(0, 12), at(2, 12))
    assert held.held_back_by == "pause by ann: the labels are late"
    assert loop.decide(at(2, 8), at(3, 8)).acts, "a pause ends by itself"


def test_of_pauses_the_newest_is_in_force_in_whatever_order_they_are_read() -> None:
    loop = Loop(POLICY)
    words = []
    for kind in (BrakeKind.PAUSE, BrakeKind.RESUME, BrakeKind.PAUSE, BrakeKind.RESUME):
        words.append(brake.brake("c", loop, Word(kind, "ann", ""), T0_MS))
        loop.observe(words[-1])
    assert [w.sequence for w in words] == [1, 2, 3, 4]
    other = Loop(POLICY)
    for word in reversed(words):
        other.observe(word)
    assert other == loop
    assert not loop.paused(T0_MS)


def test_a_proposal_waits_and_is_approved_or_lapses() -> None:
    policy = replace(POLICY, approval=True, approval_ms=DAY_MS)
    loop = Loop(policy)
    found = alert(T0_MS, loop.decide(T0_MS, T0_MS + DAY_MS))
    proposed = order(found, approve_by_ms=T0_MS + 2 * DAY_MS)
    loop.observe(found)
    loop.observe(proposed)
    assert loop.proposed() == proposed
    held = loop.decide(T0_MS + DAY_MS, T0_MS + 3 * DAY_MS).held_back_by or ""
    assert held.endswith("which waits for approval")
    approve = Word(BrakeKind.APPROVE, "ann", "", proposed.event_id)
    with pytest.raises(BrakeRefused, match="its time was up at 2013-06-04 00:00"):
        brake.check(loop, approve, T0_MS + 2 * DAY_MS + 1)
    brake.check(loop, approve, T0_MS + 2 * DAY_MS)
    late = replace(loop, approved=set(), closed_ms={})
    loop.observe(brake.brake("c", loop, approve, T0_MS + DAY_MS))
    assert loop.proposed() is None
    assert loop.lapsed(T0_MS + 9 * DAY_MS) is None
    assert loop.open_orders() == [proposed.event_id]
    lapse = Word(BrakeKind.LAPSE, "drift", "", proposed.event_id)
    with pytest.raises(BrakeRefused, match="it is approved"):
        brake.check(loop, lapse, T0_MS + 9 * DAY_MS)
    assert late.lapsed(T0_MS + 9 * DAY_MS) == proposed
    late.observe(brake.brake("c", late, lapse, T0_MS + 2 * DAY_MS))
    assert late.open_orders() == []


@pytest.mark.parametrize("until_ms", [None, T0_MS + DAY_MS])
def test_a_second_pause_needs_another_end(until_ms: int | None) -> None:
    loop = Loop(POLICY)
    word = Word(BrakeKind.PAUSE, "ann", "labels", until_ms=until_ms)
    brake.check(loop, word, T0_MS)
    loop.observe(brake.brake("c", loop, word, T0_MS))
    with pytest.raises(BrakeRefused, match=r"another end, but it is paused .* by ann: labels"):
        brake.check(loop, replace(word, by="bob"), T0_MS)
    brake.check(loop, replace(word, until_ms=T0_MS + 2 * DAY_MS), T0_MS)
    if until_ms is not None:
        brake.check(loop, replace(word, until_ms=None), T0_MS)
    loop.observe(brake.brake("c", loop, Word(BrakeKind.RESUME, "ann", ""), T0_MS))
    brake.check(loop, word, T0_MS)


@pytest.mark.parametrize(
    ("kind", "after", "said"),
    [
        (BrakeKind.APPROVE, None, "it waits for nobody"),
        (BrakeKind.REFUSE, "candidate", "its candidate is there"),
        (BrakeKind.REFUSE, "failed", "it is closed"),
        (BrakeKind.RESUME, None, "it is not paused"),
    ],
)
def test_a_word_that_changes_nothing_is_refused(
    kind: BrakeKind, after: str | None, said: str
) -> None:
    loop = Loop(POLICY)
    ordered = order(alert(T0_MS, loop.decide(T0_MS, T0_MS)))
    loop.observe(ordered)
    if after:
        error = "boom" if after == "failed" else None
        loop.observe(candidate(ordered.event_id, T0_MS, error))
    of = None if kind is BrakeKind.RESUME else ordered.event_id
    with pytest.raises(BrakeRefused, match=said):
        brake.check(loop, Word(kind, "ann", "", of), T0_MS)


def orders_of(policy: LoopPolicy, drifted: list[bool], *, live: bool) -> list[tuple[str, int]]:
    """What is ordered over as many days, windows that close at 23:00, if the loop looks every hour, or only as they close."""
    loop, orders = Loop(policy), []

    def settle(now_ms: int) -> None:
        if deferred := loop.deferred(now_ms):
            opens(*deferred)
        if (late := loop.lapsed(now_ms)) and late.approve_by_ms:
            word = Word(BrakeKind.LAPSE, "drift", "", late.event_id)
            loop.observe(brake.brake("c", loop, word, late.approve_by_ms))

    def opens(found: Alert, now_ms: int) -> None:
        by_ms = now_ms + policy.approval_ms if policy.approval else None
        made = order(found, now_ms, by_ms)
        orders.append((made.event_id, now_ms))
        loop.observe(made)

    for day, drifts in enumerate(drifted):
        for hour in range(24) if live else ():
            settle(at(day - 1, 23 + hour))
        closes_ms = at(day, 23)
        settle(closes_ms)
        decision = loop.decide(closes_ms - DAY_MS, closes_ms)
        if drifts:
            found = alert(closes_ms - DAY_MS, decision)
            loop.observe(found)
            if decision.acts:
                opens(found, closes_ms)
    settle(at(len(drifted), 22))
    return orders


@given(
    st.lists(st.booleans(), min_size=1, max_size=25),
    st.sampled_from([(), (NIGHTS,), (NIGHTS, QuietHours(0, 24, weekdays=(5, 6)))]),
    st.booleans(),
)
def test_a_replay_of_the_past_orders_what_the_past_did(
    drifted: list[bool], quiet: tuple[QuietHours, ...], approval: object
) -> None:
    policy = replace(POLICY, quiet=quiet, approval=bool(approval), approval_ms=DAY_MS // 2)
    assert orders_of(policy, drifted, live=True) == orders_of(policy, drifted, live=False)
