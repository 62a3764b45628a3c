"""An order whose trial a person ended: the loop hears of it, once, and orders again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.settings import StoreSettings
from monitoring.loop import Loop
from monitoring.policy import DAY_MS
from schemas.control import ControlEvent, Release, Verdict, VerdictKind
from schemas.control_log import Entry
from serving.admission import decide
from serving.docket import Docket
from serving.registry import Registry
from serving.releases import promoted, rolled_back, with_canary, with_shadow
from tests.monitoring import test_loop
from tests.monitoring.test_loop import POLICY, T0_MS, alert, candidate, order

CASE = "c"
NOWHERE = (Registry(Path("/nowhere")), StoreSettings())
ALERT = alert(T0_MS, Loop(POLICY).decide(T0_MS, T0_MS + DAY_MS))
ORDER = order(ALERT)
OPENED = (ALERT, ORDER, candidate(ORDER.event_id, ORDER.event_time_ms))
End = Callable[..., Release]


def stamp(now: Release, by: str = "ann", reason: str = "complaints") -> dict[str, str | int]:
    return {
        "event_id": f"release-{CASE}-{now.epoch + 1}",
        "event_time_ms": now.event_time_ms,
        "decided_at_ms": 1,
        "reason": reason,
        "decided_by": by,
    }


FIRST = Release(
    event_id=f"release-{CASE}-1",
    event_time_ms=ORDER.event_time_ms,
    decided_at_ms=1,
    case=CASE,
    epoch=1,
    model="m",
    champion="v1",
    salt="v1",
    reason="the first champion",
    decided_by="test",
)


def tried(now: Release, version: str = "v2") -> Release:
    return with_canary(now, candidate=version, share=0.1, salt=version, **stamp(now, "admission"))


TRIED = tried(FIRST)
ADMITTED = test_loop.verdict(ORDER.event_id, ORDER.event_time_ms, VerdictKind.ADMIT).model_copy(
    update={"event_id": f"gate-candidate-{ORDER.event_id}"}
)


def entries(*events: ControlEvent) -> list[Entry]:
    return [Entry(event, index) for index, event in enumerate(events)]


def docket(*found: Entry) -> Docket:
    made = Docket(CASE)
    made.fold(found)
    return made


def closing(*found: Entry) -> Verdict | None:
    """What admission decides, which must be a verdict alone."""
    decided = decide(docket(*found), *NOWHERE)
    if decided is None:
        return None
    verdict = decided[0]
    assert isinstance(verdict, Verdict)
    assert len(decided) == 1
    return verdict


@pytest.mark.parametrize(
    ("end", "kind"), [(rolled_back, VerdictKind.ROLL_BACK), (promoted, VerdictKind.PROMOTE)]
)
def test_an_operator_ends_the_trial_and_the_next_drifted_window_orders(
    end: End, kind: VerdictKind
) -> None:
    ended = end(TRIED, **stamp(TRIED))
    log = entries(*OPENED, FIRST, ADMITTED, TRIED, ended)
    verdict = closing(*log)
    assert verdict is not None
    assert (verdict.verdict, verdict.order_id, verdict.epoch) == (kind, ORDER.event_id, 3)
    assert (verdict.champion, verdict.candidate, verdict.rows) == ("v1", "v2", 0)
    assert verdict.reason == "by ann: complaints"
    assert closing(*log, Entry(verdict, 99)) is None, "it is said once"

    loop = Loop(POLICY)
    for event in (*OPENED, ADMITTED):
        loop.observe(event)
    later_ms = verdict.event_time_ms + POLICY.cool_down_ms
    assert (loop.decide(later_ms, later_ms).held_back_by or "").startswith("open order")
    loop.observe(verdict)
    loop.observe(verdict)
    assert loop.decide(later_ms, later_ms).acts


def test_while_it_is_tried_and_where_the_guard_has_spoken_there_is_nothing_to_say() -> None:
    assert closing(*entries(*OPENED, FIRST, ADMITTED, TRIED)) is None
    wider = with_canary(TRIED, candidate="v2", share=0.5, salt="v2", **stamp(TRIED))
    assert closing(*entries(*OPENED, FIRST, ADMITTED, TRIED, wider)) is None
    spoken = test_loop.verdict(ORDER.event_id, T0_MS, VerdictKind.ROLL_BACK)
    ended = rolled_back(TRIED, **stamp(TRIED, "guard"))
    assert closing(*entries(*OPENED, FIRST, ADMITTED, TRIED, spoken, ended)) is None


def test_a_canary_of_nobodys_order_closes_none() -> None:
    ended = rolled_back(TRIED, **stamp(TRIED))
    assert closing(*entries(FIRST, TRIED, ended)) is None
    alone = ADMITTED.model_copy(update={"order_id": None})
    assert closing(*entries(FIRST, alone, TRIED, ended)) is None


def test_what_is_tried_again_is_judged_by_its_last_trial() -> None:
    """An operator ended it and began it again while admission was away."""
    ended = rolled_back(TRIED, **stamp(TRIED))
    again = tried(ended)
    log = entries(*OPENED, FIRST, ADMITTED, TRIED, ended, again)
    assert closing(*log) is None
    last = promoted(again, **stamp(again, "bob", "better"))
    verdict = closing(*log, Entry(last, 98))
    assert verdict is not None
    assert (verdict.verdict, verdict.reason) == (VerdictKind.PROMOTE, "by bob: better")


def test_an_operators_end_is_no_ruling_over_a_later_trial() -> None:
    ended = rolled_back(TRIED, **stamp(TRIED))
    log = entries(*OPENED, FIRST, ADMITTED, TRIED, ended)
    verdict = closing(*log)
    assert verdict is not None
    # The broker's clock stood still, or went back.
    again = Entry(tried(ended), 0)
    assert docket(*log, Entry(verdict, 99), again).ruling() is None


@pytest.mark.parametrize("end", [rolled_back, promoted])
@settings(deadline=None)
@given(random=st.randoms(use_true_random=False), repeats=st.integers(1, 3))
def test_in_whatever_order_and_however_often_it_is_read_the_same_is_said(
    random: object, repeats: int, end: End
) -> None:
    ended = end(TRIED, **stamp(TRIED))
    beside = with_shadow(ended, "v9", **stamp(ended, "bob", "another matter"))
    log = entries(*OPENED, FIRST, ADMITTED, TRIED, ended, beside)
    expected = closing(*log)
    replayed = log * repeats
    random.shuffle(replayed)  # type: ignore[attr-defined]
    said = closing(*replayed)
    assert said is not None
    assert expected is not None
    at = {"decided_at_ms": 1}
    assert said.model_copy(update=at) == expected.model_copy(update=at)


@pytest.mark.parametrize(
    ("end", "kind"), [(rolled_back, VerdictKind.ROLL_BACK), (promoted, VerdictKind.PROMOTE)]
)
def test_what_kafka_has_compacted_is_not_needed(end: End, kind: VerdictKind) -> None:
    ended = end(TRIED, **stamp(TRIED))
    newest = with_shadow(ended, "v9", **stamp(ended, "bob", "another matter"))
    verdict = closing(*entries(*OPENED, ADMITTED, newest))
    assert verdict is not None
    assert (verdict.verdict, verdict.order_id) == (kind, ORDER.event_id)


@pytest.mark.parametrize("kind", [VerdictKind.PROMOTE, VerdictKind.ROLL_BACK])
def test_a_release_that_leaves_the_canary_in_its_place_annuls_no_verdict(kind: VerdictKind) -> None:
    given = test_loop.verdict("none", TRIED.event_time_ms, kind)
    said = given.model_copy(update={"order_id": None, "epoch": TRIED.epoch})
    shadowed = with_shadow(TRIED, "v3", **stamp(TRIED))
    docket = Docket(CASE)
    docket.fold([Entry(e, 10 * n) for n, e in enumerate((FIRST, TRIED, said, shadowed), 1)])
    assert docket.ruling() == said
    ended = rolled_back(shadowed, **stamp(shadowed))
    again = tried(ended)
    docket.fold([Entry(ended, 50), Entry(again, 60)])
    assert docket.ruling() is None
