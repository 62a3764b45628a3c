"""A model that raises, or gives what is no score; then one that always raises; then one of another type.

Injected: requests of five stations for which the model raises, answers NaN, 1.5, fewer scores than rows, or what a rule of the
business forbids, among those of others; then nothing but requests for which it raises; then a canary that gives whole
numbers. Must hold: only rows of those stations fall back, each with its reason, and all others are scored; of the model that
always raises the circuit opens, and closes once it answers again; the canary is refused before it answers anybody; no
restart; I1 to I8. Does not show: wrong scores that are within all that was declared, which is what the guard is for.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from schemas.results import Result, Route, Status
from serving import release_log
from serving.releases import with_canary
from tests.faults import answers, hurt_model
from tests.faults.replicas import AS_OF_MS, Replicas, assigned_within
from tests.faults.stage import Stage, Worker
from tests.serving import model_folders

# So many bad ones that they are the half of all, were it all within the window of the circuit.
MIXED, ALL_BAD, AT_ONCE = 2_000, 2_000, 500
REASONS = {
    hurt_model.RAISES: "model_error: ",
    hurt_model.NAN: "output_not_finite: nan",
    hurt_model.TOO_HIGH: "output_out_of_range: 1.5 ",
    hurt_model.SHORT: "output_shape: ",
    hurt_model.BROKEN_RULE: "output_rule: 0.25: a rule of the business",
}
CANARY = "v0002"


def run(stage: Stage) -> None:
    """Among others, then alone, then a canary."""
    replicas = Replicas(stage, hurt_model.release)
    scorer = replicas.start("tests.faults.hurt_model")
    stage.outcome.check("it came to work", holds=assigned_within(scorer))
    stations = [*(hurt_model.WELL * 3), *REASONS]
    stage.dice.shuffle(stations)
    stage.inject(f"among others: {dict(REASONS)}")
    answers.ask(stage, stations, AS_OF_MS, 0, MIXED)
    stage.until(lambda: not replicas.lag())
    _judge(stage, answers.results(stage))

    stage.inject(f"nothing but {hurt_model.RAISES}")
    for first in range(MIXED, MIXED + ALL_BAD, AT_ONCE):
        answers.ask(stage, [hurt_model.RAISES], AS_OF_MS, first, AT_ONCE)
        stage.until(lambda: not replicas.lag())
    shut = _reasons(answers.results_from(stage, MIXED))
    stage.outcome.check("the circuit opens", holds=shut["circuit_open"] > 0, came=shut)
    asked = _until_scored(stage, MIXED + ALL_BAD)
    _canary(stage, replicas, scorer, asked)
    replicas.finish()
    opened = hurt_model.counted(scorer, "circuit_opened")
    stage.outcome.check("no restart", holds=not scorer.restarts, came=scorer.restarts)
    stage.outcome.counts |= {"opened": opened, "kept from the model": shut["circuit_open"]}


def _judge(stage: Stage, found: list[Result]) -> None:
    wrong = []
    for result in found:
        reason = REASONS.get(result.entity)
        if reason is None:
            held = result.status is Status.SCORED and not result.reasons
        else:
            held = (
                result.status is Status.FALLBACK
                and result.route is Route.RULE
                and result.failed == (answers.VERSION,)
                and result.reasons[0].startswith(reason)
            )
        if not held:
            wrong.append((result.entity, result.status, result.reasons))
    whole = len(found) == MIXED and not wrong
    stage.outcome.check("only those fall back, and say why", holds=whole, came=wrong[:3])


def _until_scored(stage: Stage, first: int) -> int:
    """Requests that the model can answer, until it is asked again; returns how many requests there are by now."""
    with answers.Asking(stage, hurt_model.WELL, AS_OF_MS, first) as asking:
        stage.recovers(
            "the circuit closes",
            lambda: any(r.status is Status.SCORED for r in answers.results_from(stage, first)),
            lambda: "nothing is scored",
        )
    return asking.asked


def _canary(stage: Stage, replicas: Replicas, scorer: Worker, first: int) -> None:
    made = hurt_model.graph(1 + len(stage.view.aggregates), whole=True)
    models = stage.folder / "models"
    model_folders.write(models, CANARY, model=made, of=stage.case, given=stage.plan)
    now = release_log.current(stage.rig.kafka, stage.case)
    assert now is not None
    stamp: dict[str, Any] = {"event_id": "canary", "reason": "whole numbers", "decided_by": "fault"}
    stamp |= {"event_time_ms": answers.RELEASED_MS, "decided_at_ms": answers.RELEASED_MS}
    canary = with_canary(now, candidate=CANARY, share=1.0, salt=CANARY, **stamp)
    release_log.publish(stage.rig.kafka, canary)
    stage.inject("a canary of another type, to answer everybody")
    refused = stage.until(lambda: scorer.said("releases.refused"))
    answers.ask(stage, hurt_model.WELL, AS_OF_MS, first, 100)
    stage.until(lambda: not replicas.lag())
    said = {r.reasons for r in answers.results(stage) if r.epoch == canary.epoch}
    held = refused is not None and said == {(f"canary_refused: {CANARY}",)}
    stage.outcome.check("a model of another type answers nobody", holds=held, came=said)


def _reasons(found: list[Result]) -> Counter[str]:
    return Counter(reason.partition(":")[0] for result in found for reason in result.reasons)
