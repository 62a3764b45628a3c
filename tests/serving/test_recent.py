from __future__ import annotations

from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import REQUEST_DIGEST
from schemas.settings import KafkaSettings
from schemas.topics import Topic, create
from serving.recent import UNKNOWN, Recent, answered, repeated

ids = st.lists(st.integers(0, 30).map(str))


@given(ids, st.integers(0, 10))
def test_the_newest_ids_are_known_and_no_more_than_the_capacity(
    added: list[str], capacity: int
) -> None:
    recent = Recent(capacity)
    for request_id in added:
        recent.add(0, [(request_id, "d")])

    newest = list(dict.fromkeys(reversed(added)))[:capacity]
    assert {i for i in set(added) if recent.digest(0, i) is not None} == set(newest)


@given(ids, ids)
def test_partitions_are_apart_and_replaced_whole(before: list[str], after: list[str]) -> None:
    recent = Recent(1_000)
    recent.add(0, [(i, "before") for i in before])
    recent.add(1, [(i, "before") for i in before])
    recent.replace(0, [(i, "after") for i in after])

    assert all(recent.digest(0, i) == ("after" if i in after else None) for i in [*before, *after])
    assert all(recent.digest(1, i) == "before" for i in before)


def test_the_same_id_with_another_payload_is_no_repeat() -> None:
    assert repeated("r1", "a", "a").reason == "duplicate"
    assert repeated("r1", UNKNOWN, "a").reason == "duplicate"
    assert repeated("r1", "a", "b").reason == "id_reused"


def test_the_tail_of_the_results_is_read_back_without_what_was_aborted(
    kafka: KafkaSettings,
) -> None:
    topic = "recent.results"
    create(kafka, [Topic(topic, None, "none", 2)])
    producer = Producer(kafka.client_config(transactional_id="recent"))
    producer.init_transactions(20)
    for batch in range(4):
        producer.begin_transaction()
        for n in range(10):
            headers: list[tuple[str, str | bytes | None]] = [
                ("ce_id", f"{batch}-{n}"),
                (REQUEST_DIGEST, f"d{n}"),
            ]
            producer.produce(topic, value=b"x", partition=0, headers=headers)
        if batch == 2:
            producer.flush()
            producer.abort_transaction()
        else:
            producer.commit_transaction()

    found = answered(kafka, topic, [0, 1], capacity=1_000)
    assert found == {0: [(f"{b}-{n}", f"d{n}") for b in (0, 1, 3) for n in range(10)], 1: []}

    # A capacity counts offsets, of which markers and aborted records take their share.
    assert answered(kafka, topic, [0], capacity=6)[0] == [(f"3-{n}", f"d{n}") for n in range(5, 10)]
