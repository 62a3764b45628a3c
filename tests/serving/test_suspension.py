"""A champion that an incident suspended: from the event to the answers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.settings import StoreSettings
from schemas import usecase
from schemas.control import Incident, Release
from schemas.control_log import Entry
from serving.admission import decide
from serving.declared import has_rule
from serving.docket import Docket
from serving.registry import Registry
from serving.releases import promoted, resumed, rolled_back, suspended, with_canary
from serving.scoring import Answer
from tests.serving.test_releases import release
from tests.serving.test_scoring import NOW_MS, RULES, Broken, Constant, answer, batch, serving

STAMP: dict[str, str | int] = {
    "event_id": "e",
    "event_time_ms": NOW_MS,
    "decided_at_ms": 1,
    "reason": "",
    "decided_by": "",
}


def incident(name: str, version: str = "v1", case: str = "flights") -> Incident:
    return Incident(
        event_time_ms=NOW_MS,
        event_id=f"incident-{name}",
        case=case,
        decided_at_ms=1,
        requirement="accuracy",
        version=version,
        value=0.6,
        bound=0.7,
        rows=5_000,
        window_start_ms=0,
        window_end_ms=1,
        reason="auc 0.6000 misses the floor of 0.7",
    )


def told(*answers: object) -> list[dict[str, object]]:
    return [msgspec.json.decode(one.value) for one in answers if isinstance(one, Answer)]


def test_a_suspended_champion_is_not_asked_and_the_rule_answers() -> None:
    champion = Constant("v1", 0.9)
    by = serving(champion, suspended=True, incident="incident-1")
    (one,) = told(*answer(batch([[1, 2]]), by, RULES, lambda: NOW_MS))
    assert champion.calls == 0
    assert (one["status"], one["route"], one["version"]) == ("fallback", "rule", "v1")
    assert (one["score"], one["reasons"]) == (0.75, ["suspended: incident-1"])
    assert one.get("failed", []) == []


def test_a_canary_answers_its_share_and_where_it_fails_the_rule_does() -> None:
    champion, canary = Constant("v1", 0.9), Broken("v2", 0.2)
    by = serving(champion, canary, suspended=True, canary="v2", canary_share=1.0)
    (one,) = told(*answer(batch([[1, 2]]), by, RULES, lambda: NOW_MS))
    assert champion.calls == 0
    assert (one["route"], one["version"], one["failed"]) == ("rule", "v2", ["v2"])
    well = Constant("v2", 0.2)
    by = serving(champion, well, suspended=True, canary="v2", canary_share=1.0)
    (one,) = told(*answer(batch([[1, 2]]), by, RULES, lambda: NOW_MS))
    assert (one["status"], one["version"], one["score"]) == ("scored", "v2", 0.2)


def test_a_champion_before_is_not_asked_either() -> None:
    champion, before = Constant("v2", 0.9), Constant("v1", 0.1)
    by = serving(champion, before, suspended=True)
    by = type(by)(by.state, by.models, by.refused, previous="v1")
    (one,) = told(*answer(batch([[1, 2]]), by, RULES, lambda: NOW_MS))
    assert (before.calls, one["route"]) == (0, "rule")


def test_a_promotion_or_an_operator_ends_it_and_nothing_else_does() -> None:
    now = suspended(release(4, champion="v1"), "incident-1", **STAMP)
    assert (now.epoch, now.suspended, now.incident) == (5, True, "incident-1")
    tried = with_canary(now, candidate="v2", share=0.1, salt="v2", **STAMP)
    assert tried.suspended
    assert rolled_back(tried, **STAMP).suspended
    assert not promoted(tried, **STAMP).suspended
    assert not resumed(now, **STAMP).suspended
    assert resumed(now, **STAMP).incident == "incident-1"


def docket(now: Release, *incidents: Incident) -> Docket:
    made = Docket("flights")
    made.fold([Entry(now, 1)])
    made.fold([Entry(one, 1, "control.incidents", place) for place, one in enumerate(incidents)])
    return made


def test_an_incident_is_acted_on_once_and_a_later_one_again() -> None:
    one, two = incident("1"), incident("2")
    now = release(4, champion="v1")
    assert docket(now, one).incident() == one
    now = suspended(now, one.event_id, **STAMP)
    assert docket(now, one, two).incident() is None
    now = resumed(now, **STAMP)
    assert docket(now, one).incident() is None
    assert docket(now, one, two).incident() == two


def test_an_incident_of_another_version_suspends_nobody() -> None:
    now = release(4, champion="v2")
    assert docket(now, incident("1", version="v1")).incident() is None
    assert docket(
        now, incident("1", "v1"), incident("2", "v2"), incident("3", "v1")
    ).incident() == (incident("2", "v2"))


@given(st.permutations(range(3)), st.integers(0, 2))
def test_the_order_in_which_they_are_read_changes_nothing(order: list[int], again: int) -> None:
    one, two = (Entry(incident(str(n)), 1, "control.incidents", n) for n in (1, 2))
    now = resumed(suspended(release(4, champion="v1"), "incident-1", **STAMP), **STAMP)
    entries = [one, two, Entry(now, 1)]
    made = Docket("flights")
    made.fold([entries[n] for n in order])
    made.fold([entries[again]])
    assert made.incident() == incident("2")


def test_admission_suspends_a_champion_and_nothing_else(tmp_path: Path) -> None:
    now = release(4, champion="v1", canary="v2", canary_share=0.1)
    made = docket(now, incident("1"))
    decided = decide(made, Registry(tmp_path), StoreSettings())
    assert decided is not None
    after = decided[0]
    assert isinstance(after, Release)
    assert (after.epoch, after.suspended, after.incident) == (5, True, "incident-1")
    assert (after.champion, after.canary, after.canary_share) == ("v1", "v2", 0.1)
    assert after.reason == "auc 0.6000 misses the floor of 0.7"
    made.fold([Entry(after, 2)])
    assert decide(made, Registry(tmp_path), StoreSettings()) is None


def test_a_use_case_without_a_rule_is_not_suspended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usecase.load("serving", "flights"), "FALLBACKS", ())
    made = docket(release(4, champion="v1"), incident("1"))
    assert decide(made, Registry(tmp_path), StoreSettings()) is None


@pytest.mark.parametrize("case", ["flights", "payments"])
def test_what_ships_has_a_rule_to_fall_back_on(case: str) -> None:
    assert has_rule(case)
