"""Contracts as JSON Schema files, and the check that a change leaves old records readable.

The files under `schemas/json/` are what was last released. A change is backward compatible when every record that the
released schema accepts is accepted by the new one (Confluent's BACKWARD): fields may be added if they are optional,
bounds may widen, choices may grow. https://docs.confluent.io/platform/current/schema-registry/fundamentals/schema-evolution.html
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import HeadraceError
from schemas.topics import table_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemas.events import Event

RELEASED = Path(__file__).parent / "json"
LOWER_BOUNDS = ("minimum", "exclusiveMinimum", "minLength", "minItems")
UPPER_BOUNDS = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")

Schema = dict[str, Any]


class IncompatibleSchema(HeadraceError):
    """A contract refuses what its released schema accepts: old producers, and records that lie there, would break."""


@dataclass(frozen=True)
class Break:
    """One way in which a new contract refuses what the released one accepted."""

    contract: str
    field: str
    problem: str


def contracts(case: str) -> dict[str, type[Event]]:
    """Every contract that travels on a topic of the use case or of the control plane, by name."""
    return {t.contract.__name__: t.contract for t in table_of(case).values() if t.contract}


def schema_of(contract: type[Event]) -> Schema:
    """The contract's JSON Schema, references resolved, so that two can be compared field by field."""
    schema = contract.model_json_schema()
    definitions = schema.pop("$defs", {})
    return _resolved_object(schema, definitions)


def fingerprint(contract: type[Event]) -> str:
    """Sha256 over what a contract accepts, as a model's manifest records it; prose may be reworded."""
    return hashlib.sha256(
        json.dumps(_without_prose(schema_of(contract)), sort_keys=True).encode()
    ).hexdigest()


def export(case: str, folder: Path = RELEASED) -> list[Path]:
    """Write every contract's schema; returns the files whose text changed."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for name, contract in contracts(case).items():
        path = folder / f"{name}.json"
        text = json.dumps(schema_of(contract), indent=2, sort_keys=True) + "\n"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            changed.append(path)
    return changed


def check(case: str, folder: Path = RELEASED) -> list[Break]:
    """Compare every contract with its released schema; a contract without one is new and breaks nobody."""
    found: list[Break] = []
    for name, contract in contracts(case).items():
        path = folder / f"{name}.json"
        if path.exists():
            released = json.loads(path.read_text())
            found += [Break(name, f, p) for f, p in breaks(released, schema_of(contract))]
    return found


def require_compatible(case: str, folder: Path = RELEASED) -> None:
    """Hold every contract to its released schema.

    Raises:
        IncompatibleSchema: One of them broke; every field is in the message.
    """
    if found := check(case, folder):
        raise IncompatibleSchema(
            f"contracts of {case}",
            wanted="whatever the released schemas accept accepted",
            came="; ".join(f"{one.contract}.{one.field} {one.problem}" for one in found),
            mend="Make the change optional, or give the contract a new name.",
        )


def breaks(old: Schema, new: Schema, field: str = "value") -> Iterator[tuple[str, str]]:
    """Where `new` refuses what `old` accepts, as (field, problem)."""
    yield from _type_breaks(old, new, field)
    yield from _bound_breaks(old, new, field)
    before, after = old.get("properties", {}), new.get("properties", {})
    for name in before:
        if name not in after:
            if new.get("additionalProperties") is False:
                yield f"{field}.{name}", "was removed, and unknown fields are refused"
        else:
            yield from breaks(before[name], after[name], f"{field}.{name}")
    for name in set(new.get("required", ())) - set(old.get("required", ())):
        yield f"{field}.{name}", "became required"
    for inner in ("items", "additionalProperties"):
        if isinstance(old.get(inner), dict) and isinstance(new.get(inner), dict):
            yield from breaks(old[inner], new[inner], f"{field}.{inner}")


def _type_breaks(old: Schema, new: Schema, field: str) -> Iterator[tuple[str, str]]:
    if "enum" in new and (gone := set(old.get("enum", ())) - set(new["enum"])):
        yield field, f"no longer accepts {sorted(gone)}"
    if "enum" in new and "enum" not in old:
        yield field, "became a closed choice"
    if "anyOf" in old or "anyOf" in new:
        choices = new.get("anyOf", [new])
        for choice in old.get("anyOf", [old]):
            if all(any(True for _ in breaks(choice, other, field)) for other in choices):
                yield field, f"no longer accepts {choice.get('type', 'one of its forms')}"
        return
    before, after = old.get("type"), new.get("type")
    if before != after and after is not None and (before, after) != ("integer", "number"):
        yield field, f"was {before}, is {after}"
    if new.get("pattern") and new.get("pattern") != old.get("pattern"):
        yield field, f"pattern changed to {new['pattern']}"


def _bound_breaks(old: Schema, new: Schema, field: str) -> Iterator[tuple[str, str]]:
    for bound in LOWER_BOUNDS:
        if bound in new and (bound not in old or new[bound] > old[bound]):
            yield field, f"{bound} rose to {new[bound]}"
    for bound in UPPER_BOUNDS:
        if bound in new and (bound not in old or new[bound] < old[bound]):
            yield field, f"{bound} fell to {new[bound]}"


def _without_prose(node: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(node, list):
        return [_without_prose(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        # The keys below `properties` are fields, one of which may well be called `title`.
        name: {f: _without_prose(v) for f, v in value.items()}
        if name == "properties"
        else _without_prose(value)
        for name, value in node.items()
        if name not in ("title", "description")
    }


def _resolved_object(node: Schema, definitions: dict[str, Schema]) -> Schema:
    if "$ref" in node:
        return _resolved_object(definitions[node["$ref"].rsplit("/", 1)[1]], definitions)
    return {name: _resolved(value, definitions) for name, value in node.items()}


def _resolved(node: object, definitions: dict[str, Schema]) -> object:
    if isinstance(node, dict):
        return _resolved_object(node, definitions)
    if isinstance(node, list):
        return [_resolved(item, definitions) for item in node]
    return node
