from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.decoding import VALUE_BYTES_MAX
from serving import open_inference
from serving.open_inference import Answer, Asked, Refused
from tests.pipelines import toy

NOW_MS = toy.START_MS


def tensor(name: str, datatype: str, *data: object, shape: list[int] | None = None) -> Any:
    return {
        "name": name,
        "datatype": datatype,
        "shape": [len(data)] if shape is None else shape,
        "data": list(data),
    }


def parse(body: object, rows_max: int = 100) -> Asked | Refused:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return open_inference.parse(toy.Question, raw, NOW_MS, rows_max)


def test_a_row_becomes_a_request_and_what_is_left_out_is_filled_in() -> None:
    asked = parse({"id": "a", "inputs": [tensor("station", "BYTES", "s1")]})
    wanted = toy.Question(event_time_ms=NOW_MS, request_id="a", station="s1")
    assert asked == Asked("a", (wanted,), None)


def test_rows_of_a_batch_are_named_after_it() -> None:
    asked = parse({"id": "a", "inputs": [tensor("station", "BYTES", ["s1"], ["s2"], shape=[2, 1])]})
    assert isinstance(asked, Asked)
    assert [(e.id, e.key) for e in asked.events] == [("a-0", "s1"), ("a-1", "s2")]


def test_a_body_without_an_id_still_has_requests_with_ids() -> None:
    body = {"inputs": [tensor("station", "BYTES", "s1")], "parameters": {"timeout_ms": 200}}
    one, other = parse(body), parse(body)
    assert isinstance(one, Asked)
    assert isinstance(other, Asked)
    assert (one.id, one.timeout_ms) == (None, 200)
    assert one.events[0].id != other.events[0].id


def test_the_failed_rule_and_its_row_are_named() -> None:
    body = {"id": "a", "inputs": [tensor("station", "BYTES", "s1", 5)]}
    refused = parse(body)
    assert isinstance(refused, Refused)
    assert (refused.row, refused.refusal.rule) == (1, "station: string_type")


def test_a_row_too_large_for_its_topic_is_told_so() -> None:
    refused = parse({"id": "a", "inputs": [tensor("station", "BYTES", "s" * VALUE_BYTES_MAX)]})
    assert isinstance(refused, Refused)
    assert refused.refusal.reason == "too_large"


def test_bodies_that_are_no_inference_requests_are_refused() -> None:
    station = tensor("station", "BYTES", "s1")
    bodies: list[object] = [
        *(b"", b"{", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"inputs":' * 10_000),
        *({}, {"inputs": []}, {"inputs": [station, station]}),
        {"inputs": [tensor("station", "BYTES", "s1", shape=[2])]},
        {"inputs": [tensor("station", "BYTES", "s1", shape=[1, 2])]},
        {"inputs": [tensor("station", "BYTES", "s1", shape=[])]},
        {"inputs": [station, tensor("event_time_ms", "INT64", NOW_MS, NOW_MS)]},
        {"inputs": [station, tensor("more", "BYTES", "x")]},
        {"inputs": [station], "parameters": {"timeout_ms": "soon"}},
        {"inputs": [station], "parameters": {"timeout_ms": True}},
        {"inputs": [tensor("station", "BYTES", *["s"] * 101)]},
        {"inputs": [tensor("station", "BYTES", "a", "b"), tensor("request_id", "BYTES", "r", "r")]},
    ]
    for body in bodies:
        assert isinstance(parse(body), Refused), body


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["inputs", "name", "shape", "data", "id"]), inner, max_size=4
            )
        ),
    )
)
def test_whatever_comes_is_asked_or_refused_and_never_raises(body: object) -> None:
    assert isinstance(parse(body), Asked | Refused)


@given(st.lists(st.text(max_size=20), min_size=1, max_size=20))
def test_what_is_asked_is_what_is_published(stations: list[str]) -> None:
    asked = parse({"id": "a", "inputs": [tensor("station", "BYTES", *stations)]})
    assert isinstance(asked, Asked)
    assert [event.key for event in asked.events] == stations


def test_a_response_has_every_output_a_row_and_says_why() -> None:
    answers = [
        Answer("a-0", "scored", 0.5, True, "v1"),
        Answer("a-1", "dead_lettered", reasons=("duplicate", "rule", "detail")),
    ]
    body = open_inference.response("toy", "a", answers)
    assert body["id"], body["model_version"] == ("a", "v1")
    assert {o["name"]: o["data"] for o in body["outputs"]} == {
        "request_id": ["a-0", "a-1"],
        "status": ["scored", "dead_lettered"],
        "score": [0.5, None],
        "label": [True, None],
        "version": ["v1", ""],
    }
    assert body["parameters"]["reasons"] == [[], ["duplicate", "rule", "detail"]]


def test_the_metadata_names_a_tensor_for_each_field() -> None:
    said = open_inference.metadata("toy", toy.Reading)
    assert {(t["name"], t["datatype"]) for t in said["inputs"]} == {
        ("event_time_ms", "INT64"),
        ("event_id", "BYTES"),
        ("station", "BYTES"),
        ("level", "FP64"),
    }
