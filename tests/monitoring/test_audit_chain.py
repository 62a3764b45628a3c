from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.audit_chain import GENESIS, GRACE_MS, Chain, Judgement, Wrong, link, sha256, verify
from monitoring.loop import Loop
from schemas.control import AuditRecord, ControlEvent, Release
from schemas.control_log import TOPIC_OF, Entry
from tests.monitoring import rig
from tests.monitoring.test_loop import POLICY, T0_MS, alert, candidate, order

NOW_MS = T0_MS + 10 * GRACE_MS


def entry(event: ControlEvent, offset: int, ingest_ms: int = T0_MS) -> Entry:
    return Entry(event, ingest_ms, TOPIC_OF[type(event)], offset, event.encode(), "headrace/test")


def history() -> list[Entry]:
    """Some of everything, on four topics."""
    found = alert(T0_MS, Loop(POLICY).decide(T0_MS, T0_MS))
    ordered = order(found)
    events: list[ControlEvent] = [
        rig.release("c"),
        found,
        ordered,
        candidate(ordered.event_id, T0_MS),
        rig.release("c", epoch=2, canary="v2"),
        rig.release("c", epoch=3, champion="v2"),
    ]
    return [entry(event, 3 * place, T0_MS + place) for place, event in enumerate(events)]


def chained(entries: list[Entry]) -> list[bytes]:
    chain = Chain()
    return [record.encode() for record in chain.extend(chain.fold(entries))]


def judged(values: list[bytes], entries: list[Entry]) -> Judgement:
    return verify(values, entries, NOW_MS)


def test_a_chain_begins_at_genesis_and_holds_the_events_byte_for_byte() -> None:
    entries = history()
    values = chained(entries)
    records = [AuditRecord.model_validate_json(value) for value in values]
    assert [r.sequence for r in records] == [1, 2, 3, 4, 5, 6]
    assert records[0].previous_sha256 == GENESIS
    assert records[1].previous_sha256 == sha256(values[0])
    assert [r.content.encode() for r in records] == [e.value for e in entries]
    told = judged(values, entries)
    assert (told.links, told.proved, told.findings) == (6, 6, ())
    assert told.head == sha256(values[-1])


@given(st.lists(st.integers(0, 6), max_size=6), st.sampled_from(["events", "links"]))
def test_restarts_and_repeats_neither_lose_a_link_nor_write_one_twice(
    stops: list[int], first: str
) -> None:
    entries = history()
    log: list[Entry] = []
    for stop in [*sorted(stops), len(entries)]:
        # A start reads all links, and the events that lie there by now, once or again.
        chain = Chain()
        read = [*entries[:stop], *log] if first == "events" else [*log, *entries[:stop]]
        for record in chain.extend(chain.fold(read)):
            log.append(Entry(record, T0_MS, "control.audit", len(log), record.encode()))
        assert chain.fold([*log, *entries[:stop]]) == []
    assert [e.value for e in log] == chained(entries)


def test_a_clock_that_is_set_back_changes_no_order_within_a_topic() -> None:
    entries = [replace(e, ingest_ms=T0_MS - e.offset) for e in history()]
    values = chained(entries)
    assert judged(values, entries).findings == ()
    topics = [AuditRecord.model_validate_json(value).topic for value in values]
    assert topics.count("control.releases") == 3


def test_releases_that_kafka_compacted_are_vouched_for_by_the_chain() -> None:
    entries = history()
    left = [e for e in entries if not isinstance(e.event, Release)] + entries[-1:]
    told = judged(chained(entries), left)
    assert (told.proved, told.compacted, told.findings) == (4, 2, ())


def test_an_event_may_be_too_young_for_a_link() -> None:
    entries = history()
    values = chained(entries)[:5]
    young = [*entries[:5], replace(entries[5], ingest_ms=NOW_MS - 1)]
    told = judged(values, young)
    assert (told.waiting, told.findings) == (1, ())


def kinds(told: Judgement) -> set[Wrong]:
    return {finding.kind for finding in told.findings}


@given(st.data())
def test_one_byte_changed_anywhere_is_found(data: st.DataObject) -> None:
    entries, values = history(), chained(history())
    which = data.draw(st.integers(0, len(values) - 1))
    value = bytearray(values[which])
    place = data.draw(st.integers(0, len(value) - 1))
    value[place] ^= 1 << data.draw(st.integers(0, 6))
    told = judged([*values[:which], bytes(value), *values[which + 1 :]], entries)
    assert told.findings
    assert min(f.sequence for f in told.findings if f.sequence) <= which + 2


@given(st.integers(0, 5))
def test_a_link_left_out_is_found(which: int) -> None:
    entries, values = history(), chained(history())
    told = judged([*values[:which], *values[which + 1 :]], entries)
    assert Wrong.MISSING in kinds(told)
    assert which == len(values) - 1 or Wrong.GAP in kinds(told)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=2, unique=True))
def test_two_links_swapped_are_found(pair: list[int]) -> None:
    entries, values = history(), chained(history())
    one, other = sorted(pair)
    values[one], values[other] = values[other], values[one]
    told = judged(values, entries)
    assert told.findings[0].kind is Wrong.GAP
    assert told.findings[0].sequence == other + 1


def forged(values: list[bytes], of: Entry) -> list[bytes]:
    """A link that follows from the last one as it should."""
    return [*values, link(of, len(values) + 1, sha256(values[-1])).encode()]


def test_a_forged_link_that_follows_as_it_should_is_found() -> None:
    entries, values = history(), chained(history())
    invented = entry(rig.release("c", epoch=4, champion="evil"), 99)
    assert kinds(judged(forged(values, invented), entries)) == {Wrong.FORGED}
    again = judged(forged(values, entries[1]), entries)
    assert kinds(again) == {Wrong.REPEATED}


def test_a_record_cut_off_is_found_where_it_ends() -> None:
    entries, values = history(), chained(history())
    told = judged(values[:2], entries)
    assert kinds(told) == {Wrong.MISSING}
    assert {f.sequence for f in told.findings} == {2}
    assert "cut off" in told.findings[0].how


def rewritten(entries: list[Entry], change: Callable[[Entry], Entry]) -> list[Entry]:
    return [change(e) if e.topic == "control.alerts" else e for e in entries]


@pytest.mark.parametrize("part", ["value", "source", "ingest_ms"])
def test_a_control_event_changed_afterwards_is_found(part: str) -> None:
    entries, values = history(), chained(history())

    def change(e: Entry) -> Entry:
        if part == "value":
            other = e.event.model_copy(update={"rows": 7})
            return replace(e, event=other, value=other.encode())
        return replace(e, **({"source": "me"} if part == "source" else {"ingest_ms": 5}))

    told = judged(values, rewritten(entries, change))
    assert [(f.kind, f.sequence) for f in told.findings] == [(Wrong.ALTERED, 2)]


def test_a_control_event_deleted_afterwards_is_found() -> None:
    entries, values = history(), chained(history())
    told = judged(values, [e for e in entries if e.topic != "control.alerts"])
    assert [(f.kind, f.sequence) for f in told.findings] == [(Wrong.FORGED, 2)]


def test_a_release_that_was_never_recorded_leaves_a_hole() -> None:
    entries = history()
    told = judged(chained([*entries[:4], entries[5]]), entries[:4] + entries[5:])
    assert [(f.kind, f.how) for f in told.findings] == [
        (Wrong.MISSING, "release 3 follows release 1")
    ]


def test_who_rewrites_everything_is_found_by_a_copy_or_a_noted_head() -> None:
    entries, values = history(), chained(history())
    copies = {place: sha256(value) for place, value in enumerate(values, 1)}
    other = entries[1].event.model_copy(update={"rows": 7})
    changed = [entries[0], replace(entries[1], event=other, value=other.encode()), *entries[2:]]
    rewrote = chained(changed)
    assert judged(rewrote, changed).findings == ()
    told = verify(rewrote, changed, NOW_MS, copies=copies)
    assert {(f.kind, f.sequence) for f in told.findings} == {(Wrong.COPY, n) for n in range(2, 7)}
    told = verify(rewrote, changed, NOW_MS, noted=(6, copies[6][:12]))
    assert [(f.kind, f.sequence) for f in told.findings] == [(Wrong.HEAD, 6)]
    cut = verify(values[:4], entries[:4], NOW_MS, copies=copies)
    assert [f.sequence for f in cut.findings] == [5, 6]


def test_a_link_spells_itself_in_one_way() -> None:
    value = chained(history())[0]
    told = json.loads(value)
    assert list(told) == sorted(told)
    entries = history()
    spaced = json.dumps(told).encode()
    assert Wrong.ALTERED in kinds(judged([spaced, *chained(entries)[1:]], entries))
