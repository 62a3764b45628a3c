from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from features.views import (
    SLACK_TILES_MIN,
    Aggregate,
    Partial,
    Plan,
    PlanUnreadable,
    Service,
    UnknownDefinition,
    View,
)
from tests.features.readings import PLAN, VIEW


def test_a_layout_a_hop_with_slack_beyond_the_longest_window() -> None:
    minute, ten = VIEW.layouts
    assert (minute.hop_s, minute.tiles) == (60, 5 + SLACK_TILES_MIN)
    assert (ten.hop_s, ten.tiles) == (600, 6 + SLACK_TILES_MIN)
    assert Partial("sumsq", "value").field == "sumsq__value"
    assert Partial("count", "event_id") in minute.partials
    assert Partial("count", "event_id") not in ten.partials


def test_long_windows_have_a_quarter_more() -> None:
    long = msgspec.structs.replace(
        VIEW, aggregates=(Aggregate("m", "value", "max", 86_400, 1_800),)
    )
    assert long.layouts[0].tiles == 48 + 12


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "plan.json"
    PLAN.save(path)
    once = path.read_bytes()
    assert Plan.load(path) == PLAN
    Plan.load(path).save(path)
    assert path.read_bytes() == once


@pytest.mark.parametrize("text", [None, b"", b"{", b'{"views": 3}'])
def test_an_unreadable_plan_says_what_to_do(tmp_path: Path, text: bytes | None) -> None:
    path = tmp_path / "plan.json"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(PlanUnreadable, match="headrace features apply"):
        Plan.load(path)


def test_fingerprints_follow_the_meaning() -> None:
    renamed = msgspec.structs.replace(VIEW, name="other", ttl_s=5)
    assert renamed.fingerprint == VIEW.fingerprint
    fewer = msgspec.structs.replace(VIEW, aggregates=VIEW.aggregates[:-2])
    assert fewer.fingerprint != VIEW.fingerprint
    elsewhere = msgspec.structs.replace(VIEW, topic="lab.other.valid")
    assert elsewhere.layout_fingerprint != VIEW.layout_fingerprint


def test_a_feature_over_the_same_tiles_keeps_the_rings() -> None:
    more = (*VIEW.aggregates, Aggregate("mean_2m", "value", "mean", 120, 60))
    grown = msgspec.structs.replace(VIEW, aggregates=more)
    assert grown.fingerprint != VIEW.fingerprint
    assert grown.layout_fingerprint == VIEW.layout_fingerprint


def test_unknown_names_are_named() -> None:
    with pytest.raises(UnknownDefinition, match="nothing"):
        PLAN.service("nothing")
    with pytest.raises(UnknownDefinition):
        PLAN.view("nothing")
    with pytest.raises(UnknownDefinition):
        VIEW.aggregate("nothing")


def test_reading_vectors_imports_no_heavy_engine() -> None:
    heavy = "feast", "pyiceberg", "duckdb", "pyarrow", "pandas"
    code = f"import sys, features.vectors; sys.exit(str([m for m in {heavy} if m in sys.modules]))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.stderr.strip() == "[]"


def test_a_service_means_its_own_features_and_no_others() -> None:
    (service,) = PLAN.services
    mine = service_of(VIEW, service.features[:3])
    window = Aggregate("sum_3h", "value", "sum", 10_800, 600)
    grown = msgspec.structs.replace(VIEW, aggregates=(*VIEW.aggregates, window))
    assert grown.fingerprint != VIEW.fingerprint
    assert service_of(grown, service.features[:3]) == mine
    assert service_of(VIEW, service.features[:2]) != mine
    wider = msgspec.structs.replace(VIEW.aggregates[0], window_s=600)
    changed = msgspec.structs.replace(VIEW, aggregates=(wider, *VIEW.aggregates[1:]))
    assert service_of(changed, service.features[:3]) != mine


def service_of(view: View, features: tuple[tuple[str, str], ...]) -> str:
    return Plan((view,), (Service("s", features),)).service_fingerprint("s")
