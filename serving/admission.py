"""Admission: the only writer of releases. It tries candidates against the champion, and obeys the guard.

Its memory is the control log (`schemas.control_log`): a decision and the release that follows from it go out in one
transaction, so after a crash either both are there or neither, and what is there is not decided again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from features.views import Plan
from schemas import usecase
from schemas.control import Candidate, Release, Verdict, VerdictKind
from schemas.control_log import ControlLog, ControlLogUnavailable, Entry
from schemas.manifest import HOLDOUT_FILE, REFERENCE_FILE
from serving import release_log
from serving.gate import Requirement, gate
from serving.manifest import ModelRefused
from serving.registry import Registry, UnknownVersion
from serving.releases import ReleaseState, promoted, rolled_back, with_canary
from serving.runtime import Expected, Matrix, Model, ModelFailed, Scores, load

if TYPE_CHECKING:
    from features.settings import StoreSettings
    from schemas.settings import KafkaSettings
    from schemas.worker import WorkerContext
    from serving.settings import ServingSettings

TOPICS = ("control.candidates", "control.verdicts", "control.releases")
POLL_S = 0.5
RESTART_S = 2.0
# The runtime that serves, against the estimator that was fitted, on the reference rows: float32 sums of leaves differ by
# 5e-7, a wrong conversion by 0.09.
DIFFERENCE_MAX = 1e-5

log = structlog.get_logger()


@dataclass(frozen=True)
class Trial:
    """What champion and candidate scored on the same held-out rows."""

    champion: dict[str, float]
    candidate: dict[str, float]
    rows: int


class Docket:
    """What has been decided and what is still to decide, folded from the control log (pure)."""

    def __init__(self, case: str) -> None:
        self.state = ReleaseState(case)
        self.released_ms = 0
        self._candidates: OrderedDict[str, Candidate] = OrderedDict()
        self._judged: set[str] = set()
        self._guard: list[Entry] = []

    def fold(self, entries: Sequence[Entry]) -> None:
        """Take note of events, in any order between topics and as often as they come."""
        for entry in entries:
            event = entry.event
            if isinstance(event, Release):
                if event.epoch > self.state.epoch:
                    self.state = self.state.fold(event)
                    self.released_ms = entry.ingest_ms
            elif isinstance(event, Candidate):
                if event.error is None and event.version is not None:
                    self._candidates.setdefault(event.event_id, event)
            elif isinstance(event, Verdict):
                if event.verdict in (VerdictKind.ADMIT, VerdictKind.REFUSE):
                    self._judged.add(event.event_id)
                else:
                    self._guard.append(entry)

    def ruling(self) -> Verdict | None:
        """The guard's verdict over the canary in force, given after it was released; None where there is none.

        By the broker's clock: a verdict over an earlier trial of the same version says nothing about this one.
        """
        release = self.state.release
        if release is None or release.canary is None:
            return None
        for entry in self._guard:
            verdict = entry.event
            if (
                isinstance(verdict, Verdict)
                and verdict.candidate == release.canary
                and entry.ingest_ms >= self.released_ms
            ):
                return verdict
        return None

    def candidate(self) -> Candidate | None:
        """The oldest candidate to judge; None where there is none, or nobody yet to compare it with, or no room.

        One canary at a time: a candidate that comes while another is tried waits for its end.
        """
        release = self.state.release
        if release is None or release.canary is not None:
            return None
        return next(iter(self.waiting), None)

    @property
    def waiting(self) -> list[Candidate]:
        """Candidates without a verdict, oldest first."""
        return [c for c in self._candidates.values() if verdict_id(c) not in self._judged]

    @property
    def judged(self) -> int:
        """How many candidates have a verdict."""
        return len(self._judged)


def verdict_id(candidate: Candidate) -> str:
    """The id of the gate's verdict over a candidate: the same at every try, so that it is given once."""
    return f"gate-{candidate.event_id}"[:128]


def run(
    ctx: WorkerContext, kafka: KafkaSettings, stores: StoreSettings, serving: ServingSettings
) -> None:
    """Judge candidates and obey the guard until told to stop.

    An operator's release fences this worker out of its transactional id; it then reads what was decided and goes on.
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
            else:
                docket.fold(control.poll(POLL_S))


def decide(
    docket: Docket, registry: Registry, stores: StoreSettings
) -> tuple[Release] | tuple[Verdict] | tuple[Verdict, Release] | None:
    """The next decision with what follows from it, to be published as one; None where there is nothing to decide."""
    ruling = docket.ruling()
    release = docket.state.release
    if ruling is not None and release is not None:
        follow = promoted if ruling.verdict is VerdictKind.PROMOTE else rolled_back
        reason = f"guard: {ruling.reason}"
        return (follow(release, **_stamp(release, ruling.event_time_ms, reason, "guard")),)
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
        trial = _trial(candidate, release, registry, stores)
    except (ModelRefused, UnknownVersion, ModelFailed) as error:
        trial, admitted, reason = Trial({}, {}, 0), False, str(error)
    else:
        admitted, reason = gate(trial.champion, trial.candidate, requirements)
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
        champion_metrics=_finite(trial.champion),
        candidate_metrics=_finite(trial.candidate),
        rows=trial.rows,
        reason=reason,
    )


def measure(labels: np.ndarray, scores: Scores) -> dict[str, float]:
    """`auc`, `log_loss` and `brier`; NaN where the labels are of one class only."""
    # Takes a second to import, which a worker without a candidate need not pay.
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score  # noqa: PLC0415

    if len(np.unique(labels)) < 2:  # noqa: PLR2004 - two classes
        return {"auc": float("nan"), "log_loss": float("nan"), "brier": float("nan")}
    return {
        "auc": float(roc_auc_score(labels, scores)),
        "log_loss": float(log_loss(labels, scores)),
        "brier": float(brier_score_loss(labels, scores)),
    }


def _trial(
    candidate: Candidate, release: Release, registry: Registry, stores: StoreSettings
) -> Trial:
    version = str(candidate.version)
    # An empty digest matches nothing: a candidate that does not say what it is cannot be verified.
    registry.verify(candidate.model, version, candidate.digest or "")
    folder = registry.path(candidate.model, version)
    model = load(folder, Expected.of(candidate.case, Plan.load(stores.plan_path)))
    _refuse_unlike_its_estimator(model, folder)
    rows = _read(folder / HOLDOUT_FILE, (*model.manifest.inputs, "label"))
    labels = rows["label"].to_numpy()
    champion: dict[str, float] = {}
    try:
        reigning = load(registry.path(release.model, release.champion))
        champion = measure(labels, reigning.predict(_matrix(reigning, rows)))
    except (ModelRefused, UnknownVersion, ModelFailed) as error:
        log.warning("admission.champion_unmeasured", version=release.champion, reason=str(error))
    tried = measure(labels, model.predict(_matrix(model, rows)))
    return Trial(champion, tried, rows.num_rows)


def _matrix(model: Model, rows: pa.Table) -> Matrix:
    """The columns that this model reads, in its own order: the champion may have been trained on other ones."""
    inputs = model.manifest.inputs
    _refuse_missing(f"{model.manifest.model} {model.version} on held-out rows", rows, inputs)
    return np.column_stack([rows[name].to_numpy() for name in inputs]).astype(np.float32)


def _refuse_unlike_its_estimator(model: Model, folder: Path) -> None:
    rows = _read(folder / REFERENCE_FILE, (*model.manifest.inputs, "score"))
    scores = model.predict(_matrix(model, rows))
    difference = float(np.abs(scores - rows["score"].to_numpy()).max(initial=0.0))
    if not difference <= DIFFERENCE_MAX:
        raise ModelRefused(
            str(folder),
            wanted=f"scores within {DIFFERENCE_MAX} of the estimator's on its reference rows",
            came=f"they differ by up to {difference:.2g}",
            mend="The conversion is wrong for this runtime: train again on float32 inputs.",
        )


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    try:
        rows = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ModelRefused(
            str(path),
            wanted="a Parquet table",
            came=str(error).splitlines()[0],
            mend="Train the version again.",
        ) from error
    _refuse_missing(str(path), rows, columns)
    return rows


def _refuse_missing(where: str, rows: pa.Table, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in rows.column_names]
    if missing:
        raise ModelRefused(where, wanted=f"columns {list(columns)}", came=f"there is no {missing}")


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
