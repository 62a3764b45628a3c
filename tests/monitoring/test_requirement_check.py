from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from monitoring.requirement_check import Evidence, Finding, Met, check, exit_code
from schemas.requirements import (
    Accuracy,
    Availability,
    Freshness,
    Latency,
    Requirements,
    Throughput,
)

SIGNED = Requirements(
    owner="ann",
    signed_off=date(2026, 11, 22),
    latency=Latency(p95_ms=96, p99_ms=98),
    throughput=Throughput(ceiling_rows_per_s=50),
    accuracy=Accuracy(metric="auc", value=0.7, rows_min=4),
    freshness=Freshness(s=60, views={"slow": 600}),
    availability=Availability(share=0.999),
)
SEEN = Evidence(
    latencies_ms=np.linspace(1, 100, 1_000),
    rows_per_s=np.full(1_000, 50),
    busiest_rows_per_s=50,
    requests=1_000,
    answered=999,
    champion="v1",
    suspended_by=None,
    scores=np.array([0.1, 0.4, 0.6, 0.9]),
    labels=np.array([0.0, 0.0, 1.0, 1.0]),
    ages_s={"quick": 60.0, "slow": 600.0, "facts": 1e9},
    windowed=frozenset({"quick"}),
)
NOTHING = Evidence(
    np.array([]), np.array([], dtype=np.int64), None, 0, 0, "", None, np.array([]), np.array([])
)


def told(seen: Evidence, signed: Requirements = SIGNED) -> dict[str, Finding]:
    return {one.requirement: one for one in check(signed, seen)}


def test_every_requirement_is_told_with_its_evidence() -> None:
    found = told(SEEN)
    assert {name: one.verdict for name, one in found.items()} == {
        "latency.p95_ms": Met.MET,
        "latency.p99_ms": Met.NOT_MET,
        "throughput.rows_per_s": Met.MET,
        "accuracy.auc": Met.MET,
        "freshness.quick_s": Met.MET,
        "freshness.slow_s": Met.MET,
        "availability.share": Met.MET,
    }
    assert found["latency.p99_ms"].value == pytest.approx(99.01)
    assert found["accuracy.auc"].evidence == "4 outcomes of v1"
    assert found["availability.share"].value == 0.999


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"busiest_rows_per_s": 51}, "throughput.rows_per_s"),
        ({"labels": np.array([1.0, 0.0, 0.0, 1.0])}, "accuracy.auc"),
        ({"suspended_by": "incident-1"}, "accuracy.auc"),
        ({"ages_s": {"quick": 61.0}}, "freshness.quick_s"),
        ({"answered": 998}, "availability.share"),
    ],
)
def test_what_is_missed_is_not_met(changed: dict[str, object], name: str) -> None:
    found = told(replace(SEEN, **changed))  # type: ignore[arg-type]
    assert found[name].verdict is Met.NOT_MET
    assert exit_code(tuple(found.values())) == 1


def test_the_latency_is_not_owed_above_the_ceiling() -> None:
    """An overload is one requirement missed, not two: its seconds say nothing of the latency."""
    seen = replace(
        SEEN,
        latencies_ms=np.concatenate([np.full(990, 20.0), np.full(510, 9_000.0)]),
        rows_per_s=np.concatenate([np.full(990, 50), np.full(510, 51)]),
        busiest_rows_per_s=51,
    )
    found = told(seen)
    assert found["throughput.rows_per_s"].verdict is Met.NOT_MET
    assert (found["latency.p99_ms"].verdict, found["latency.p99_ms"].value) == (Met.MET, 20.0)
    assert found["latency.p99_ms"].rows == 990
    said = "990 answers; 510 asked above the ceiling left out"
    assert found["latency.p99_ms"].evidence == said
    without = told(seen, SIGNED.model_copy(update={"throughput": None}))
    assert without["latency.p99_ms"].verdict is Met.NOT_MET
    overloaded = told(replace(seen, rows_per_s=np.full(1_500, 51)))
    assert overloaded["latency.p95_ms"].verdict is Met.NO_EVIDENCE


def test_nothing_seen_is_no_evidence_and_not_a_pass() -> None:
    found = told(NOTHING)
    assert {one.verdict for one in found.values()} == {Met.NO_EVIDENCE}
    assert exit_code(tuple(found.values())) == 2
    one_class = replace(SEEN, labels=np.ones(4))
    assert told(one_class)["accuracy.auc"].verdict is Met.NO_EVIDENCE


def test_what_was_not_signed_off_is_not_asked() -> None:
    only = Requirements(owner="ann", signed_off=date(2026, 11, 22))
    assert check(only, SEEN) == ()
    assert exit_code(()) == 0
