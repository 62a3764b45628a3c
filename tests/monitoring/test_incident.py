from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from monitoring import drift_worker
from monitoring import reference as references
from monitoring.flights import POLICY
from monitoring.guard import Ruling, Trial
from monitoring.incident import incident
from monitoring.judgement import judge
from monitoring.policy import DAY_MS
from monitoring.report_index import lines_of
from monitoring.settings import MonitoringSettings
from monitoring.windows import JoinedRow, ResultRow
from schemas import usecase
from schemas.control import Incident, VerdictKind
from schemas.control_log import ControlLog
from schemas.requirements import Accuracy
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
from tests.monitoring import rig
from tests.monitoring.test_drift_worker import day, send
from tests.monitoring.test_judgement import CATEGORICAL, window

NOW_MS = rig.T0_MS + 90_000_000
RELEASE = rig.release("c", epoch=2, canary="v2").model_copy(update={"suspended": True})


def found(tmp_path: Path, floor: Accuracy, *, rows: int = 1_500) -> Incident | None:
    rig.write_model(tmp_path, "v1")
    judged = window(rows=rows)
    reference = references.load(tmp_path, "m", "v1")
    return incident("c", floor, judged, judge(judged, reference, CATEGORICAL, rig.POLICY), NOW_MS)


def test_an_incident_says_what_was_measured_and_what_was_signed(tmp_path: Path) -> None:
    made = found(tmp_path, Accuracy(metric="auc", value=0.9, rows_min=1_000))
    assert made is not None
    assert made.event_id == f"incident-c-v1-{rig.T0_MS}"
    assert (made.version, made.rows, made.bound) == ("v1", 1_500, 0.9)
    assert made.value == pytest.approx(0.76, abs=0.04)
    assert made.reason.endswith("on 1,500 outcomes misses the floor of 0.9")


@pytest.mark.parametrize(
    "floor",
    [
        Accuracy(metric="auc", value=0.6, rows_min=1_000),
        Accuracy(metric="auc", value=0.9, rows_min=1_501),
        Accuracy(metric="log_loss", value=0.6, rows_min=1),
    ],
)
def test_there_is_none_where_it_is_met_or_outcomes_are_few(floor: Accuracy, tmp_path: Path) -> None:
    assert found(tmp_path, floor) is None


def test_a_champion_below_its_floor_raises_one_incident_a_window(
    kafka: KafkaSettings, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = 'owner = "ann"\nsigned_off = 2026-11-22\n[accuracy]\nmetric = "auc"\n'
    file = tmp_path / f"{case}.requirements.toml"
    file.write_text(signed + "value = 0.95\nrows_min = 500\n")
    module = usecase.load("schemas", case)
    monkeypatch.setattr(module, "__file__", str(tmp_path / f"{case}.py"), raising=False)
    monitoring = MonitoringSettings(reports_dir=str(tmp_path / "reports"))
    rig.write_model(tmp_path / "models", "v1")

    def run(ctx: WorkerContext) -> None:
        drift_worker.run(ctx, kafka, monitoring, str(tmp_path / "models"))

    def incidents() -> list[Incident]:
        with ControlLog(kafka, case, ("control.incidents",)) as log:
            return [e.event for e in log.read_all() if isinstance(e.event, Incident)]

    rig.publish(kafka, "control.releases", rig.release(case))
    send(kafka, case, day(0) + day(1)[:50])
    with rig.running(case, run):
        rig.wait_until(lambda: len(incidents()) == 1)
        send(kafka, case, day(1)[50:] + day(2)[:50])
        rig.wait_until(lambda: len(incidents()) == 2)
    assert [i.window_start_ms for i in incidents()] == [rig.T0_MS, rig.T0_MS + DAY_MS]
    assert {(i.version, i.rows, i.bound) for i in incidents()} == {("v1", 600, 0.95)}
    lines = lines_of(tmp_path / "reports" / case)[::-1]
    told = [line.action.split("; ")[0] for line in lines]
    assert told == [f"incident: {one.reason}" for one in incidents()]


def ruling(floor: Accuracy | None) -> Ruling | None:
    """Of a canary beside a champion for which the rule answers."""
    trial = Trial(RELEASE, replace(POLICY.guard, rows_decide=600), floor)
    pairs = rig.traffic(
        seed=5, start_ms=rig.T0_MS, rows=2_000, rows_a_day=950, canary_share=0.5, epoch=2
    )
    for pair in pairs:
        result, joined = rig.rows_of(pair)
        if result.version == "v1":
            row = {f: getattr(result, f) for f in ResultRow.__struct_fields__}
            trial.add_result(ResultRow(**row | {"status": "fallback", "route": "rule"}))
            of = {f: getattr(joined, f) for f in JoinedRow.__struct_fields__}
            trial.add_joined(JoinedRow(**of | {"status": "fallback", "route": "rule"}))
        else:
            trial.add_result(result)
            trial.add_joined(joined)
        if (ruled := trial.look()) is not None:
            return ruled
    return None


@pytest.mark.parametrize(
    ("value", "kind"), [(0.6, VerdictKind.PROMOTE), (0.95, VerdictKind.ROLL_BACK)]
)
def test_beside_a_suspended_champion_a_canary_is_held_to_the_floor(
    value: float, kind: VerdictKind
) -> None:
    ruled = ruling(Accuracy(metric="auc", value=value, rows_min=1))
    assert ruled is not None
    assert (ruled.verdict, ruled.rows) == (kind, 600)
    assert f"on 600 outcomes against the floor of {value:g}" in ruled.reason


def test_without_a_floor_it_is_not_promoted_unseen() -> None:
    ruled = ruling(None)
    assert ruled is not None
    assert ruled.verdict is VerdictKind.ROLL_BACK


def test_a_suspension_begins_the_trial_anew() -> None:
    asked = RELEASE.model_copy(update={"suspended": False, "epoch": 3})
    assert not Trial(RELEASE, POLICY.guard).goes_on(asked)
