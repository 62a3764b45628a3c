"""Features older than the use case's limit.

Injected: the stream falls silent, while requests go on, from within the limit that the use case declares for an entity of the
view to far behind it; stations fell silent at different times. Must hold: every result names the age of its features, exactly;
it has the reason `stale` where the age is above the limit and only there; the declared policy is to score all the same,
and the score is given; I1 to I6 and I8. Does not show: the other policy, the rule in the model's place
(`tests/serving/test_scoring.py`), and the limit for a view as a whole (`tests/serving/test_staleness.py`).
"""

from __future__ import annotations

from schemas.results import Result, Status
from tests.faults import answers
from tests.faults import invariants as must
from tests.faults.scored import FRESH_S
from tests.faults.stage import Stage, sent_row

EVENTS = 600
STATIONS = 40
MINUTE_MS = 60_000


def run(stage: Stage) -> None:
    """Let time go on, and no event come."""
    stage.topics()
    events = stage.events(EVENTS, stations=STATIONS)
    rows = [sent_row(stage.view, row) for row in stage.tile_rows(events)]
    stage.ledger.produce(stage.rig.kafka, stage.view.topic_out, rows)
    stage.start("materializer")
    wanted = must.truth(stage, events)
    stage.recovers(
        "rings equal the oracle", lambda: not must.differences(stage, wanted), lambda: "they do not"
    )
    answers.scorer(stage)
    limit_ms = FRESH_S * 1000
    later = sorted(stage.dice.randrange(limit_ms * 2) for _ in range(5))
    later += [limit_ms - MINUTE_MS, limit_ms + MINUTE_MS]
    for step, later_ms in enumerate(later):
        at_ms = wanted.as_of_ms + later_ms
        answers.ask(stage, wanted.stations, at_ms, step * STATIONS, STATIONS)
    stage.inject(f"requests up to {max(later) // 60_000} minutes after the last event")
    stage.recovers("all answered", lambda: answers.answered(stage), lambda: "requests are left")
    found = answers.check(stage)
    _judge(stage, found, wanted, limit_ms)
    topics = (f"{stage.case}.requests", f"{stage.case}.results")
    held = must.no_hanging_transaction(stage, *topics)
    stage.outcome.check("no hanging transaction", holds=held)


def _judge(stage: Stage, found: list[Result], wanted: must.Truth, limit_ms: int) -> None:
    view = stage.view.name
    stale = 0
    for result in found:
        later_ms = result.event_time_ms - wanted.as_of_ms
        age_ms = wanted.ages_ms[result.entity] + later_ms
        exact = result.ages_ms == {view: age_ms}
        stage.outcome.check("the age is in the result", holds=exact, came=(result.ages_ms, age_ms))
        said = any(reason.startswith(f"stale: {view} ") for reason in result.reasons)
        held = said == (age_ms > limit_ms)
        came = (age_ms, result.reasons)
        stage.outcome.check("stale is said where it is so, and only there", holds=held, came=came)
        stale += said
        scored = result.status is Status.SCORED and result.score is not None
        stage.outcome.check("it is scored all the same", holds=scored, came=result.status)
    both = 0 < stale < len(found)
    stage.outcome.check("there were fresh and stale ones", holds=both, came=stale)
    stage.outcome.counts["stale"] = stale
