"""Whether the loop's events tell one story, whoever was killed while they were written. Pure.

An order is answered by one candidate, or refused; a candidate is answered by one verdict of the gate, a trial by at most one of the
guard; releases count up by one; no order is opened while another is open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Json = dict[str, Any]
GATE, GUARD = ("admit", "refuse"), ("promote", "roll_back")
REFUSAL = ("refuse", "lapse")


def contradictions(said: Mapping[str, Sequence[Json]]) -> list[str]:
    """Sentences about events that do not fit together; empty when all do.

    Args:
        said: Topic → its events as they lie there, repeats included.
    """
    refusals = [word for word in said["control.brake"] if word["kind"] in REFUSAL]
    return [
        *_answers(said["control.retraining"], said["control.candidates"], refusals),
        *_verdicts(said["control.candidates"], said["control.verdicts"]),
        *_epochs(said["control.releases"]),
        *_open_at_once(said, refusals),
    ]


def _answers(
    orders: Sequence[Json], candidates: Sequence[Json], refusals: Sequence[Json]
) -> Iterator[str]:
    answered = Counter(candidate["order_id"] for candidate in candidates)
    refused = {word["order_id"] for word in refusals}
    for order in orders:
        count = answered.pop(order["event_id"], 0)
        if count != 1 and (count or order["event_id"] not in refused):
            yield f"{order['event_id']} has {count} candidates"
    for order_id in answered:
        yield f"a candidate answers {order_id}, which nobody ordered"


def _verdicts(candidates: Sequence[Json], verdicts: Sequence[Json]) -> Iterator[str]:
    judged = Counter(v["order_id"] for v in verdicts if v["verdict"] in GATE)
    for candidate in candidates:
        count = judged[candidate["order_id"]]
        if candidate["error"] is None and count != 1:
            yield f"{candidate['version']} has {count} verdicts of the gate"
    trials = Counter((v["candidate"], v["epoch"]) for v in verdicts if v["verdict"] in GUARD)
    for (version, epoch), count in trials.items():
        if count != 1:
            yield f"the guard judged {version} in release {epoch} {count} times"


def _epochs(releases: Sequence[Json]) -> Iterator[str]:
    epochs = [int(release["epoch"]) for release in releases]
    if epochs != list(range(1, len(epochs) + 1)):
        yield f"releases do not count up by one: {epochs}"


def _open_at_once(said: Mapping[str, Sequence[Json]], refusals: Sequence[Json]) -> Iterator[str]:
    """An order is open from its time to that of the failed candidate, the refusal or the guard's verdict which closes it."""
    closed: dict[str, int] = {}
    closing = (
        *refusals,
        *(c for c in said["control.candidates"] if c["error"] is not None),
        *(v for v in said["control.verdicts"] if v["verdict"] != "admit" and v["order_id"]),
    )
    for event in closing:
        closed.setdefault(event["order_id"], int(event["event_time_ms"]))
    before: Json | None = None
    for order in sorted(said["control.retraining"], key=lambda o: int(o["event_time_ms"])):
        opened = int(order["event_time_ms"])
        if before and closed.get(before["event_id"], opened + 1) > opened:
            yield f"{order['event_id']} was opened while {before['event_id']} was open"
        before = order
