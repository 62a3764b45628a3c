from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Message

from pipelines.polling import SlotTaken
from pipelines.transactions import Outgoing, Slot, TransactionalPipe
from schemas import topics
from schemas.topics import Topic
from tests.pipelines.records import committed, produce

if TYPE_CHECKING:
    from schemas.settings import KafkaSettings

TOO_LARGE = b"x" * 3_000_000


def _pipe(kafka: KafkaSettings, name: str, values: list[bytes]) -> TransactionalPipe:
    topics.create(kafka, [Topic(f"{name}.in", None, ""), Topic(f"{name}.out", None, "")])
    produce(kafka, f"{name}.in", [("k", value) for value in values])
    return TransactionalPipe(kafka, Slot(name, f"{name}.0", (f"{name}.in",)))


def _taken(pipe: TransactionalPipe, count: int) -> list[Message]:
    batch: list[Message] = []
    for _ in range(100):
        batch += pipe.poll(0.2)
        if len(batch) >= count:
            break
    assert [m.value() for m in batch] == [b"%d" % i for i in range(count)]
    return batch


def _forwarded(name: str, batch: list[Message]) -> list[Outgoing]:
    return [Outgoing(f"{name}.out", m.key(), m.value(), []) for m in batch]


def test_a_batch_that_could_not_be_produced_leaves_nothing_and_comes_again(
    kafka: KafkaSettings,
) -> None:
    pipe = _pipe(kafka, "undone", [b"0", b"1", b"2"])
    batch = _taken(pipe, 3)
    refused = Outgoing("undone.out", None, TOO_LARGE, [])
    assert not pipe.commit(batch, [*_forwarded("undone", batch), refused])
    assert committed(kafka, "undone.out") == []
    again = _taken(pipe, 3)
    assert pipe.commit(again, _forwarded("undone", again))
    assert [m.value() for m in committed(kafka, "undone.out")] == [b"0", b"1", b"2"]
    assert (pipe.aborted, pipe.poll(0.5)) == (1, [])
    pipe.close()


def test_a_successor_fences_its_predecessor_and_takes_its_records(kafka: KafkaSettings) -> None:
    old = _pipe(kafka, "fenced", [b"0", b"1"])
    batch = _taken(old, 2)
    new = TransactionalPipe(kafka, Slot("fenced", "fenced.0", ("fenced.in",)))
    with pytest.raises(SlotTaken):
        old.commit(batch, _forwarded("fenced", batch))
    again = _taken(new, 2)
    assert new.commit(again, _forwarded("fenced", again))
    assert [m.value() for m in committed(kafka, "fenced.out")] == [b"0", b"1"]
    new.close()


def test_a_closed_pipe_goes_on_where_it_committed(kafka: KafkaSettings) -> None:
    pipe = _pipe(kafka, "resumed", [b"0", b"1"])
    batch = _taken(pipe, 2)
    assert pipe.commit(batch, _forwarded("resumed", batch))
    pipe.close()
    produce(kafka, "resumed.in", [("k", b"2")])
    pipe = TransactionalPipe(kafka, Slot("resumed", "resumed.0", ("resumed.in",)))
    rest = [m for _ in range(20) for m in pipe.poll(0.2)]
    assert [m.value() for m in rest] == [b"2"]
    pipe.close()
