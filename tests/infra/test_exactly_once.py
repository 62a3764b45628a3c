"""A sound history is found sound, whatever it looks like; every kind of harm is found, and named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from infra.exactly_once import (
    Asked,
    Given,
    History,
    Judgement,
    Place,
    Refused,
    Wrong,
    check,
)

REQUESTS, RESULTS, DEAD = "t.requests", "t.results", "t.requests.dlq"
PARTITIONS = 2


@st.composite
def histories(draw: st.DrawFn, least: int = 0) -> History:
    """What a right scorer leaves: some refused, some not yet come to."""
    asked: list[Asked] = []
    given_: list[Given] = []
    refused: list[Refused] = []
    consumed, after = {}, {}
    number = 0
    for partition in range(PARTITIONS):
        count = draw(st.integers(least, 5))
        done = draw(st.integers(min(least, count), count))
        # It went on while the topics were read.
        later = draw(st.integers(done, count))
        consumed[REQUESTS, partition], after[REQUESTS, partition] = done, later
        offset = 0
        for place in (Place(REQUESTS, partition, n) for n in range(count)):
            number += 1
            key = draw(st.sampled_from([b"a", b"b"]))
            dead = number > least and draw(st.booleans())
            request_id = "" if dead and draw(st.booleans()) else f"q{number}"
            asked.append(Asked(place, key, request_id))
            if place.offset >= later:
                continue
            if dead:
                refused.append(Refused(Place(DEAD, 0, len(refused)), place, request_id))
            else:
                given_.append(Given(Place(RESULTS, partition, offset), key, request_id))
            # Commit markers take offsets as well.
            offset += draw(st.integers(1, 3))
    read = draw(st.lists(st.sampled_from([g.place for g in given_]))) if given_ else []
    return History(asked, given_, refused, consumed, after, read=read)


def kinds(judgement: Judgement) -> set[Wrong]:
    return {one.kind for one in judgement.findings}


@given(histories())
def test_a_sound_history_is_found_sound(history: History) -> None:
    judgement = check(history)
    assert not judgement.findings
    unanswered = len(history.asked) - len(history.given) - len(history.refused)
    assert judgement.waiting == unanswered
    assert (judgement.again, judgement.older) == (0, 0)


@given(histories(least=2), st.data())
def test_a_lost_answer_is_found(history: History, data: st.DataObject) -> None:
    done = [n for n, g in enumerate(history.given) if _consumed(history, g)]
    victim = data.draw(st.sampled_from(done))
    rest = [g for n, g in enumerate(history.given) if n != victim]
    judgement = check(replace(history, given=rest, read=()))
    assert [(f.kind, f.id) for f in judgement.findings] == [(Wrong.LOST, history.given[victim].id)]


@given(histories(least=1), st.data())
def test_a_second_answer_is_found(history: History, data: st.DataObject) -> None:
    first = data.draw(st.sampled_from(list(history.given)))
    again = first._replace(place=first.place._replace(offset=1_000))
    judgement = check(replace(history, given=[*history.given, again]))
    assert Wrong.TWICE in kinds(judgement)
    assert judgement.of(Wrong.TWICE)[0].id == first.id


@given(histories(least=1), st.data())
def test_an_answer_beside_a_dead_letter_is_found(history: History, data: st.DataObject) -> None:
    answered = data.draw(st.sampled_from(list(history.given)))
    origin = next(a.place for a in history.asked if a.id == answered.id)
    for letter in (
        Refused(Place(DEAD, 0, 99), origin, answered.id),
        Refused(Place(DEAD, 0, 99), None, answered.id),
    ):
        judgement = check(replace(history, refused=[*history.refused, letter]))
        assert [(f.kind, f.id) for f in judgement.findings] == [(Wrong.BOTH, answered.id)]


@given(histories(least=1))
def test_an_answer_that_nobody_asked_for_is_found_unless_requests_are_gone(
    history: History,
) -> None:
    stray = Given(Place(RESULTS, 0, 999), b"a", "stray")
    with_stray = replace(history, given=[*history.given, stray])
    assert kinds(check(with_stray)) == {Wrong.UNASKED}
    cut = check(replace(with_stray, cut=True))
    assert (cut.findings, cut.older) == ((), 1)


@given(histories(least=1))
def test_an_answer_ahead_of_its_offset_is_found(history: History) -> None:
    stands = dict.fromkeys(history.consumed_after or {}, 0)
    judgement = check(replace(history, consumed=stands, consumed_after=stands))
    assert {f.id for f in judgement.of(Wrong.OFFSETS)} == {g.id for g in history.given}
    assert kinds(judgement) == {Wrong.OFFSETS}


@given(histories(least=1), st.integers(1, 50))
def test_a_reader_of_what_was_aborted_is_found(history: History, beyond: int) -> None:
    last = max(g.place for g in history.given)
    aborted = last._replace(offset=last.offset + beyond)
    judgement = check(replace(history, read=[aborted]))
    assert [(f.kind, f.id) for f in judgement.findings] == [(Wrong.ABORTED, str(aborted))]


def in_order(ids: Sequence[str], keys: Sequence[bytes] = (b"a", b"a", b"a")) -> History:
    asked = [Asked(Place(REQUESTS, 0, n), key, f"q{n}") for n, key in enumerate(keys)]
    key_of = {one.id: one.key for one in asked}
    answers = [Given(Place(RESULTS, 0, n), key_of[i], i) for n, i in enumerate(ids)]
    return History(asked, answers, [])


def test_order_is_kept_within_a_key_and_a_lane_and_promised_nowhere_else() -> None:
    assert not check(in_order(["q0", "q1", "q2"])).findings
    (found,) = check(in_order(["q0", "q2", "q1"])).findings
    assert (found.kind, found.id) == (Wrong.DISORDERED, "q1")
    assert "t.requests[0]@1 was answered after t.requests[0]@2" in found.how
    assert not check(in_order(["q0", "q2", "q1"], [b"a", b"b", b"c"])).findings
    lanes = in_order(["q1", "q0"], [b"a", b"a"])
    bulk = lanes.asked[1]._replace(place=Place("t.requests.bulk", 0, 5))
    assert not check(replace(lanes, asked=[lanes.asked[0], bulk])).findings


def test_a_repeat_is_refused_or_beyond_the_window_answered_again() -> None:
    history = in_order(["q0", "q1", "q2"])
    repeat = Asked(Place(REQUESTS, 0, 9), b"a", "q0")
    asked = [*history.asked, repeat]
    letter = Refused(Place(DEAD, 0, 0), repeat.place, "q0")
    assert not check(replace(history, asked=asked, refused=[letter])).findings
    (lost,) = check(replace(history, asked=asked)).findings
    assert lost == (Wrong.LOST, "q0", "asked at t.requests[0]@9")
    again = Given(Place(RESULTS, 0, 9), b"a", "q0")
    late = check(replace(history, asked=asked, given=[*history.given, again]))
    assert (late.findings, late.again) == ((), 1)
    letters = [letter, letter._replace(place=Place(DEAD, 0, 1))]
    twice = check(replace(history, asked=asked, refused=letters))
    assert [(f.kind, f.id) for f in twice.findings] == [(Wrong.TWICE, "t.requests[0]@9")]


def test_a_record_without_an_id_is_named_by_its_place() -> None:
    history = History([Asked(Place(REQUESTS, 0, 4), b"", "")], [], [])
    assert [f.id for f in check(history).findings] == ["t.requests[0]@4"]
    letter = Refused(Place(DEAD, 0, 0), Place(REQUESTS, 0, 4), "")
    assert not check(replace(history, refused=[letter])).findings


def _consumed(history: History, answer: Given) -> bool:
    place = next(a.place for a in history.asked if a.id == answer.id)
    return place.offset < (history.consumed or {})[place[:2]]
