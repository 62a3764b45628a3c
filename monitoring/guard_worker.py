"""Watches the canary of the current release and publishes one verdict on it; releases are admission's to write.

While a canary is on trial no offset is committed, so a restart reads its whole trial again; between trials offsets
follow the readers. The verdict's id is the candidate's and its release's, so a trial is judged once, whoever restarts; a
version that is tried again later is judged again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from monitoring.event_reader import EventReader
from monitoring.guard import Ruling, Trial
from monitoring.windows import JoinedRow, ResultRow
from schemas import requirements, usecase
from schemas.control import ControlEvent, Release, Verdict, VerdictKind
from schemas.control_log import ControlLog

if TYPE_CHECKING:
    from monitoring.policy import Policy
    from schemas.settings import KafkaSettings
    from schemas.worker import WorkerContext

TOPICS = ("control.releases", "control.verdicts")
READ_WAIT_S = 0.2
REPORT_INTERVAL_S = 1.0
# Rows of an epoch whose release has not been read yet; the control topic is milliseconds behind at most.
EARLY_ROWS_MAX = 100_000

log = structlog.get_logger()


def run(ctx: WorkerContext, kafka: KafkaSettings) -> None:
    """Judge canaries until `ctx.stop` is set. The topics of the use case must exist.

    Raises:
        ControlLogUnavailable: The broker is out of reach, or another guard of this use case has taken over.
        KafkaException: Results and joined rows cannot be read.
    """
    with (
        ControlLog(kafka, ctx.case, TOPICS, writer=f"{ctx.case}-guard") as control,
        EventReader(kafka, ctx.case, f"{ctx.case}-guard") as events,
    ):
        guard = GuardWorker(ctx.case, control)
        for entry in control.read_all():
            guard.observe(entry.event)
        _serve(ctx, control, events, guard)


def _serve(
    ctx: WorkerContext, control: ControlLog, events: EventReader, guard: GuardWorker
) -> None:
    reported_at = 0.0
    while not ctx.stop.is_set():
        rows = [row for _, _, row in events.read(READ_WAIT_S) if row is not None]
        # Control after events: the release behind a row was published before the row was scored.
        for entry in control.poll(0):
            guard.observe(entry.event)
        for row in rows:
            guard.add(row)
        guard.look()
        if time.monotonic() - reported_at >= REPORT_INTERVAL_S:
            reported_at = time.monotonic()
            if guard.is_idle:
                events.commit(events.positions)
            ctx.report({**guard.counters(), "undecodable": events.undecodable})


class GuardWorker:
    """The trial of the current release, and the verdicts there have been."""

    def __init__(self, case: str, control: ControlLog) -> None:
        self._case = case
        self._policy: Policy = usecase.load("monitoring", case).POLICY
        signed = requirements.load(case)
        self._floor = signed.accuracy if signed else None
        self._control = control
        self._release: Release | None = None
        self._trial: Trial | None = None
        # Candidate → the newest release of it that has a verdict.
        self._judged: dict[str, int] = {}
        # Candidate → the order its admission carried.
        self._orders: dict[str, str | None] = {}
        self._early: list[ResultRow | JoinedRow] = []
        self._counts = {"verdicts": 0, "early_dropped": 0}

    @property
    def is_idle(self) -> bool:
        """Nothing read so far will be needed again after a restart."""
        return self._trial is None and not self._early

    def observe(self, event: ControlEvent) -> None:
        """Take in one control event; repeats change nothing."""
        if isinstance(event, Verdict):
            self._observe_verdict(event)
        elif isinstance(event, Release) and (
            self._release is None or event.epoch > self._release.epoch
        ):
            self._release = event
            if self._trial is None or not self._trial.goes_on(event):
                self._trial = self._trial_of(event)
            early, self._early = self._early, []
            for row in early:
                self.add(row)

    def add(self, row: ResultRow | JoinedRow) -> None:
        """Take one row; those from before the trial are passed by."""
        epoch = self._release.epoch if self._release else 0
        if row.epoch > epoch:
            if len(self._early) < EARLY_ROWS_MAX:
                self._early.append(row)
            else:
                self._counts["early_dropped"] += 1
        elif self._trial is not None and row.epoch >= self._trial.release.epoch:
            if isinstance(row, ResultRow):
                self._trial.add_result(row)
            else:
                self._trial.add_joined(row)

    def look(self) -> None:
        """Publish the verdict as soon as there is one."""
        if self._trial is None:
            return
        trial, ruling = self._trial, self._trial.look()
        if ruling is None:
            return
        verdict = self._verdict(trial, ruling)
        self._control.publish(verdict)
        self.observe(verdict)
        self._counts["verdicts"] += 1
        log.info(
            "verdict", candidate=verdict.candidate, kind=verdict.verdict, reason=verdict.reason
        )

    def counters(self) -> dict[str, float | int | str]:
        """For `ctx.report`."""
        canary = self._trial.release.canary if self._trial else None
        metrics = self._trial.canary_progress() if self._trial else {}
        return {**self._counts, "canary": canary or "", **metrics}

    def _trial_of(self, release: Release) -> Trial | None:
        canary = release.canary
        if canary is None or self._judged.get(canary, 0) >= release.epoch:
            return None
        return Trial(release, self._policy.guard, self._floor)

    def _observe_verdict(self, verdict: Verdict) -> None:
        match verdict.verdict:
            case VerdictKind.ADMIT:
                self._orders[verdict.candidate] = verdict.order_id
            case VerdictKind.PROMOTE | VerdictKind.ROLL_BACK:
                of, epoch = verdict.candidate, verdict.epoch or 0
                self._judged[of] = max(self._judged.get(of, 0), epoch)
                began = self._trial.release if self._trial else None
                if began and began.canary == of and epoch >= began.epoch:
                    self._trial = None

    def _verdict(self, trial: Trial, ruling: Ruling) -> Verdict:
        candidate = trial.release.canary or ""
        epoch = self._release.epoch if self._release else trial.release.epoch
        return Verdict(
            event_time_ms=trial.clock_ms,
            event_id=f"verdict-{self._case}-{candidate}-{epoch}",
            epoch=epoch,
            case=self._case,
            decided_at_ms=time.time_ns() // 1_000_000,
            verdict=ruling.verdict,
            order_id=self._orders.get(candidate),
            model=trial.release.model,
            champion=trial.release.champion,
            candidate=candidate,
            champion_metrics=ruling.champion_metrics,
            candidate_metrics=ruling.canary_metrics,
            rows=ruling.rows,
            reason=ruling.reason,
        )
