from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from infra.demo.control_audit import contradictions

Json = dict[str, Any]
SAID: dict[str, list[Json]] = {
    "control.retraining": [
        {"event_id": "order-1", "event_time_ms": 10},
        {"event_id": "order-2", "event_time_ms": 50},
    ],
    "control.candidates": [
        {"order_id": "order-1", "version": "v0002", "error": None, "event_time_ms": 10},
        {"order_id": "order-2", "version": None, "error": "too few rows", "event_time_ms": 50},
    ],
    "control.verdicts": [
        {"order_id": "order-1", "verdict": "admit", "candidate": "v0002", "epoch": None}
        | {"event_time_ms": 11},
        {"order_id": "order-1", "verdict": "promote", "candidate": "v0002", "epoch": 2}
        | {"event_time_ms": 40},
    ],
    "control.releases": [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}],
    "control.alerts": [],
    "control.brake": [],
}


def test_one_story_has_no_contradictions() -> None:
    assert contradictions(SAID) == []


def test_an_order_that_a_person_refused_is_closed_without_a_candidate() -> None:
    said = deepcopy(SAID)
    said["control.candidates"].pop(1)
    said["control.retraining"].append({"event_id": "order-3", "event_time_ms": 70})
    said["control.candidates"].append(said["control.candidates"][0] | {"order_id": "order-3"})
    said["control.verdicts"].append(said["control.verdicts"][0] | {"order_id": "order-3"})
    word = {"order_id": "order-2", "kind": "refuse", "event_time_ms": 60}
    assert contradictions(said | {"control.brake": [word]}) == []
    approved = {"control.brake": [word | {"kind": "approve"}]}
    assert contradictions(said | approved) == [
        "order-2 has 0 candidates",
        "order-3 was opened while order-2 was open",
    ]
    late = {"control.brake": [word | {"event_time_ms": 80}]}
    assert contradictions(said | late) == ["order-3 was opened while order-2 was open"]


@pytest.mark.parametrize(
    ("topic", "change", "told"),
    [
        ("control.candidates", lambda s: s.pop(0), "order-1 has 0 candidates"),
        ("control.candidates", lambda s: s.append(s[0]), "order-1 has 2 candidates"),
        ("control.retraining", lambda s: s.pop(1), "a candidate answers order-2"),
        ("control.verdicts", lambda s: s.pop(0), "v0002 has 0 verdicts of the gate"),
        (
            "control.verdicts",
            lambda s: s.append(s[1]),
            "the guard judged v0002 in release 2 2 times",
        ),
        ("control.releases", lambda s: s.append({"epoch": 3}), "do not count up by one"),
        ("control.releases", lambda s: s.pop(1), "do not count up by one"),
        ("control.retraining", lambda s: s[1].update(event_time_ms=39), "while order-1 was open"),
        ("control.verdicts", lambda s: s.pop(1), "order-2 was opened while order-1 was open"),
    ],
)
def test_each_contradiction_is_told(topic: str, change: Any, told: str) -> None:
    said = deepcopy(SAID)
    change(said[topic])
    assert [line for line in contradictions(said) if told in line], contradictions(said)
