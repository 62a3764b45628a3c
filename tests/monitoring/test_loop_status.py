from __future__ import annotations

from dataclasses import replace

from monitoring import brake
from monitoring.brake import Word, folded
from monitoring.loop import Loop
from monitoring.loop_status import loop_status
from monitoring.policy import DAY_MS
from schemas.control import BrakeKind, ControlEvent, VerdictKind
from schemas.control_log import Entry
from tests.monitoring.test_loop import NIGHTS, POLICY, T0_MS, alert, at, candidate, order, verdict


def entries(*events: ControlEvent) -> list[Entry]:
    return [Entry(event, index) for index, event in enumerate(events)]


def test_a_loop_without_events_is_armed() -> None:
    told = loop_status("c", [], POLICY, T0_MS, 5)
    assert (told.state, told.held_back_by, told.order, told.alerts) == ("armed", None, None, ())
    assert (told.budget_left, told.cool_down_until_ms) == (2, None)


def test_every_step_of_an_order_is_told() -> None:
    policy = replace(POLICY, approval=True)
    loop = Loop(policy)
    found = alert(T0_MS, loop.decide(T0_MS, T0_MS + DAY_MS))
    proposed = order(found, approve_by_ms=T0_MS + 3 * DAY_MS)
    log: list[ControlEvent] = [found, proposed]
    told = loop_status("c", entries(*log), policy, T0_MS + DAY_MS, 5)
    assert told.state == "proposed"
    assert [a.done for a in told.alerts] == ["proposed"]
    word = Word(BrakeKind.APPROVE, "ann", "looked", proposed.event_id)
    log.append(brake.brake("c", folded(entries(*log), policy), word, T0_MS + DAY_MS))
    log.append(candidate(proposed.event_id, T0_MS + DAY_MS))
    log.append(verdict(proposed.event_id, T0_MS + DAY_MS, VerdictKind.ADMIT))
    told = loop_status("c", entries(*log, *log), policy, T0_MS + DAY_MS, 5)
    assert told.state == "retraining"
    assert told.order
    assert told.order.steps == ("approved by ann: looked", "trained v2", "admit v2: ")
    assert told.alerts[0].steps == told.order.steps
    log.append(verdict(proposed.event_id, T0_MS + 2 * DAY_MS, VerdictKind.PROMOTE))
    told = loop_status("c", entries(*log), policy, T0_MS + 2 * DAY_MS, 5)
    assert told.state == "held back"
    assert told.cool_down_until_ms == T0_MS + 7 * DAY_MS
    assert told.order
    assert not told.order.is_open


def test_pause_and_quiet_hours_are_told_with_their_ends() -> None:
    policy = replace(POLICY, quiet=(NIGHTS,))
    word = Word(BrakeKind.PAUSE, "ann", "late labels", until_ms=at(2, 0))
    paused = brake.brake("c", Loop(policy), word, at(0, 12))
    told = loop_status("c", entries(paused), policy, at(0, 23), 5)
    assert (told.state, told.paused_by) == ("paused", "ann: late labels")
    assert (told.paused_until_ms, told.quiet_until_ms) == (at(2, 0), at(1, 6))
    assert loop_status("c", entries(paused), policy, at(2, 1), 5).state == "quiet"
    assert loop_status("c", entries(paused), policy, at(2, 7), 5).state == "armed"
