"""The Open Inference Protocol v2 over a use case's contract: one tensor a field, one row a request (pure).

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md

Beyond the specification: `data` may hold null where the contract allows it, `event_time_ms` may be left out (then it is now),
and so may the field of the request's id (then the body's `id` names a single row, and `<id>-<row>` those of a batch).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from schemas.decoding import Refusal, decode
from schemas.events import Event

DATATYPES = {"string": "BYTES", "integer": "INT64", "number": "FP64", "boolean": "BOOL"}
OUTPUTS = (
    ("request_id", "BYTES"),
    ("status", "BYTES"),
    ("score", "FP64"),
    ("label", "BOOL"),
    ("version", "BYTES"),
)
TIME_FIELD = "event_time_ms"
DEAD_LETTERED = "dead_lettered"


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class _Body(msgspec.Struct):
    inputs: list[_Tensor]
    id: str | None = None
    parameters: dict[str, Any] = {}


@dataclass(frozen=True)
class Asked:
    """An inference request that keeps the contract.

    Attributes:
        id: What the caller calls it; echoed.
        events: One a row, in its order.
        timeout_ms: How long an answer is worth having, where the caller says so (`parameters.timeout_ms`).
    """

    id: str | None
    events: tuple[Event, ...]
    timeout_ms: int | None


@dataclass(frozen=True)
class Refused:
    """Why nothing of the body was published; `row` is None where it is the body as a whole."""

    refusal: Refusal
    row: int | None = None


class Answer(msgspec.Struct):
    """What a row's result or dead letter comes to; `reasons` says why where it was not plainly scored."""

    request_id: str
    status: str
    score: float | None = None
    label: bool | None = None
    version: str = ""
    reasons: tuple[str, ...] = ()


def parse(contract: type[Event], body: bytes, now_ms: int, rows_max: int) -> Asked | Refused:
    """The requests of a body, or the first rule that it breaks.

    A row is judged as the scorer judges it, so that what passes here is refused there only for what it repeats.
    """
    try:
        asked = msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return _wrong("body", "an inference request of protocol v2 as JSON", str(error))
    columns = _columns(asked.inputs)
    if isinstance(columns, Refused):
        return columns
    rows = len(next(iter(columns.values())))
    if rows > rows_max:
        return Refused(Refusal("too_large", f"shape: at most {rows_max} rows", f"{rows} rows"))
    timeout_ms = asked.parameters.get("timeout_ms")
    if timeout_ms is not None and (type(timeout_ms) is not int or timeout_ms < 1):
        return _wrong("parameters.timeout_ms", "a whole number of ms above 0", repr(timeout_ms))
    columns.setdefault(TIME_FIELD, [now_ms] * rows)
    columns.setdefault(contract.id_field, _ids(asked.id, rows))
    events = _events(contract, columns, now_ms)
    return events if isinstance(events, Refused) else Asked(asked.id, events, timeout_ms)


def response(case: str, asked_id: str | None, answers: Sequence[Answer]) -> dict[str, Any]:
    """The body that answers `answers`, in the order of the rows; `reasons` by row where there are any."""
    versions = {answer.version for answer in answers if answer.version}
    outputs = [
        {
            "name": name,
            "datatype": datatype,
            "shape": [len(answers)],
            "data": [getattr(answer, name) for answer in answers],
        }
        for name, datatype in OUTPUTS
    ]
    body: dict[str, Any] = {"model_name": case, "outputs": outputs}
    if asked_id is not None:
        body["id"] = asked_id
    if len(versions) == 1:
        body["model_version"] = versions.pop()
    if any(answer.reasons for answer in answers):
        body["parameters"] = {"reasons": [list(answer.reasons) for answer in answers]}
    return body


def metadata(case: str, contract: type[Event]) -> dict[str, Any]:
    """What `GET /v2/models/{case}` says: a tensor for each field of the contract."""
    fields: Mapping[str, Any] = contract.model_json_schema()["properties"]
    return {
        "name": case,
        "platform": "headrace",
        "inputs": [
            {"name": name, "datatype": _datatype(said), "shape": [-1]}
            for name, said in fields.items()
        ],
        "outputs": [{"name": name, "datatype": of, "shape": [-1]} for name, of in OUTPUTS],
    }


def _events(
    contract: type[Event], columns: Mapping[str, Sequence[Any]], now_ms: int
) -> tuple[Event, ...] | Refused:
    events: list[Event] = []
    for row, values in enumerate(zip(*columns.values(), strict=True)):
        value = msgspec.json.encode(dict(zip(columns, values, strict=True)))
        event = decode(contract, value, now_ms)
        if isinstance(event, Refusal):
            return Refused(event, row)
        events.append(event)
    if len({event.id for event in events}) < len(events):
        return _wrong(contract.id_field, "an id of its own for each row", "one of them twice")
    return tuple(events)


def _columns(tensors: Sequence[_Tensor]) -> dict[str, list[Any]] | Refused:
    columns: dict[str, list[Any]] = {}
    for tensor in tensors:
        where = f"inputs.{tensor.name}"
        shape = tensor.shape
        if not shape or shape[0] < 1 or shape[1:] not in ([], [1]):
            return _wrong(where, "a shape of [rows] or [rows, 1]", str(shape))
        nested = all(isinstance(value, list) and len(value) == 1 for value in tensor.data)
        data = [value[0] for value in tensor.data] if nested else tensor.data
        if len(data) != shape[0]:
            return _wrong(where, f"{shape[0]} values, as its shape says", f"{len(data)}")
        if tensor.name in columns:
            return _wrong(where, "each tensor once", "it comes twice")
        columns[tensor.name] = data
    if len({len(data) for data in columns.values()}) != 1:
        return _wrong("inputs", "tensors of as many rows each", f"{len(columns)} tensors")
    return columns


def _ids(asked_id: str | None, rows: int) -> list[str]:
    stem = asked_id or str(uuid.uuid4())
    return [stem] if rows == 1 else [f"{stem}-{row}" for row in range(rows)]


def _datatype(said: Mapping[str, Any]) -> str:
    kinds = [said, *said.get("anyOf", ())]
    return next((DATATYPES[k["type"]] for k in kinds if k.get("type") in DATATYPES), "BYTES")


def _wrong(where: str, wanted: str, came: str) -> Refused:
    return Refused(Refusal("protocol", f"{where}: {wanted}", came[:300]))
