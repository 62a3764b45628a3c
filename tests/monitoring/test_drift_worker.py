from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from monitoring import drift_worker
from monitoring.policy import DAY_MS, QuietHours
from monitoring.report_index import lines_of, record
from monitoring.settings import MonitoringSettings
from schemas.control import Alert, Candidate, RetrainingOrder
from schemas.results import Joined, Result, Status
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
from tests.monitoring import rig

ROWS_A_DAY = 600


def day(number: int, *, shift: float = 0.0) -> list[tuple[Result, Joined]]:
    start_ms = rig.T0_MS + number * DAY_MS
    rows = rig.traffic(
        seed=number, start_ms=start_ms, rows=ROWS_A_DAY, rows_a_day=ROWS_A_DAY, shift=shift
    )
    return list(rows)


def send(kafka: KafkaSettings, case: str, pairs: list[tuple[Result, Joined]]) -> None:
    rig.produce(kafka, ((f"{case}.joined", j.key, j.encode()) for _, j in pairs))
    rig.produce(kafka, ((f"{case}.results", r.key, r.encode()) for r, _ in pairs))


def published(kafka: KafkaSettings, case: str) -> tuple[list[Alert], list[RetrainingOrder]]:
    alerts = [Alert.model_validate_json(v) for v in rig.read_all(kafka, "control.alerts")]
    orders = [
        RetrainingOrder.model_validate_json(v) for v in rig.read_all(kafka, "control.retraining")
    ]
    return [a for a in alerts if a.case == case], [o for o in orders if o.case == case]


def test_drift_orders_one_retraining_and_a_restart_changes_nothing(
    kafka: KafkaSettings, case: str, tmp_path: Path
) -> None:
    monitoring = MonitoringSettings(reports_dir=str(tmp_path / "reports"))
    folder = tmp_path / "reports" / case
    models = tmp_path / "models"
    rig.write_model(models, "v1")

    def run(ctx: WorkerContext) -> None:
        drift_worker.run(ctx, kafka, monitoring, str(models))

    rig.publish(kafka, "control.releases", rig.release(case))
    # A quiet day, then drifted ones; the hours after the last day close it.
    send(kafka, case, day(0) + day(1, shift=0.8) + day(2, shift=0.8)[:300])
    with rig.running(case, run) as reports:
        rig.wait_until(lambda: bool(reports) and reports[-1]["windows"] == 2)
        rig.wait_until(lambda: reports[-1]["pages"] == 2, 90)
    alerts, orders = published(kafka, case)
    start_ms = rig.T0_MS + DAY_MS
    assert [a.event_id for a in alerts] == [f"alert-{case}-v1-{start_ms}"]
    assert alerts[0].acted_on
    assert alerts[0].drifted == rig.FEATURES[2:]
    page = Path(alerts[0].report)
    assert "retraining ordered" in page.read_text()
    assert page.with_suffix(".plots.html").stat().st_size > 100_000
    assert [o.event_id for o in orders] == [f"order-{alerts[0].event_id}"]
    assert orders[0].until_ms - orders[0].since_ms == rig.POLICY.loop.look_back_ms
    assert orders[0].version == alerts[0].version

    # The open window is read again, whole; its alert is held back by the order.
    send(kafka, case, day(2, shift=0.8)[300:] + day(3, shift=0.8)[:300])
    with rig.running(case, run) as reports:
        rig.wait_until(lambda: bool(reports) and reports[-1]["windows"] == 1)
    alerts, orders = published(kafka, case)
    assert [a.rows for a in alerts] == [ROWS_A_DAY, ROWS_A_DAY]
    assert alerts[1].held_back_by == f"open order {orders[0].event_id}"
    assert len(orders) == 1

    # The training failed, the cool-down passed; and there is a new champion, to whom this is normal.
    rig.write_model(models, "v2", shift=0.8)
    failed = Candidate(
        event_time_ms=rig.T0_MS + 3 * DAY_MS,
        event_id="c1",
        case=case,
        decided_at_ms=1,
        order_id=orders[0].event_id,
        model="m",
        version=None,
        folder=None,
        digest=None,
        error="boom",
    )
    rig.publish(kafka, "control.candidates", failed)
    rig.publish(kafka, "control.releases", rig.release(case, epoch=2, champion="v2"))
    send(kafka, case, day(3, shift=0.8)[300:] + day(4, shift=0.8)[:300])
    with rig.running(case, run) as reports:
        rig.wait_until(lambda: bool(reports) and reports[-1]["windows"] == 1)
    assert len(published(kafka, case)[0]) == 2
    actions = [line.action for line in lines_of(folder)]
    assert actions[0] == "0 of 200 outcomes of v2"
    assert actions[1].startswith("alert, held back by open order")
    assert actions[2].startswith("alert, retraining ordered")
    assert actions[3] == "nothing to do"


def test_quiet_hours_defer_drift_but_nothing_that_looks_broken(
    kafka: KafkaSettings, case: str, tmp_path: Path
) -> None:
    """Windows close an hour after midnight, quiet hours end at six."""
    loop = replace(rig.POLICY.loop, quiet=(QuietHours(0, 6),))
    vars(sys.modules[f"monitoring.{case}"])["POLICY"] = replace(rig.POLICY, loop=loop)
    monitoring = MonitoringSettings(reports_dir=str(tmp_path / "reports"))
    folder = tmp_path / "reports" / case
    rig.write_model(tmp_path / "models", "v1")
    rig.publish(kafka, "control.releases", rig.release(case))
    still: dict[str, object] = {"weather__wind": 1.5}
    broken = [
        (r.model_copy(update={"features": {**r.features, **still}}), joined) for r, joined in day(0)
    ]

    def run(ctx: WorkerContext) -> None:
        drift_worker.run(ctx, kafka, monitoring, str(tmp_path / "models"))

    send(kafka, case, broken + day(1, shift=0.8) + day(2)[:100])
    with rig.running(case, run) as reports:
        rig.wait_until(lambda: bool(reports) and reports[-1]["windows"] == 2)
        held = lines_of(folder)[0].action
        assert held == "alert, held back by quiet hours until 2013-06-04 06:00"
        # Past six.
        send(kafka, case, day(2)[100:300])
        rig.wait_until(lambda: reports[-1]["orders"] == 1)
    alerts, orders = published(kafka, case)
    assert [a.held_back_by for a in alerts] == [
        "broken inputs: weather__wind (constant in the window)",
        "quiet hours until 2013-06-04 06:00",
    ]
    assert [o.alert_id for o in orders] == [alerts[1].event_id]
    newest, before = lines_of(folder)
    assert before.action == f"alert, held back by {alerts[0].held_back_by}"
    assert newest.action == (
        f"alert, retraining ordered 2013-06-04 06:00, after {alerts[1].held_back_by}"
        f" ({orders[0].event_id})"
    )
    assert newest.action in (folder / str(newest.report)).read_text()

    # A crash between the order and the line.
    record(folder, case, replace(newest, action=f"incident: low; {held}"))
    with rig.running(case, run) as reports:
        rig.wait_until(lambda: bool(reports))
    assert [line.action for line in lines_of(folder)] == [
        f"incident: low; {newest.action}",
        before.action,
    ]


@pytest.mark.nightly
def test_silent_days_and_days_of_nothing_but_expired_answers_alarm_nobody(
    kafka: KafkaSettings, case: str, tmp_path: Path
) -> None:
    monitoring = MonitoringSettings(reports_dir=str(tmp_path / "reports"))
    rig.write_model(tmp_path, "v1")
    nothing: dict[str, object] = {
        "status": Status.EXPIRED,
        "score": None,
        "label": None,
        "features": {},
    }
    expired = [(r.model_copy(update=nothing), j) for r, j in day(2)]
    rig.publish(kafka, "control.releases", rig.release(case))
    # The second day nothing is asked at all; on the fourth something is, to close the third.
    send(kafka, case, day(0))
    rig.produce(kafka, ((f"{case}.results", r.key, r.encode()) for r, _ in expired))
    send(kafka, case, day(3)[:300])

    def run(ctx: WorkerContext) -> None:
        drift_worker.run(ctx, kafka, monitoring, str(tmp_path))

    with rig.running(case, run) as reports:
        rig.wait_until(lambda: bool(reports) and reports[-1]["windows"] == 2)
    assert published(kafka, case) == ([], [])
    last, first = lines_of(tmp_path / "reports" / case)
    assert (last.action, first.action) == (
        "0 of 200 rows; 0 of 200 outcomes of v1",
        "nothing to do",
    )


@pytest.mark.nightly
def test_windows_by_rows_go_on_after_a_restart_where_they_were(
    kafka: KafkaSettings, case: str, tmp_path: Path
) -> None:
    by_rows = replace(rig.POLICY.window, rows=500)
    vars(sys.modules[f"monitoring.{case}"])["POLICY"] = replace(rig.POLICY, window=by_rows)
    monitoring = MonitoringSettings(reports_dir=str(tmp_path / "reports"))
    rig.write_model(tmp_path / "models", "v1")
    rig.publish(kafka, "control.releases", rig.release(case))

    def run(ctx: WorkerContext) -> None:
        drift_worker.run(ctx, kafka, monitoring, str(tmp_path / "models"))

    send(kafka, case, day(0) + day(1) + day(2)[:300])
    with rig.running(case, run) as reports:
        rig.wait_until(lambda: bool(reports) and reports[-1]["windows"] == 2)
    send(kafka, case, day(2)[300:])
    with rig.running(case, run) as reports:
        rig.wait_until(lambda: bool(reports) and reports[-1]["windows"] == 1)
    lines = lines_of(tmp_path / "reports" / case)
    assert [line.rows for line in lines] == [500, 500, 500]
    assert lines[0].window_start_ms == lines[1].window_end_ms
    assert lines[1].window_start_ms == lines[2].window_end_ms == rig.T0_MS + 499 * DAY_MS // 600 + 1
    assert not published(kafka, case)[0]
