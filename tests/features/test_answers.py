from __future__ import annotations

import pyarrow as pa

from features.answers import answers, contradicted
from features.served import newest_ms
from tests.features.held_tables import HeldTables
from tests.pipelines import toy

CASE = toy.register("answers_case")
# Three answers; the second's outcome came twice, the third's never, and one of a request nobody knows.
TABLES = HeldTables(
    {
        f"{CASE}_results": pa.table(
            {
                "request_id": ["a", "b", "c"],
                "event_time_ms": [1_000, 2_000, 3_000],
                "status": ["scored", "fallback", "expired"],
                "score": [0.25, 0.75, None],
                "label": [False, True, None],
                "version": ["v0001", "v0001", "v0002"],
                "route": ["champion", "rule", "canary"],
            }
        ),
        f"{CASE}_requests": pa.table(
            {
                "request_id": ["a", "b", "c", "b"],
                "event_time_ms": [1_000, 2_000, 3_000, 2_000],
                "station": ["s1", None, "s3", "s2"],
                "ingest_ms": [1_001, 2_001, 3_001, 2_002],
                "kafka_offset": [0, 1, 2, 3],
            }
        ),
        f"{CASE}_outcomes": pa.table(
            {
                "request_id": ["b", "a", "b", "nobody"],
                "event_time_ms": [9_000, 8_000, 9_500, 9_900],
                "late": [False, False, True, True],
                # The files of a lake come in any order; these two within one millisecond.
                "ingest_ms": [9_501, 8_001, 9_501, 9_901],
                "kafka_offset": [7, 3, 6, 8],
            }
        ),
    }
)


def test_an_answer_stands_beside_its_request_and_the_first_of_its_outcomes() -> None:
    found = answers(TABLES, CASE, fields=("station",)).to_pylist()
    assert [(r["request_id"], r["station"], r["outcome"], r["score"]) for r in found] == [
        ("a", "s1", False, 0.25),
        ("b", None, True, 0.75),
        ("c", "s3", None, None),
    ]


def test_an_interval_is_of_requests_and_outcomes_come_whenever_they_come() -> None:
    found = answers(TABLES, CASE, since_ms=2_000, until_ms=3_000).to_pylist()
    assert [(r["request_id"], r["outcome"]) for r in found] == [("b", True)]
    assert newest_ms(TABLES, CASE, "outcomes") == 9_900


def test_outcomes_that_contradict_each_other_are_counted() -> None:
    assert contradicted(TABLES, CASE) == 1
    assert contradicted(TABLES, CASE, since_ms=9_200) == 0


def test_what_contradicts_itself_is_counted_of_the_requests_that_are_asked_about() -> None:
    of = [row["request_id"] for row in answers(TABLES, CASE).to_pylist()]
    one_each = [
        contradicted(TABLES, CASE, among=pa.table({"request_id": [request_id]}))
        for request_id in of
    ]
    assert sum(one_each) == contradicted(TABLES, CASE) == 1
    assert (
        contradicted(TABLES, CASE, among=pa.table({"request_id": pa.array([], pa.string())})) == 0
    )
