"""Windows of results against the champion's reference: alerts, retraining orders, and a page for each window.

Everything read of an open window is in memory only; offsets are committed at window ends, up to the first row of a
window still open, with the end of the last closed window noted beside them. A restart therefore reads an open window
again, whole, and judges no window twice. Between an alert's transaction and that commit a window may be judged again:
its alert has the same id, is known from the control topics, and is not repeated.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from monitoring import brake
from monitoring import reference as references
from monitoring.event_reader import EventReader
from monitoring.incident import incident
from monitoring.judgement import Judgement, judge
from monitoring.loop import Decision, Loop, alert_id, day, order_id
from monitoring.reference import MissingReference, Reference
from monitoring.report_folder import ReportFolder
from monitoring.report_index import window_name
from monitoring.reports import ReportWriter
from monitoring.row_windows import RowWindows
from monitoring.windows import ResultRow, Window, Windows
from schemas import requirements, usecase
from schemas.control import (
    Alert,
    Brake,
    BrakeKind,
    Candidate,
    ControlEvent,
    Incident,
    Release,
    RetrainingOrder,
    Verdict,
)
from schemas.control_log import ControlLog, ControlLogUnavailable

if TYPE_CHECKING:
    from monitoring.policy import Policy, WindowPolicy
    from monitoring.settings import MonitoringSettings
    from schemas.settings import KafkaSettings
    from schemas.worker import WorkerContext

TOPICS = (*brake.TOPICS, "control.incidents")
READ_WAIT_S = 0.2
REPORT_INTERVAL_S = 1.0
# The page under way takes 2 s, or 10 when Evidently is still being imported.
REPORTS_STOP_S = 15.0

log = structlog.get_logger()


def run(
    ctx: WorkerContext, kafka: KafkaSettings, monitoring: MonitoringSettings, models_dir: str
) -> None:
    """Judge windows until `ctx.stop` is set. The topics of the use case must exist.

    Raises:
        ControlLogUnavailable: The broker is out of reach, or another drift worker of this use case has taken over.
        KafkaException: Results and joined rows cannot be read.
    """
    writer = ReportWriter()
    with (
        ControlLog(kafka, ctx.case, TOPICS, writer=f"{ctx.case}-drift") as control,
        EventReader(kafka, ctx.case, f"{ctx.case}-drift") as events,
    ):
        try:
            worker = DriftWorker(
                ctx.case,
                control=control,
                reports=ReportFolder(Path(monitoring.reports_dir) / ctx.case, ctx.case, writer),
                models_dir=Path(models_dir),
                windows=_windows(ctx.case, events),
            )
            for entry in control.read_all():
                worker.observe(entry.event)
            worker.tell_deferred()
            _serve(ctx, kafka, control, events, worker)
        finally:
            writer.stop(REPORTS_STOP_S)


def _serve(
    ctx: WorkerContext,
    kafka: KafkaSettings,
    control: ControlLog,
    events: EventReader,
    worker: DriftWorker,
) -> None:
    reported_at = 0.0
    while not ctx.stop.is_set():
        for partition, offset, row in events.read(READ_WAIT_S):
            if row is None:
                worker.windows.end(partition)
            elif isinstance(row, ResultRow):
                worker.windows.add_result(partition, offset, row)
            else:
                worker.windows.add_joined(partition, offset, row)
        for entry in control.poll(0):
            worker.observe(entry.event)
        while (window := worker.windows.close_ready()) is not None:
            _settle(kafka, ctx.case, worker, worker.closing_ms(window))
            worker.close(window)
            events.commit(
                worker.windows.committable(events.positions), str(worker.windows.closed_until_ms)
            )
        _settle(kafka, ctx.case, worker, worker.windows.results_clock.now_ms)
        if time.monotonic() - reported_at >= REPORT_INTERVAL_S:
            reported_at = time.monotonic()
            ctx.report({**worker.counters(), "undecodable": events.undecodable})


def _settle(kafka: KafkaSettings, case: str, worker: DriftWorker, now_ms: int) -> None:
    """What the stream's clock alone brings by `now_ms`: proposals that lapse, alerts whose quiet hours are over."""
    worker.order_deferred(now_ms)
    order = worker.lapsed(now_ms)
    if order is None or order.approve_by_ms is None:
        return
    word = brake.Word(
        BrakeKind.LAPSE, by="drift", reason="not approved in time", order_id=order.event_id
    )
    try:
        # Under the id of all who pull the brake, so that an approval at this very moment is either read or refused.
        said = brake.pull(kafka, case, worker.policy, word, order.approve_by_ms)
    except brake.BrakeRefused as error:
        log.warning("not_lapsed", order=order.event_id, reason=str(error))
    except ControlLogUnavailable as error:
        log.warning("lapse_again", order=order.event_id, reason=str(error))
    else:
        worker.observe(said)


def _windows(case: str, events: EventReader) -> Windows | RowWindows:
    policy: WindowPolicy = usecase.load("monitoring", case).POLICY.window
    closed_until_ms = int(events.note or 0)
    if policy.rows is not None:
        return RowWindows(
            results=events.results,
            joined=events.joined,
            rows=policy.rows,
            grace_ms=policy.grace_ms,
            patience_ms=policy.length_ms,
            closed_until_ms=closed_until_ms,
        )
    return Windows(
        results=events.results,
        joined=events.joined,
        length_ms=policy.length_ms,
        grace_ms=policy.grace_ms,
        rows_max=policy.rows_max,
        closed_until_ms=closed_until_ms,
    )


class DriftWorker:
    """What the worker knows, and what it does with a closed window."""

    def __init__(
        self,
        case: str,
        *,
        control: ControlLog,
        reports: ReportFolder,
        models_dir: Path,
        windows: Windows | RowWindows,
    ) -> None:
        self._case = case
        self._policy: Policy = usecase.load("monitoring", case).POLICY
        self.policy = self._policy.loop
        inputs = usecase.load("schemas", case).INPUTS
        self._categorical = frozenset(i.name for i in inputs if i.categories is not None)
        self._control = control
        self._reports = reports
        self._models_dir = models_dir
        self._loop = Loop(self._policy.loop)
        signed = requirements.load(case)
        self._floor = signed.accuracy if signed else None
        # By the start of its window.
        self._incidents: dict[int, Incident] = {}
        self._release: Release | None = None
        self._reference: Reference | None = None
        self._counts = {"windows": 0, "drifted": 0, "orders": 0, "incidents": 0, "unjudged": 0}
        self.windows = windows

    def observe(self, event: ControlEvent) -> None:
        """Take in one control event; repeats change nothing."""
        if isinstance(event, Release):
            if self._release is None or event.epoch > self._release.epoch:
                self._release = event
        elif isinstance(event, Incident):
            self._incidents.setdefault(event.window_start_ms, event)
        elif isinstance(event, Alert | RetrainingOrder | Candidate | Verdict | Brake):
            self._loop.observe(event)

    def closing_ms(self, window: Window) -> int:
        """When a window is judged, nominally, and not when some row happened to close it: a replay decides alike."""
        return window.end_ms + self._policy.window.grace_ms

    def lapsed(self, now_ms: int) -> RetrainingOrder | None:
        """The proposal that nobody has approved in time."""
        return self._loop.lapsed(now_ms)

    def order_deferred(self, now_ms: int) -> None:
        """Open the order that quiet hours held back, if they are over."""
        deferred = self._loop.deferred(now_ms)
        if deferred is not None:
            self._publish(self._order(*deferred))
            self._counts["orders"] += 1
            self._tell_deferred(deferred[0])

    def tell_deferred(self) -> None:
        """Say of every window that quiet hours held back what was ordered after them: a crash may have come in between."""
        for alert in self._loop.alerts.values():
            self._tell_deferred(alert)

    def close(self, window: Window) -> None:
        """Judge a window, publish what follows, and write it down."""
        self._counts["windows"] += 1
        reference = self._champion_reference()
        if isinstance(reference, str):
            self._counts["unjudged"] += 1
            version = self._release.champion if self._release else "none"
            unjudged = Judgement(rows=window.results_seen, version=version)
            self._reports.record(window, unjudged, reference)
            return
        judgement = judge(window, reference, self._categorical, self._policy)
        if judgement.columns:
            self._reports.publish(window, judgement, reference, self._categorical)
        found = self._hold_to_floor(window, judgement)
        done = self._act(window, judgement, reference) if judgement.kinds else judgement.said
        action = "; ".join(filter(None, (f"incident: {found.reason}" if found else "", done)))
        self._reports.record(
            window,
            judgement,
            action or "nothing to do",
            reference=reference,
            policy=self._policy.drift,
        )
        log.info(
            "window_closed",
            window=window_name(window.start_ms),
            rows=judgement.rows,
            kinds=[k.value for k in judgement.kinds],
            drifted=judgement.drifted,
            action=action,
        )

    def counters(self) -> dict[str, float | int | str]:
        """For `ctx.report`."""
        return {
            **self._counts,
            "late": self.windows.late,
            "clock_ms": self.windows.results_clock.now_ms,
            "pages": self._reports.writer.written,
            "pages_failed": self._reports.writer.failed,
            "champion": self._release.champion if self._release else "",
        }

    def _champion_reference(self) -> Reference | str:
        """The reference of the champion of the newest release, or why there is none."""
        if self._release is None:
            return "not judged: no release yet"
        if self._reference is None or self._reference.version != self._release.champion:
            try:
                self._reference = references.load(
                    self._models_dir, self._release.model, self._release.champion
                )
            except MissingReference as error:
                # Said in the index and the log at every window; the next window tries again.
                log.exception("no_reference")
                return f"not judged: {error}"
        return self._reference

    def _act(self, window: Window, judgement: Judgement, reference: Reference) -> str:
        self._counts["drifted"] += 1
        now_ms = self.closing_ms(window)
        decision = self._loop.decide(window.start_ms, now_ms)
        if not decision.repeated:
            # Before whatever else holds it back, lest it be ordered when quiet hours end.
            held_back_by = judgement.held_back_by or decision.held_back_by
            decision = replace(decision, held_back_by=held_back_by)
            alert = self._alert(window, judgement, reference, now_ms)
            self._publish(*self._events(alert, decision, now_ms))
            self._counts["orders"] += decision.acts
        return self._action(self._loop.alerts[window.start_ms])

    def _hold_to_floor(self, window: Window, judgement: Judgement) -> Incident | None:
        """The incident of a window in which the champion's outcomes miss what was signed off; published once a window."""
        known = self._incidents.get(window.start_ms)
        if self._floor is None or known is not None:
            return known
        found = incident(self._case, self._floor, window, judgement, self.closing_ms(window))
        if found is not None:
            self._publish(found)
            self._counts["incidents"] += 1
            log.error("incident", version=found.version, reason=found.reason)
        return found

    def _events(self, alert: Alert, decision: Decision, now_ms: int) -> list[ControlEvent]:
        alert = alert.model_copy(
            update={"acted_on": decision.acts, "held_back_by": decision.held_back_by}
        )
        if not decision.acts:
            return [alert]
        return [alert, self._order(alert, now_ms)]

    def _order(self, alert: Alert, now_ms: int) -> RetrainingOrder:
        policy = self.policy
        return RetrainingOrder(
            event_time_ms=now_ms,
            event_id=order_id(alert.event_id),
            case=self._case,
            decided_at_ms=time.time_ns() // 1_000_000,
            alert_id=alert.event_id,
            since_ms=now_ms - policy.look_back_ms,
            until_ms=now_ms,
            reason=f"{', '.join(alert.kinds)} in the window of {window_name(alert.window_start_ms)}",
            approve_by_ms=now_ms + policy.approval_ms if policy.approval else None,
            version=alert.version,
        )

    def _publish(self, *events: ControlEvent) -> None:
        self._control.publish(*events)
        for event in events:
            self.observe(event)

    def _alert(
        self, window: Window, judgement: Judgement, reference: Reference, now_ms: int
    ) -> Alert:
        return Alert(
            event_time_ms=now_ms,
            event_id=alert_id(self._case, judgement.version, window.start_ms),
            case=self._case,
            decided_at_ms=time.time_ns() // 1_000_000,
            kinds=judgement.kinds,
            window_start_ms=window.start_ms,
            window_end_ms=window.end_ms,
            rows=judgement.rows,
            version=judgement.version,
            drifted=judgement.drifted,
            statistics={c.column: c.statistic for c in judgement.columns},
            metrics={
                **judgement.live.metrics(),
                "joined_rows": float(judgement.live.rows),
                "reference_auc": reference.auc,
                "reference_log_loss": reference.log_loss,
            },
            report=str(self._reports.path(window)),
            acted_on=False,
        )

    def _tell_deferred(self, alert: Alert) -> None:
        if alert.held_back_by is not None and order_id(alert.event_id) in self._loop.opened:
            self._reports.amend(alert.window_start_ms, _held_back(alert), self._action(alert))

    def _action(self, alert: Alert) -> str:
        order = self._loop.opened.get(order_id(alert.event_id))
        if alert.held_back_by is not None and order is None:
            return _held_back(alert)
        done = "proposed" if self.policy.approval else "ordered"
        if alert.held_back_by is not None and order is not None:
            done += f" {day(order.event_time_ms)}, after {alert.held_back_by}"
        return f"alert, retraining {done} ({order_id(alert.event_id)})"


def _held_back(alert: Alert) -> str:
    return f"alert, held back by {alert.held_back_by}"
