from __future__ import annotations

from monitoring import guard_worker
from schemas.control import Verdict, VerdictKind
from schemas.results import Joined, Result
from schemas.settings import KafkaSettings
from schemas.worker import WorkerContext
from tests.monitoring import rig

Pairs = list[tuple[Result, Joined]]


def admitted(case: str, candidate: str) -> Verdict:
    return Verdict(
        event_time_ms=rig.T0_MS,
        event_id=f"admit-{case}-{candidate}",
        case=case,
        decided_at_ms=1,
        verdict=VerdictKind.ADMIT,
        order_id=f"order-{candidate}",
        model="m",
        champion="v1",
        candidate=candidate,
        champion_metrics={},
        candidate_metrics={},
        rows=1,
        reason="better",
    )


def send(kafka: KafkaSettings, case: str, pairs: Pairs) -> None:
    rig.produce(kafka, ((f"{case}.results", r.key, r.encode()) for r, _ in pairs))
    rig.produce(kafka, ((f"{case}.joined", j.key, j.encode()) for _, j in pairs))


def verdicts(kafka: KafkaSettings, case: str) -> list[Verdict]:
    found = [Verdict.model_validate_json(v) for v in rig.read_all(kafka, "control.verdicts")]
    return [v for v in found if v.case == case and v.verdict != VerdictKind.ADMIT]


def traffic(seed: int, rows: int, *, epoch: int, good: bool) -> Pairs:
    return list(
        rig.traffic(
            seed=seed,
            start_ms=rig.T0_MS,
            rows=rows,
            rows_a_day=1_000,
            canary_share=0.25,
            epoch=epoch,
            canary_score=lambda p, _: p if good else 1 - p,
        )
    )


def test_one_verdict_a_candidate_over_restarts(kafka: KafkaSettings, case: str) -> None:
    def run(ctx: WorkerContext) -> None:
        guard_worker.run(ctx, kafka)

    rig.publish(kafka, "control.releases", rig.release(case))
    rig.publish(kafka, "control.verdicts", admitted(case, "v2"))
    send(kafka, case, traffic(1, 500, epoch=1, good=True))
    # Rows of an epoch may be read before its release.
    pairs = traffic(2, 1_600, epoch=2, good=True)
    send(kafka, case, pairs[:600])
    with rig.running(case, run) as reports:
        rig.wait_until(lambda: len(reports) > 2)
        rig.publish(kafka, "control.releases", rig.release(case, epoch=2, canary="v2"))
        rig.wait_until(lambda: int(reports[-1].get("canary_joined", 0)) > 100)
    assert verdicts(kafka, case) == []
    send(kafka, case, pairs[600:])
    with rig.running(case, run) as reports:
        rig.wait_until(lambda: bool(reports) and reports[-1]["verdicts"] == 1)
    with rig.running(case, run) as reports:
        rig.wait_until(lambda: len(reports) > 2)
    found = verdicts(kafka, case)
    assert [(v.event_id, v.verdict, v.order_id) for v in found] == [
        (f"verdict-{case}-v2-2", VerdictKind.PROMOTE, "order-v2")
    ]
    assert found[0].rows >= rig.POLICY.guard.rows_decide


def test_a_bad_canary_is_rolled_back(kafka: KafkaSettings, case: str) -> None:
    def run(ctx: WorkerContext) -> None:
        guard_worker.run(ctx, kafka)

    rig.publish(kafka, "control.releases", rig.release(case, epoch=3, canary="v2"))
    send(kafka, case, traffic(3, 1_000, epoch=3, good=False))
    with rig.running(case, run) as reports:
        rig.wait_until(lambda: bool(reports) and reports[-1]["verdicts"] == 1)
    assert [v.verdict for v in verdicts(kafka, case)] == [VerdictKind.ROLL_BACK]
