"""Requests that are none, and good ones in strange envelopes.

Injected, shuffled among good requests: no JSON, nothing, not UTF-8, JSON nested 10,000 deep, NaN, Infinity, integers beyond
64 bits, an unknown field, 100 kB, and what is refused with a header of 900 kB; and good requests with an empty key, without a
key, with headers that are not UTF-8, and with a header of 900 kB. Must hold: every record that Kafka acknowledged has a
result where it is good and else a dead letter, whole, with reason and origin, and never both; the scorer does not restart; I6
and I7. Does not show: a record above the topic's limit, which Kafka itself refuses (case 28).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from confluent_kafka import KafkaError, Message, Producer

from schemas.envelope import header
from schemas.quarantine import PREFIX
from tests.faults.replicas import AS_OF_MS, Replicas
from tests.faults.stage import Stage
from tests.pipelines import toy
from tests.pipelines.records import committed

GOOD = 200
COPIES = 5
LARGE = b"x" * 900_000


class Record(NamedTuple):
    """What Kafka is given; `good` is the id of a request that must be answered."""

    value: bytes | None
    key: bytes | None = b"s1"
    headers: tuple[tuple[str, bytes], ...] = ()
    good: str | None = None


def run(stage: Stage) -> None:
    """Send all of it, in an order of the seed's."""
    replicas = Replicas(stage)
    records = [*_bad(), *_good()]
    stage.dice.shuffle(records)
    places = _send(stage, replicas.requests, records)
    scorer = replicas.start()
    stage.inject(
        f"{len(records)} records, {sum(r.good is None for r in records)} of them no requests"
    )
    stage.recovers("all taken", lambda: not replicas.lag(), lambda: "requests are left")
    check = stage.outcome.check
    given = [str(header(m, "ce_id")) for m in committed(stage.rig.kafka, replicas.results)]
    wanted = sorted(r.good for r in records if r.good is not None)
    check("every good one has one result", holds=sorted(given) == wanted)
    letters = {_origin(m): m for m in committed(stage.rig.kafka, f"{replicas.requests}.dlq")}
    refused = {place: r for place, r in places.items() if r.good is None}
    check("every other has one dead letter", holds=letters.keys() == refused.keys())
    whole = all(
        (letters[place].value(), letters[place].key()) == (r.value, r.key)
        and header(letters[place], PREFIX + "reason")
        for place, r in refused.items()
        if place in letters
    )
    check("it is whole, with reason and origin", holds=whole)
    check("no crash loop", holds=not scorer.restarts and scorer.alive, came=scorer.restarts)
    replicas.check_log()
    stage.outcome.counts |= {
        "sent": len(places),
        "results": len(given),
        "dead letters": len(letters),
    }


def _bad() -> list[Record]:
    text = _question("never").decode()
    time = str(AS_OF_MS)
    values: list[bytes | None] = [
        *(b"", b"{", b"[]", b"\xff\xfe", b"null", b"x" * 100_000, None),
        b"[" * 10_000,
        (b'{"a":' * 10_000) + b"1" + b"}" * 10_000,
        *(text.replace(time, odd).encode() for odd in ("NaN", "Infinity", "1e999", "9" * 400)),
        *(text.replace(time, odd).encode() for odd in ("-1", "9223372036854775808", '"now"')),
        text.replace("}", ',"more":1}').encode(),
    ]
    plain = [Record(value) for value in values for _ in range(COPIES)]
    return [*plain, Record(b"{", headers=(("large", LARGE),)), Record(b"{", key=b"\xff\x00")]


def _good() -> list[Record]:
    odd: tuple[dict[str, Any], ...] = (
        {"key": b""},
        {"key": None},
        {"key": b"\xff"},
        {"headers": (("traceparent", b"\xff\xfe"), ("ce_id", b"\x80"))},
        {"headers": (("headrace-timeout-ms", b"\xff"),)},
        {"headers": (("large", LARGE),)},
    )
    strange = [Record(_question(f"o{n}"), good=f"o{n}", **more) for n, more in enumerate(odd)]
    return [*strange, *(Record(_question(f"g{n}"), good=f"g{n}") for n in range(GOOD))]


def _question(name: str) -> bytes:
    return toy.Question(event_time_ms=AS_OF_MS, request_id=name, station="s1").encode()


def _send(stage: Stage, topic: str, records: list[Record]) -> dict[tuple[int, int], Record]:
    """Where each was acknowledged."""
    producer = Producer(stage.rig.kafka.client_config(message_max_bytes=1_040_000))
    places: dict[tuple[int, int], Record] = {}
    for record in records:

        def done(error: KafkaError | None, m: Message, record: Record = record) -> None:
            if error is not None:
                raise RuntimeError(error.str())
            places[int(m.partition() or 0), int(m.offset() or 0)] = record

        headers: list[tuple[str, str | bytes | None]] = list(record.headers)
        producer.produce(topic, record.value, record.key, headers=headers, on_delivery=done)
        producer.poll(0)
    producer.flush(60)
    stage.outcome.check("all were acknowledged", holds=len(places) == len(records))
    return places


def _origin(letter: Message) -> tuple[int, int]:
    place = (header(letter, PREFIX + name) for name in ("partition", "offset"))
    partition, offset = (int(part or -1) for part in place)
    return partition, offset
