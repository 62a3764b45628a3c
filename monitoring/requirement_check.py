"""Each requirement of a use case: met, not met, or without evidence; and the evidence. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from monitoring.accuracy import accuracy

if TYPE_CHECKING:
    from schemas.requirements import Accuracy, Freshness, Latency, Requirements

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A 99th percentile of fewer is the greatest or the one after.
LATENCIES_MIN = 200


class Met(StrEnum):
    """What can be said of a requirement."""

    MET = "met"
    NOT_MET = "not met"
    NO_EVIDENCE = "no evidence"


@dataclass(frozen=True)
class Finding:
    """One requirement: what was signed off, what was measured, on how many rows, in the unit that the name ends with."""

    requirement: str
    verdict: Met
    bound: float
    value: float | None
    rows: int
    evidence: str


@dataclass(frozen=True)
class Evidence:
    """What was seen within the window.

    Attributes:
        latencies_ms: Of interactive requests: from the broker's stamp of the request to that of its result.
        rows_per_s: For each of those, how many requests of any lane were received in its second.
        busiest_rows_per_s: Requests received in the busiest second; None without requests.
        requests: How many are old enough to have been answered.
        answered: How many of those a model or the fallback has answered.
        champion: The version in force; "" before the first release.
        suspended_by: The incident that suspended it.
        scores, labels: Of its outcomes.
        ages_s: View → how old its newest event was as of the newest request; None before its first event.
        windowed: Those of them that streams feed; a table of facts may rest for years, and is held to a bound of its own only.
    """

    latencies_ms: Floats
    rows_per_s: Ints
    busiest_rows_per_s: int | None
    requests: int
    answered: int
    champion: str
    suspended_by: str | None
    scores: Floats
    labels: Floats
    ages_s: Mapping[str, float | None] = field(default_factory=dict)
    windowed: frozenset[str] = frozenset()


def check(signed: Requirements, seen: Evidence) -> tuple[Finding, ...]:
    """Every requirement that was signed off, in the order of the file."""
    findings: list[Finding] = []
    if signed.latency is not None:
        ceiling = signed.throughput.ceiling_rows_per_s if signed.throughput else np.inf
        findings += _latency(signed.latency, seen, ceiling)
    if signed.throughput is not None:
        ceiling, busiest = signed.throughput.ceiling_rows_per_s, seen.busiest_rows_per_s
        verdict = _verdict(busiest, met=busiest is not None and busiest <= ceiling)
        said = "no requests" if busiest is None else f"{busiest:,} requests in the busiest second"
        findings.append(
            Finding("throughput.rows_per_s", verdict, ceiling, busiest, seen.requests, said)
        )
    if signed.accuracy is not None:
        findings.append(_accuracy(signed.accuracy, seen))
    if signed.freshness is not None:
        findings += _freshness(signed.freshness, seen)
    if signed.availability is not None:
        share = seen.answered / seen.requests if seen.requests else None
        bound = signed.availability.share
        verdict = _verdict(share, met=share is not None and share >= bound)
        said = (
            f"{seen.answered:,} of {seen.requests:,} requests answered by a model or the fallback"
        )
        findings.append(Finding("availability.share", verdict, bound, share, seen.requests, said))
    return tuple(findings)


def exit_code(findings: tuple[Finding, ...]) -> int:
    """0 where all is met, 1 where something is not, 2 where only evidence is wanting."""
    verdicts = {one.verdict for one in findings}
    if Met.NOT_MET in verdicts:
        return 1
    return 2 if Met.NO_EVIDENCE in verdicts else 0


def _latency(signed: Latency, seen: Evidence, ceiling_rows_per_s: float) -> Iterator[Finding]:
    """Of what was asked in seconds up to the ceiling: beyond it no latency is owed."""
    owed = seen.latencies_ms[seen.rows_per_s <= ceiling_rows_per_s]
    rows, beyond = len(owed), len(seen.latencies_ms) - len(owed)
    for percent, bound in ((95, signed.p95_ms), (99, signed.p99_ms)):
        enough = rows >= LATENCIES_MIN
        value = float(np.percentile(owed, percent)) if enough else None
        verdict = _verdict(value, met=value is not None and value <= bound)
        said = f"{rows:,} answers" if enough else f"{rows:,} answers of {LATENCIES_MIN} wanted"
        said += f"; {beyond:,} asked above the ceiling left out" if beyond else ""
        yield Finding(f"latency.p{percent}_ms", verdict, bound, value, rows, said)


def _accuracy(signed: Accuracy, seen: Evidence) -> Finding:
    name, rows = f"accuracy.{signed.metric}", len(seen.labels)
    live = accuracy(seen.scores, seen.labels)
    value = live.metrics()[signed.metric] if rows >= signed.rows_min else None
    if seen.suspended_by:
        said = f"{seen.champion} is suspended by {seen.suspended_by}"
        return Finding(name, Met.NOT_MET, signed.value, value, rows, said)
    said = f"{rows:,} outcomes of {seen.champion or 'no champion'}"
    if rows < signed.rows_min:
        said += f", {signed.rows_min:,} wanted"
    verdict = _verdict(value, met=value is not None and signed.met_by(value))
    return Finding(name, verdict, signed.value, value, rows, said)


def _freshness(signed: Freshness, seen: Evidence) -> Iterator[Finding]:
    for view in sorted({*seen.ages_s, *signed.views}):
        bound = signed.views.get(view, signed.s if view in seen.windowed else None)
        if bound is None:
            continue
        age_s = seen.ages_s.get(view)
        said = (
            "no event, or no request to be fresh for"
            if age_s is None
            else "as of the newest request"
        )
        verdict = _verdict(age_s, met=age_s is not None and age_s <= bound)
        yield Finding(f"freshness.{view}_s", verdict, bound, age_s, int(age_s is not None), said)
    if not seen.ages_s and not signed.views:
        bound = float(signed.s or 0)
        yield Finding("freshness.s", Met.NO_EVIDENCE, bound, None, 0, "no view could be looked at")


def _verdict(value: float | None, *, met: bool) -> Met:
    if value is None:
        return Met.NO_EVIDENCE
    return Met.MET if met else Met.NOT_MET
