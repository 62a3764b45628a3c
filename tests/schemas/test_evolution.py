"""The released JSON Schemas are those of the contracts, and a breaking change is found."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from schemas import evolution
from schemas.flights import Departure

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CASE = "flights"


@pytest.mark.parametrize("case", ["flights", "payments"])
def test_the_files_under_version_control_are_the_contracts(case: str) -> None:
    for name, contract in evolution.contracts(case).items():
        released = json.loads((evolution.RELEASED / f"{name}.json").read_text())
        assert released == evolution.schema_of(contract), f"run `headrace schemas export`: {name}"
    assert evolution.check(case) == []


def _drop(schema: dict[str, Any]) -> None:
    del schema["properties"]["dest"]
    schema["required"].remove("dest")


def _require(schema: dict[str, Any]) -> None:
    schema["properties"]["gate"] = {"type": "string"}
    schema["required"].append("gate")


def _allow(schema: dict[str, Any]) -> None:
    schema["properties"]["gate"] = {"anyOf": [{"type": "string"}, {"type": "null"}]}


def _narrow(schema: dict[str, Any]) -> None:
    schema["properties"]["dep_delay"]["maximum"] = 60


def _widen(schema: dict[str, Any]) -> None:
    schema["properties"]["dep_delay"]["maximum"] = 10_000


def _retype(schema: dict[str, Any]) -> None:
    schema["properties"]["flight"]["type"] = "string"


def _number(schema: dict[str, Any]) -> None:
    schema["properties"]["flight"]["type"] = "number"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_drop, "value.dest"),
        (_require, "value.gate"),
        (_narrow, "value.dep_delay"),
        (_retype, "value.flight"),
        (_allow, None),
        (_widen, None),
        (_number, None),
    ],
)
def test_only_what_breaks_readers_is_a_break(
    change: Callable[[dict[str, Any]], None], field: str | None
) -> None:
    old = evolution.schema_of(Departure)
    new = copy.deepcopy(old)
    change(new)
    assert [f for f, _ in evolution.breaks(old, new)] == ([field] if field else [])


def test_check_compares_with_the_released_files(tmp_path: Path) -> None:
    evolution.export(CASE, tmp_path)
    path = tmp_path / "Departure.json"
    released = json.loads(path.read_text())
    released["properties"]["gate"] = {"type": "string"}
    path.write_text(json.dumps(released))
    assert [(b.contract, b.field) for b in evolution.check(CASE, tmp_path)] == [
        ("Departure", "value.gate")
    ]


def test_a_broken_contract_is_an_error_that_names_every_field(tmp_path: Path) -> None:
    evolution.require_compatible(CASE)
    evolution.export(CASE, tmp_path)
    path = tmp_path / "Departure.json"
    released = json.loads(path.read_text())
    for name in ("gone", "lost"):
        released["properties"][name] = {"type": "string"}
    path.write_text(json.dumps(released))
    with pytest.raises(
        evolution.IncompatibleSchema, match=r"Departure\.value\.gone.*Departure\.value\.lost"
    ):
        evolution.require_compatible(CASE, tmp_path)
