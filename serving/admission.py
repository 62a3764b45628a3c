"""Admission: the only writer of releases. It tries candidates against the champion, and obeys the guard.

Its memory is the control log (`schemas.control_log`): a decision and the release that follows from it go out in one
transaction, so after a crash either both are there or neither, and what is there is not decided again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import structlog

from schemas import usecase
from schemas.control import Candidate, Release, Verdict, VerdictKind
from schemas.control_log import ControlLog, ControlLogUnavailable
from serving import release_log
from serving.declared import has_rule
from serving.docket import Docket, ended_id, verdict_id
from serving.gate import Requirement, gate
from serving.manifest import ModelRefused
from serving.mlflow_registry import MlflowRegistry, Showing
from serving.registry import Registry, UnknownVersion
from serving.releases import promoted, rolled_back, suspended, with_canary
from serving.resamples import interval
from serving.runtime import ModelFailed
from serving.signer import Signer
from serving.signing_key import KeyRefused
from serving.trial import Trial, trial
from serving.trust import UntrustedKey

if TYPE_CHECKING:
    from features.settings import StoreSettings
    from schemas.settings import KafkaSettings
    from schemas.worker import WorkerContext
    from serving.settings import AdmissionSettings, ServingSettings

TOPICS = (
    "control.candidates",
    "control.verdicts",
    "control.releases",
    "control.incidents",
)
# How long a verdict waits at most; a canary that does harm answers on until it is obeyed.
POLL_S = 0.2
RESTART_S = 2.0

log = structlog.get_logger()


def run(
    ctx: WorkerContext,
    kafka: KafkaSettings,
    stores: StoreSettings,
    serving: ServingSettings,
    admission: AdmissionSettings | None = None,
) -> None:
    """Judge candidates, sign what is admitted, and obey the guard until told to stop.

    An operator's release fences this worker out of its transactional id. It takes the id back as soon as it reads that
    release, and not when it has the next verdict to obey.

    Raises:
        KeyRefused: It may admit, and cannot sign.
    """
    signer, registry = _signer(serving, admission), Registry(Path(serving.models_dir))
    with ExitStack() as threads:
        showing = None
        if admission is not None and admission.registry_uri:
            showing = threads.enter_context(
                Showing(MlflowRegistry(admission.registry_uri, registry))
            )
        while not ctx.stop.is_set():
            try:
                _serve(ctx, kafka, stores, registry, signer, showing)
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
    signer: Signer | None = None,
) -> Release:
    """Sign and release the first champion; harmless where there is a release already, which is then returned.

    Raises:
        ReleaseRefused: Kafka did not take it.
        ModelRefused, KeyRefused: It cannot be signed.
    """
    now = release_log.current(kafka, case)
    if now is not None:
        return now
    model = str(usecase.load("schemas", case).MODEL)
    if signer is not None:
        signer.sign(model, version, by=decided_by, reason="the first champion")
    release = release_log.first(
        case, model, version, event_time_ms=event_time_ms, decided_by=decided_by
    )
    release_log.publish(kafka, release)
    return release


def _signer(serving: ServingSettings, admission: AdmissionSettings | None) -> Signer | None:
    """The identity that admits, with its key made where there was none; nobody where nobody asks for signatures."""
    if admission is None:
        if serving.trust_dir is not None:
            raise KeyRefused(
                "admission",
                wanted="a private key, since replicas load only what is signed",
                came="its settings name none",
                mend="Give it `admission.signing_key`.",
            )
        return None
    signer = Signer.of(serving, admission)
    try:
        signer.key.ready()
    except (KeyRefused, UntrustedKey) as error:
        # The guard is obeyed without a key; the next candidate is not admitted.
        log.error("admission.cannot_sign", error=str(error))  # noqa: TRY400 - the sentence says it all
    return signer


def _serve(
    ctx: WorkerContext,
    kafka: KafkaSettings,
    stores: StoreSettings,
    registry: Registry,
    signer: Signer | None,
    showing: Showing | None,
) -> None:
    docket = Docket(ctx.case)
    writer = f"{release_log.TOPIC}.{ctx.case}"
    with ControlLog(kafka, ctx.case, TOPICS, writer) as control:
        docket.fold(control.read_all())
        epoch = docket.state.epoch
        while not ctx.stop.is_set():
            ctx.report(_report(docket, showing))
            decided = decide(docket, registry, stores)
            if decided:
                if signer is not None:
                    endorse(signer, docket, decided)
                control.publish(*decided)
                log.info("admission.decided", events=[e.event_id for e in decided])
                # The log says what was decided, not this process: nothing more before it has come back.
                _await(ctx, control, docket, decided)
                epoch = docket.state.epoch
            else:
                docket.fold(control.poll(POLL_S))
                if docket.state.epoch > epoch:
                    return  # somebody else released, and fenced this writer: begin anew


def _report(docket: Docket, showing: Showing | None) -> dict[str, float | int | str]:
    """What `headrace status` tells; on the way, the registry for people is shown the newest picture."""
    told: dict[str, float | int | str] = {
        "epoch": docket.state.epoch,
        "waiting": len(docket.waiting),
        "judged": docket.judged,
    }
    if showing is None:
        return told
    showing.want(docket.catalogue.picture())
    told |= {"registered": showing.versions, "registry_behind": int(showing.behind)}
    return {**told, **({"registry_error": showing.failed} if showing.failed else {})}


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
    incident = docket.incident()
    if incident is not None and release is not None and has_rule(release.case):
        stamp = _stamp(release, incident.event_time_ms, incident.reason, "admission")
        return (suspended(release, incident.event_id, **stamp),)
    ended = docket.ended()
    if ended is not None:
        return (closing(*ended),)
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


def closing(admitted: Verdict, end: Release) -> Verdict:
    """What `end`, an operator's release, says of the trial that `admitted` began: without it the order stays open for ever.

    A verdict, since verdicts are kept for ever and releases are not.
    """
    promotes = end.champion == admitted.candidate
    return Verdict(
        event_id=ended_id(str(admitted.order_id)),
        event_time_ms=end.event_time_ms,
        case=admitted.case,
        decided_at_ms=_now_ms(),
        verdict=VerdictKind.PROMOTE if promotes else VerdictKind.ROLL_BACK,
        order_id=admitted.order_id,
        model=admitted.model,
        champion=admitted.champion,
        candidate=admitted.candidate,
        champion_metrics={},
        candidate_metrics={},
        rows=0,
        reason=f"by {end.decided_by}: {end.reason}",
        epoch=end.epoch,
    )


def endorse(signer: Signer, docket: Docket, decided: Sequence[Verdict | Release]) -> None:
    """Sign the candidate that is admitted, before anybody hears of it: what is released can be loaded.

    A crash in between leaves a signature on what passed the gate; the candidate is judged again.

    Raises:
        ModelRefused: It is not any more what was judged.
        KeyRefused, UntrustedKey: The key cannot sign.
    """
    candidate = docket.candidate()
    for verdict in decided:
        if candidate and isinstance(verdict, Verdict) and verdict.verdict is VerdictKind.ADMIT:
            signer.sign(
                candidate.model,
                verdict.candidate,
                by="admission",
                reason=verdict.reason,
                digest=candidate.digest or "",
            )


def judge(
    candidate: Candidate, release: Release, registry: Registry, stores: StoreSettings
) -> Verdict:
    """Verify a candidate, try it and the champion on its held-out rows, and pass it through the gate.

    A champion that cannot be measured on those rows (it was trained on other features, or its folder is broken) is
    compared as NaN, which no candidate passes: then a person decides (`headrace release`). One that is suspended is no bar: the
    rule answers in its place, and the guard holds the canary to the floor.
    """
    requirements: Sequence[Requirement] = usecase.load("serving", candidate.case).GATE
    version = str(candidate.version)
    try:
        tried = trial(candidate, release, registry, stores)
    except (ModelRefused, UnknownVersion, ModelFailed) as error:
        tried, admitted, reason = Trial(), False, str(error)
    else:
        admitted, reason = gate(
            tried.champion,
            tried.candidate,
            requirements,
            tried.differences,
            suspended=release.suspended,
        )
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
