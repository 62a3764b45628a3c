"""A decision told whole, whatever became of the request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.decision import Behind, Decision, Letter, Record, State, told
from schemas.control import Release
from schemas.results import Result, Route, Status
from tests.pipelines.toy import START_MS, Question

TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
ASKED = Record(
    Question(event_time_ms=START_MS, request_id="q1", station="s1"), "t.requests[0]@7", 100, False
)
LETTER = Letter(
    "t.requests.dlq[0]@1", "t.requests[0]@8", "duplicate", "request_id", "", 5, TRACE, "{}"
)


def answered(**changes: Any) -> Record:
    result = Result(
        event_time_ms=START_MS,
        request_id="q1",
        entity="s1",
        status=Status.SCORED,
        score=0.25,
        label=False,
        model="t",
        version="v0002",
        route=Route.CANARY,
        epoch=2,
        features={"hour": 3.0, "levels__mean": None, "made__ratio": 1.0},
        ages_ms={"levels": 60_000},
        read_at_ms=START_MS,
        scored_at_ms=START_MS,
        traceparent=TRACE,
        timings_us={"queue": 1_000, "read": 700, "predict": 90},
    )
    return Record(result.model_copy(update=changes), "t.results[0]@3", 130, in_lake=True)


def test_a_scored_one_names_who_answered_its_features_times_and_trace() -> None:
    release = Release(
        event_time_ms=START_MS,
        event_id="e",
        case="t",
        decided_at_ms=START_MS,
        epoch=2,
        model="t",
        champion="v0001",
        canary="v0002",
        canary_share=0.05,
        salt="s",
        reason="better",
        decided_by="admission",
    )
    behind = [Behind("levels", 60_000, "t.readings.valid[1]@9")]
    decision = Decision("q1", "t", request=ASKED, result=answered(), release=release, behind=behind)
    assert decision.state is State.ANSWERED
    assert decision.sentences() == [
        "t v0002 (canary) answered 0.25, label False.",
        "Epoch 2: champion v0001, canary v0002 at 5% (admission: better).",
    ]
    assert decision.features() == [
        ("hour", 3.0, None),
        ("levels__mean", None, behind[0]),
        ("made__ratio", 1.0, None),
    ]
    assert (decision.total_ms, decision.trace_id) == (30, "a" * 32)
    whole = json.loads(json.dumps(told(decision)))
    assert whole["timings_us"]["predict"] == 90
    assert whole["features"][1]["newest_event"] == "t.readings.valid[1]@9"
    assert whole["request"]["station"] == "s1"


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        (
            {"status": Status.FALLBACK, "route": Route.RULE, "reasons": ("model_error: x",)},
            "The rule answered 0.25, label False in place of t v0002.",
        ),
        (
            {"status": Status.FALLBACK, "route": Route.CHAMPION, "reasons": ("model_error: x",)},
            "t v0002 (champion), as a fallback, answered 0.25, label False.",
        ),
        (
            {"status": Status.EXPIRED, "score": None, "reasons": ("model_error: x",)},
            "Expired: t v0002 (canary) would have answered, but its deadline had passed.",
        ),
    ],
)
def test_what_was_not_simply_scored_says_why(changes: dict[str, Any], first: str) -> None:
    said = Decision("q1", "t", result=answered(**changes)).sentences()
    assert said == [first, "Because: model_error: x."]


def test_a_dead_letter_a_repeat_and_one_that_waits() -> None:
    dead = Decision("q1", "t", letters=[LETTER])
    assert dead.state is State.DEAD_LETTERED
    refused = "Refused: duplicate, rule request_id; whole at t.requests.dlq[0]@1."
    assert dead.sentences() == [refused]
    assert dead.trace_id == "a" * 32
    twice = Decision("q1", "t", result=answered(), letters=[LETTER])
    assert twice.state is State.ANSWERED
    assert twice.sentences()[-1] == f"Published again: {refused}"
    waiting = Decision("q1", "t", request=ASKED)
    assert waiting.state is State.WAITING
    assert "t.requests[0]@7" in waiting.sentences()[0]
    assert told(waiting)["trace_id"] is None
