"""Messages above the limit, and small ones that unfold to far more.

Injected, among good requests: over HTTP a row of 100 kB, a body of 2 MiB, and a compressed body that unfolds to 50 MB; over Kafka
a record of 1.5 MB, and records that are compressed, fit, and unfold to 64 MB and 150 MB (gzip, lz4, zstd), to requests and to a
raw stream. Must hold: 413 at the door and nothing published; Kafka itself refuses what is above its limit; of what it took each
good request has a result, and each other record a dead letter or, where it is larger than one may be, a pointer with reason, origin and
size; nobody restarts, neither scorer nor intake is stuck, memory is bounded: I1 to I9. Does not show: what gzip can do at worst,
a gigabyte out of one record: the client unfolds without a bound (but for zstd), so a worker must be allowed the largest
bomb that its topic's limit lets in.
"""

from __future__ import annotations

import gzip
from collections import defaultdict
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.envelope import header
from schemas.quarantine import PREFIX
from tests.faults import answers
from tests.faults.door import PATIENT, Door, batch
from tests.faults.replicas import Replicas, assigned_within
from tests.faults.stage import Stage
from tests.pipelines.records import committed

GOOD = 200
LARGE_MB = 64
BOMBS = (("gzip", LARGE_MB), ("lz4", LARGE_MB), ("zstd", LARGE_MB), ("zstd", 150))


def run(stage: Stage) -> None:
    """Knock, publish, look."""
    replicas = Replicas(stage)
    scorer, intake = replicas.start(), stage.start("intake")
    door = Door(stage, **PATIENT)
    door.start()
    check = stage.outcome.check
    check("it came to work", holds=assigned_within(scorer) and stage.until(door.ready) is not None)
    door.ask(range(GOOD))
    _knock(stage, door)
    _above(stage, replicas.requests)
    topics = (replicas.requests, stage.view.topic.removesuffix(".valid"))
    places = {topic: _bombs(stage, topic) for topic in topics}
    replicas.ask(GOOD, first=GOOD)
    door.ask(range(2 * GOOD, 3 * GOOD))
    stage.recovers("all taken", lambda: not replicas.lag(), lambda: "requests are left")
    _told(stage, places)
    check("no restart", holds=not scorer.restarts and not intake.restarts)
    given = sorted(str(header(m, "ce_id")) for m in committed(stage.rig.kafka, replicas.results))
    check("every good one has one result", holds=given == sorted(f"q{n}" for n in range(3 * GOOD)))
    check("order kept per key", holds=_in_order(stage, replicas.results))
    replicas.check_log()


def _knock(stage: Stage, door: Door) -> None:
    long = batch([10 * GOOD])
    long["inputs"][0]["data"] = ["q" * 100_000]
    bomb = gzip.compress(b"\0" * 50_000_000)
    knocks: dict[str, dict[str, Any]] = {
        "a long row": {"json": long},
        "a long body": {"content": b"x" * (2 << 20)},
        "a bomb": {"content": bomb, "headers": {"content-encoding": "gzip"}},
    }
    for name, given in knocks.items():
        response = door.post(**given)
        came = response.status_code if response is not None else "no answer"
        stage.outcome.check(f"413 for {name}", holds=came == 413, came=came)
    stage.inject(f"over HTTP: {', '.join(knocks)}")


def _above(stage: Stage, topic: str) -> None:
    came = _send(stage, topic, b"x" * 1_500_000, "none")
    held = isinstance(came, KafkaError) and came.code() == KafkaError.MSG_SIZE_TOO_LARGE
    stage.outcome.check("Kafka refuses what is above its limit", holds=held, came=came)


def _bombs(stage: Stage, topic: str) -> set[tuple[int, int]]:
    places = set()
    for codec, size_mb in BOMBS:
        came = _send(stage, topic, b"\0" * (size_mb * 1_000_000), codec)
        taken = not isinstance(came, KafkaError)
        stage.outcome.check(f"Kafka takes {codec} {size_mb} MB", holds=taken, came=came)
        if not isinstance(came, KafkaError):
            places.add(came)
        stage.inject(f"{topic}: {codec}, {size_mb} MB unfolded")
    return places


def _send(stage: Stage, topic: str, value: bytes, codec: str) -> tuple[int, int] | KafkaError:
    producer = Producer(
        stage.rig.kafka.client_config(message_max_bytes=500_000_000, compression_type=codec)
    )
    came: list[tuple[int, int] | KafkaError] = []

    def done(error: KafkaError | None, m: Message) -> None:
        came.append(error or (int(m.partition() or 0), int(m.offset() or 0)))

    try:
        producer.produce(topic, value, "s1", on_delivery=done)
    except KafkaException as error:
        return error.args[0]  # type: ignore[no-any-return]
    producer.flush(60)
    return came[0]


def _told(stage: Stage, places: dict[str, set[tuple[int, int]]]) -> None:
    for topic, wanted in places.items():

        def letters(topic: str = topic) -> dict[tuple[int, int], Message]:
            return {_origin(m): m for m in committed(stage.rig.kafka, f"{topic}.dlq")}

        name = f"each of {topic} has its pointer"
        stage.recovers(name, lambda: letters().keys() >= wanted, letters)  # noqa: B023
        whole = all(header(m, PREFIX + "reason") and m.value() is None for m in letters().values())
        stage.outcome.check("pointers say why and hold nothing", holds=whole)
        stage.outcome.counts[f"pointers {topic}"] = len(letters())


def _in_order(stage: Stage, topic: str) -> bool:
    """Whether the results of each key are in the order in which they were asked, which is that of their numbers.

    The requests cannot be read for it: a plain consumer cannot get past what lies among them.
    """
    found: dict[str | bytes, list[int]] = defaultdict(list)
    for message in committed(stage.rig.kafka, topic):
        found[message.key() or b""].append(int(answers.request_id(message).removeprefix("q")))
    return all(numbers == sorted(numbers) for numbers in found.values())


def _origin(letter: Message) -> tuple[int, int]:
    place = [int(header(letter, PREFIX + name) or -1) for name in ("partition", "offset")]
    return place[0], place[1]
