"""Generations: the same definition, counted again."""

from __future__ import annotations

import msgspec
import pytest

from features import versions
from features.views import Plan, Retired, UnknownDefinition, View
from tests.features.readings import PLAN, VIEW

AT_MS = 1_700_000_000_000


def _again(before: Plan, *names: str) -> Plan:
    return versions.renewed(before, PLAN, names)


def _only(plan: Plan) -> View:
    (view,) = plan.views
    return view


def test_a_view_is_counted_again_under_another_version_with_the_same_meaning() -> None:
    after = _again(PLAN, VIEW.name)
    assert _only(after).versioned != VIEW.versioned
    assert _only(after).fingerprint == VIEW.fingerprint
    assert after.service_fingerprint("lab_v1") == PLAN.service_fingerprint("lab_v1")
    assert [old for _, old in versions.fresh(PLAN, after)] == [VIEW]
    assert not versions.changed_services(PLAN, after)


def test_it_stays_in_its_newest_generation_even_after_another_definition() -> None:
    second = versions.succeeded(PLAN, _again(PLAN, VIEW.name), AT_MS)
    assert _only(_again(second)).versioned == _only(second).versioned
    assert _only(_again(second, VIEW.name)).generation == 2
    other = msgspec.structs.replace(VIEW, aggregates=VIEW.aggregates[:1])
    third = versions.succeeded(second, Plan((other,)), AT_MS)
    assert [one.view.generation for one in third.retired] == [0, 1]
    assert _only(_again(third)).versioned == _only(second).versioned


def test_what_was_never_applied_begins_with_the_first() -> None:
    assert _only(_again(Plan(), VIEW.name)) == VIEW
    other = msgspec.structs.replace(VIEW, name="others", generation=7)
    assert _only(_again(Plan(retired=(Retired(other, AT_MS),)))) == VIEW
    with pytest.raises(UnknownDefinition):
        _again(PLAN, "nobody")


def test_an_incomplete_version_is_remembered_until_it_is_replaced() -> None:
    before = msgspec.structs.replace(PLAN, incomplete=(VIEW.versioned,))
    assert versions.succeeded(before, PLAN, AT_MS).incomplete == (VIEW.versioned,)
    assert versions.succeeded(before, _again(PLAN, VIEW.name), AT_MS).incomplete == ()
