"""Fifty records that no contract accepts, mixed into the replay: what real producers send on a bad day."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

from infra.demo.slices import Sent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Spoil = Callable[[dict[str, object]], bytes | None]

COUNT = 50
TOO_LARGE_BYTES = 80_000
YEAR_2099_MS = 4_070_908_800_000


def _with(**changes: object) -> Spoil:
    return lambda fields: json.dumps({**fields, **changes}).encode()


def _without_time(fields: dict[str, object]) -> bytes:
    return json.dumps({k: v for k, v in fields.items() if k != "event_time_ms"}).encode()


SPOILS: dict[str, Spoil] = {
    "truncated JSON": lambda fields: json.dumps(fields).encode()[:-7],
    "null value": lambda _: None,
    "not UTF-8": lambda fields: b"\xff\xfe" + json.dumps(fields).encode("utf-16-le"),
    "unknown field": _with(gate="B42"),
    "wrong type": _with(origin=7),
    "null where a value must be": _with(origin=None),
    "dated 1970": _with(event_time_ms=0),
    "dated 2099": _with(event_time_ms=YEAR_2099_MS),
    "no time": _without_time,
    "oversized": _with(comment="x" * TOO_LARGE_BYTES),
    "nested deep": lambda _: b"[" * 10_000,
    "not a number": _with(event_time_ms=float("nan")),
}


def malformed(sent: Sequence[Sent], seed: int, count: int = COUNT) -> list[Sent]:
    """Spoilt copies of `count` records, spread over `sent`, every kind of spoiling in turn.

    They keep the time of the record they were copied from, so that they go out in its midst.
    """
    chance = random.Random(seed)
    kinds = list(SPOILS)
    picked = sorted(chance.sample(range(len(sent)), count))
    return [_spoilt(sent[at], kinds[n % len(kinds)], n) for n, at in enumerate(picked)]


def _spoilt(original: Sent, kind: str, number: int) -> Sent:
    identity = f"malformed-{number}"
    headers: list[tuple[str, str | bytes | None]] = [
        ("ce_id", identity.encode()),
        ("ce_source", b"headrace-demo/malformed"),
        ("comment", b"\xff not UTF-8"),
    ]
    value = SPOILS[kind](original.fields)
    return Sent(original.topic, original.time_ms, identity, original.key, value, headers, {})
