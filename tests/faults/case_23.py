"""A model that hangs: in a way that the runtime can end, and in one that nobody can.

Injected, while requests of other stations go on: for one station the graph enters a loop without an end; later, for another
one, the call into the runtime never returns. 500 ms are allowed to a batch. Must hold: the loop of the scorer goes on,
and the rule answers, all along; nobody waits much longer than two batches may take; each result says what happened; the
circuit opens, and where the call was ended the model answers again; where it was not, its thread is left behind, the
version is not asked any more, and a new replica starts with it anew; I1 to I8. Does not show: a hang that keeps Python's
lock, or one of the loop itself: that is found by `stuck_s`, and the replica is replaced (case 7).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from schemas.results import Result, Status
from tests.faults import answers, hurt_model
from tests.faults.replicas import AS_OF_MS, Replicas, assigned_within
from tests.faults.stage import Stage
from tests.pipelines.records import committed

HURT_S = 8.0
SLACK_MS = 3_000
SAID = frozenset({"model_timeout", "model_hangs", "circuit_open"})


def run(stage: Stage) -> None:
    """Hang, come back; hang for good, be replaced."""
    replicas = Replicas(stage, hurt_model.release)
    scorer = replicas.start("tests.faults.hurt_model")
    stage.outcome.check("it came to work", holds=assigned_within(scorer))
    asked = _scored_again(stage, "it scores", 0)
    before = asked

    stage.inject(f"a loop without an end, for {HURT_S:.0f} s")
    asked = _hurt(stage, hurt_model.HANGS, asked)
    _said(stage, "a call that is ended", answers.results_from(stage, before), "more than 500 ms")
    asked = _scored_again(stage, "the model answers again", asked)

    stage.inject(f"a call that never returns, for {HURT_S:.0f} s")
    first = asked
    asked = _hurt(stage, hurt_model.STUCK, asked)
    found = answers.results_from(stage, first)
    _said(stage, "a call that is left behind", found, "it could not be ended")
    _in_time(stage, before)
    stage.outcome.check("no restart", holds=not scorer.restarts, came=scorer.restarts)

    scorer.kill()
    stage.inject("the replica is replaced (kill -9)")
    _scored_again(stage, "the new replica scores", asked)
    replicas.finish()


def _hurt(stage: Stage, station: str, first: int) -> int:
    """Requests with one that hurts among them; returns how many there are by now."""
    stations = [*hurt_model.WELL, station]
    stage.dice.shuffle(stations)
    with answers.Asking(stage, stations, AS_OF_MS, first) as asking:
        time.sleep(HURT_S)
    stage.until(lambda: answers.answered(stage))
    return asking.asked


def _scored_again(stage: Stage, name: str, first: int) -> int:
    with answers.Asking(stage, hurt_model.WELL, AS_OF_MS, first) as asking:

        def scored() -> bool:
            return any(r.status is Status.SCORED for r in answers.results_from(stage, first))

        stage.recovers(name, scored, lambda: "it does not")
    stage.until(lambda: answers.answered(stage))
    return asking.asked


def _said(stage: Stage, name: str, found: Sequence[Result], detail: str) -> None:
    fallen = [r for r in found if r.status is Status.FALLBACK]
    reasons = [r.reasons[0] for r in fallen]
    known = {reason.partition(":")[0] for reason in reasons} <= SAID
    met = any(detail in reason for reason in reasons)
    shut = sum(reason.startswith("circuit_open") for reason in reasons)
    held = known and met and shut > 0
    stage.outcome.check(f"{name} is said, and opens the circuit", holds=held, came=set(reasons))
    stage.outcome.counts[f"fallbacks: {name}"] = len(fallen)


def _in_time(stage: Stage, first: int) -> None:
    """From the broker's time of a request to its time of the result."""
    asked, given = (
        {answers.request_id(m): m.timestamp()[1] for m in committed(stage.rig.kafka, topic)}
        for topic in (f"{stage.case}.requests", f"{stage.case}.results")
    )
    mine = [i for i in given if int(i.removeprefix("q")) >= first]
    worst_ms = max(given[i] - asked[i] for i in mine)
    limit_ms = 2 * hurt_model.PREDICT_MS_MAX + SLACK_MS
    stage.outcome.check(
        "nobody waits longer than allowed", holds=worst_ms < limit_ms, came=worst_ms
    )
    stage.outcome.counts["worst_ms"] = worst_ms
