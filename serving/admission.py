"""Admission: the only writer of releases. It tries candidates against the champion, and obeys the guard.

Its memory is the control log (`schemas.control_log`): a decision and the release that follows from it go out in one
transaction, so after a crash either both are there or neither, and what is there is not decided again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import structlog

from schemas import usecase
from schemas.control import Candidate, Release, Verdict, VerdictKind
from schemas.control_log import ControlLog, ControlLogUnavailable
from serving import release_log
from serving.docket import Docket, verdict_id
from serving.gate import Requirement, gate
from serving.manifest import ModelRefused
from serving.registry import Registry, UnknownVersion
from serving.releases import promoted, rolled_back, with_canary
from serving.resamples import interval
from serving.runtime import ModelFailed
from serving.trial import Trial, trial

if TYPE_CHECKING:
    from features.settings import StoreSettings
    from schemas.settings import KafkaSettings
    from schemas.worker import WorkerContext
    from serving.settings import ServingSettings

TOPICS = ("control.candidates", "control.verdicts", "control.releases")
# How long a verdict waits at most; a canary that does harm answers on until it is obeyed.
POLL_S = 0.2
RESTART_S = 2.0

log = structlog.get_logger()


def run(
    ctx: WorkerContext, kafka: KafkaSettings, stores: StoreSettings, serving: ServingSettings
) -> None:
    """Judge candidates and obey the guard until told to stop.

    An operator's release fences this worker out of its transactional id. It takes the id back as soon as it reads that
    release, and not when it has the next verdict to obey.
    """
    while not ctx.stop.is_set():
        try:
            _serve(ctx, kafka, stores, serving)
        except ControlLogUnavailable as error:
            log.warning("admission.restarts", reason=str(error))
            ctx.stop.wait(RESTART_S)


def bootstrap(
    kafka: KafkaSettings,
    case: str,
    version: str,
    *,
    event_time_ms: int,
    decided_by: str = "operator",
) -> Release:
    """Release the first champion; harmless where there is a release already, which is then returned.

    Raises:
        ReleaseRefused: Kafka did not take it.
    """
    now = release_log.current(kafka, case)
    if now is not None:
        return now
    model = str(usecase.load("schemas", case).MODEL)
    release = release_log.first(
        case, model, version, event_time_ms=event_time_ms, decided_by=decided_by
    )
    release_log.publish(kafka, release)
    return release


def _serve(
    ctx: WorkerContext, kafka: KafkaSettings, stores: StoreSettings, serving: ServingSettings
) -> None:
    registry = Registry(Path(serving.models_dir))
    docket = Docket(ctx.case)
    writer = f"{release_log.TOPIC}.{ctx.case}"
    with ControlLog(kafka, ctx.case, TOPICS, writer) as control:
        docket.fold(control.read_all())
        epoch = docket.state.epoch
        while not ctx.stop.is_set():
            ctx.report(
                {
                    "epoch": docket.state.epoch,
                    "waiting": len(docket.waiting),
                    "judged": docket.judged,
                }
            )
            decided = decide(docket, registry, stores)
            if decided:
                control.publish(*decided)
                log.info("admission.decided", events=[e.event_id for e in decided])
                # The log says what was decided, not this process: nothing more before it has come back.
                _await(ctx, control, docket, decided)
                epoch = docket.state.epoch
            else:
                docket.fold(control.poll(POLL_S))
                if docket.state.epoch > epoch:
                    return  # somebody else released, and fenced this writer: begin anew


def decide(
    docket: Docket, registry: Registry, stores: StoreSettings
) -> tuple[Release] | tuple[Verdict] | tuple[Verdict, Release] | None:
    """The next decision with what follows from it, to be published as one; None where there is nothing to decide."""
    ruling = docket.ruling()
    release = docket.state.release
    if ruling is not None and release is not None:
        follow = promoted if ruling.verdict is VerdictKind.PROMOTE else rolled_back
        stamp = _stamp(release, ruling.event_time_ms, ruling.reason, "guard")
        return (follow(release, **stamp),)
    candidate = docket.candidate()
    if candidate is None or release is None:
        return None
    verdict = judge(candidate, release, registry, stores)
    if verdict.verdict is VerdictKind.REFUSE:
        return (verdict,)
    share = float(usecase.load("serving", candidate.case).CANARY_SHARE)
    stamp = _stamp(release, candidate.event_time_ms, verdict.reason, "admission")
    return verdict, with_canary(
        release, candidate=verdict.candidate, share=share, salt=verdict.candidate, **stamp
    )


def judge(
    candidate: Candidate, release: Release, registry: Registry, stores: StoreSettings
) -> Verdict:
    """Verify a candidate, try it and the champion on its held-out rows, and pass it through the gate.

    A champion that cannot be measured on those rows (it was trained on other features, or its folder is broken) is
    compared as NaN, which no candidate passes: then a person decides (`headrace release`).
    """
    requirements: Sequence[Requirement] = usecase.load("serving", candidate.case).GATE
    version = str(candidate.version)
    try:
        tried = trial(candidate, release, registry, stores)
    except (ModelRefused, UnknownVersion, ModelFailed) as error:
        tried, admitted, reason = Trial(), False, str(error)
    else:
        admitted, reason = gate(tried.champion, tried.candidate, requirements, tried.differences)
    return Verdict(
        event_id=verdict_id(candidate),
        event_time_ms=candidate.event_time_ms,
        case=candidate.case,
        decided_at_ms=_now_ms(),
        verdict=VerdictKind.ADMIT if admitted else VerdictKind.REFUSE,
        order_id=candidate.order_id,
        model=candidate.model,
        champion=release.champion,
        candidate=version,
        champion_metrics=_finite(tried.champion),
        candidate_metrics=_finite(tried.candidate),
        intervals={name: interval(drawn) for name, drawn in tried.differences.items()},
        rows=tried.rows,
        reason=reason,
    )


def _await(
    ctx: WorkerContext, control: ControlLog, docket: Docket, decided: Sequence[Verdict | Release]
) -> None:
    missing = {event.event_id for event in decided}
    while missing and not ctx.stop.is_set():
        entries = control.poll(POLL_S)
        docket.fold(entries)
        missing -= {entry.event.event_id for entry in entries}


def _stamp(
    release: Release, event_time_ms: int, reason: str, decided_by: str
) -> dict[str, str | int]:
    return {
        "event_id": f"release-{release.case}-{release.epoch + 1}",
        "event_time_ms": event_time_ms,
        "decided_at_ms": _now_ms(),
        "reason": reason,
        "decided_by": decided_by,
    }


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """JSON has no NaN; a metric that could not be measured is left out."""
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
