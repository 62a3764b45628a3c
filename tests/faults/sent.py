"""I1 to I5 and I8 where more was sent than is known to be acknowledged, or partitions were added meanwhile."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection

from schemas.envelope import header
from schemas.results import Result
from tests.faults.answers import VERSION, request_id
from tests.faults.stage import Stage
from tests.pipelines.records import committed


def check(
    stage: Stage, sent: Collection[str] | None = None, *, by_partition: bool = False
) -> list[Result]:
    """I1 to I5 and I8.

    Args:
        stage: The case's.
        sent: Where more was sent than was acknowledged: all that may have a result.
        by_partition: Order is promised per key and partition only, because partitions were added meanwhile.
    """
    check_that = stage.outcome.check
    requests = f"{stage.case}.requests"
    asked = list(stage.ledger.acknowledged[requests].values())
    messages = committed(stage.rig.kafka, f"{stage.case}.results")
    dead = [request_id(m) for m in committed(stage.rig.kafka, f"{requests}.dlq")]
    ids = [str(header(m, "ce_id")) for m in messages]
    lost = set(asked) - set(ids) - set(dead)
    check_that("acknowledged are in results or dead letters", holds=not lost, came=sorted(lost)[:5])
    twice = [i for i, n in Counter(ids).items() if n > 1]
    check_that("no id twice", holds=not twice, came=twice[:5])
    both = set(ids) & set(dead)
    check_that("no id in both results and dead letters", holds=not both, came=sorted(both)[:5])
    check_that("no id that was never sent", holds=set(ids) | set(dead) <= set(sent or asked))
    results = f"{stage.case}.results"
    before, after = (
        _by_key(stage, topic, by_partition=by_partition) for topic in (requests, results)
    )
    wrong = [key for key, mine in after.items() if mine != before[key]]
    check_that("order kept per key", holds=not wrong, came=wrong[:3])
    found = [Result.model_validate_json(m.value() or b"") for m in messages]
    whole = all(r.version == VERSION and r.traceparent for r in found)
    check_that("each result names version and trace", holds=whole)
    stage.outcome.counts |= {
        "results": len(ids),
        "dead letters": len(dead),
        "duplicates": len(twice),
        "lost": len(lost),
    }
    return found


def _by_key(
    stage: Stage, topic: str, *, by_partition: bool
) -> dict[tuple[str | bytes, int], list[str]]:
    by_key: dict[tuple[str | bytes, int], list[str]] = defaultdict(list)
    for message in committed(stage.rig.kafka, topic):
        partition = int(message.partition() or 0) if by_partition else 0
        by_key[message.key() or b"", partition].append(request_id(message))
    return by_key
