from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monitoring.halves import (
    OUTCOME,
    RESULT,
    Half,
    OutcomeHalf,
    ResultHalf,
    WaitingHalves,
    Watermarks,
    join,
)

PARTITIONS = {RESULT: 2, OUTCOME: 1}


def result(index: int, event_time_ms: int | None = None) -> ResultHalf:
    time_ms = index if event_time_ms is None else event_time_ms
    return ResultHalf(f"r{index}", time_ms, "scored", 0.5, "m", "v1", "champion", 1, "")


def outcome(index: int, event_time_ms: int | None = None) -> OutcomeHalf:
    return OutcomeHalf(
        f"r{index}", index if event_time_ms is None else event_time_ms, index % 2 == 0
    )


def waiting(table: dict[str, bytes], keep_ms: int = 1_000, rows_max: int = 1_000) -> WaitingHalves:
    return WaitingHalves(table, Watermarks(PARTITIONS), keep_ms=keep_ms, rows_max=rows_max)


@st.composite
def halves_in_any_order(draw: st.DrawFn) -> tuple[int, list[Half]]:
    count = draw(st.integers(1, 12))
    once: list[Half] = [h for i in range(count) for h in (result(i), outcome(i))]
    repeats = draw(st.lists(st.sampled_from(once), max_size=10))
    return count, draw(st.permutations(once + repeats))


@given(halves_in_any_order(), st.data())
def test_every_order_repeat_and_restart_joins_the_same(
    case: tuple[int, list[Half]], data: st.DataObject
) -> None:
    count, halves = case
    restart_at = data.draw(st.integers(0, len(halves)))
    log: dict[str, bytes] = {}
    store = waiting({})
    rows = {}
    for place, half in enumerate(halves):
        if place == restart_at:
            store = waiting(dict(log))
        pair, changes = store.offer(0, half)
        for key, value in [*changes, *store.evict()]:
            if value is None:
                del log[key]
            else:
                log[key] = value
        if pair:
            rows[pair[0].request_id] = join(*pair)
    assert rows == {f"r{i}": join(result(i), outcome(i)) for i in range(count)}


@given(st.permutations([result(1), outcome(1), OutcomeHalf("r1", 2, late=True), outcome(1)]))
def test_of_outcomes_that_contradict_each_other_the_first_is_joined(halves: list[Half]) -> None:
    store = waiting({})
    pairs = [pair for half in halves if (pair := store.offer(0, half)[0])]
    first = next(half for half in halves if isinstance(half, OutcomeHalf))
    assert pairs == [(result(1), first)]


def test_a_half_leaves_when_no_partition_can_bring_the_other() -> None:
    store = waiting({}, keep_ms=100)
    store.offer(0, outcome(1, 1_000))
    store.offer(0, result(2, 1_200))
    # Partition 1 of the results has not been read: it may still hold the result.
    assert store.evict() == []
    store.offer(1, result(3, 1_050))
    assert store.evict() == []
    store.offer(1, result(4, 1_101))
    assert store.evict() == [("r1", None)]
    assert store.evicted == 1


def test_reading_one_side_far_ahead_evicts_nothing() -> None:
    store = waiting({}, keep_ms=100)
    for index in range(500):
        store.offer(index % 2, result(index, index * 1_000))
    assert store.evict() == []
    pair, _ = store.offer(0, outcome(0, 50))
    assert pair is not None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10_000)), max_size=200))
def test_the_table_is_bounded_when_time_stands_still(halves: list[tuple[bool, int]]) -> None:
    store = waiting({}, rows_max=10)
    for index, (is_result, time_ms) in enumerate(halves):
        store.offer(0, result(index, time_ms) if is_result else outcome(index, time_ms))
        store.evict()
        assert len(store) <= 10
