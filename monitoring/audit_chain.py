"""The record as a chain of links, each holding the hash of the one before; and the search for what was done to it. Pure.

A link holds a control event as it lay on its topic. So there are three accounts that must agree: the chain with itself (a
link follows from the one before), the chain with the topics (what a link says lies where it says), and the topics with
the chain (what lies there is in a link). Somebody who rewrites all three, to the end, is found by a head that was noted
elsewhere, or by the lake's copy of the links.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from pydantic import ValidationError

from schemas.control import AuditRecord, Release

if TYPE_CHECKING:
    from schemas.control_log import Entry

TOPIC = "control.audit"
# Of this topic Kafka keeps the newest event only; a link may be all that is left of the others.
COMPACTED = "control.releases"
GENESIS = "0" * 64
# The auditor reads some hundred milliseconds behind. What is older and in no link was left out.
GRACE_MS = 60_000
HASH_SHOWN = 12


def sha256(value: bytes) -> str:
    """In hex."""
    return hashlib.sha256(value).hexdigest()


def link(entry: Entry, sequence: int, previous_sha256: str) -> AuditRecord:
    """The link of one control event: a function of the event, its place, and the link before."""
    event = entry.event
    return AuditRecord(
        event_time_ms=event.event_time_ms,
        event_id=f"audit-{event.case}-{sequence}",
        case=event.case,
        decided_at_ms=event.decided_at_ms,
        sequence=sequence,
        topic=entry.topic,
        offset=entry.offset,
        received_ms=entry.ingest_ms,
        source=entry.source,
        content=entry.value.decode(),
        content_sha256=sha256(entry.value),
        previous_sha256=previous_sha256,
    )


@dataclass
class Chain:
    """The end of the chain, and how far it has come in each topic. Feed it everything, in the order of each topic.

    Attributes:
        sequence, head: Of the newest link; its hash is that of its value.
        linked: Topic → the highest offset in a link.
    """

    sequence: int = 0
    head: str = GENESIS
    linked: dict[str, int] = field(default_factory=dict)

    def fold(self, entries: Sequence[Entry]) -> list[Entry]:
        """Take in links and events. Returns the events that are in no link, oldest first."""
        for entry in entries:
            if isinstance(entry.event, AuditRecord):
                self._adopt(entry.event, entry.value)
        events = [e for e in entries if not isinstance(e.event, AuditRecord)]
        unlinked = [e for e in events if e.offset > self.linked.get(e.topic, -1)]
        return _oldest_first(unlinked)

    def extend(self, entries: Iterable[Entry]) -> list[AuditRecord]:
        """The links of these events, which are the chain's end from now on."""
        links = []
        for entry in entries:
            links.append(link(entry, self.sequence + 1, self.head))
            self._adopt(links[-1], links[-1].encode())
        return links

    def _adopt(self, record: AuditRecord, value: bytes) -> None:
        if record.sequence > self.sequence:
            self.sequence, self.head = record.sequence, sha256(value)
        self.linked[record.topic] = max(self.linked.get(record.topic, -1), record.offset)


def _oldest_first(entries: Iterable[Entry]) -> list[Entry]:
    """By the broker's clock, but within a topic by offset: that clock may have been set back."""
    newest_ms: dict[str, int] = {}
    keys = {}
    for entry in sorted(entries, key=lambda e: e.offset):
        newest_ms[entry.topic] = max(entry.ingest_ms, newest_ms.get(entry.topic, 0))
        keys[newest_ms[entry.topic], entry.topic, entry.offset] = entry
    return [keys[key] for key in sorted(keys)]


class Wrong(StrEnum):
    """What can be wrong with the record."""

    UNREADABLE = "unreadable"
    GAP = "gap"
    BROKEN = "broken"
    ALTERED = "altered"
    FORGED = "forged"
    REPEATED = "repeated"
    MISSING = "missing"
    COPY = "copy"
    HEAD = "head"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: at which link (0 where none is to blame), and how."""

    kind: Wrong
    sequence: int
    how: str


@dataclass(frozen=True)
class Judgement:
    """What a walk along the chain found.

    Attributes:
        links: How many there are.
        head: The hash of the last one: note it elsewhere.
        proved: Links whose event lies on its topic, the same byte for byte.
        compacted: Links whose event Kafka has compacted away since; the chain alone vouches for them.
        waiting: Events too young to be in a link.
    """

    links: int
    head: str
    proved: int
    compacted: int
    waiting: int
    findings: tuple[Finding, ...]


def verify(
    values: Sequence[bytes],
    events: Sequence[Entry],
    now_ms: int,
    *,
    copies: Mapping[int, str] | None = None,
    noted: tuple[int, str] | None = None,
) -> Judgement:
    """Walk along the chain of one use case.

    Args:
        values: The links, as they lie on their topic.
        events: All that lies on the other control topics now, of this use case.
        now_ms: The broker's clock.
        copies: Sequence → hash, of the links that the lake holds.
        noted: Sequence and hash (or how it begins) of a link, as noted elsewhere.
    """
    walk = _Walk(events)
    for value in values:
        walk.step(value)
    waiting = walk.left_out(now_ms)
    walk.compare(copies or {}, "the lake's copy of it", Wrong.COPY)
    walk.compare(dict([noted]) if noted else {}, "what was noted", Wrong.HEAD)
    return Judgement(
        links=len(values),
        head=walk.head,
        proved=walk.proved,
        compacted=walk.compacted,
        waiting=waiting,
        findings=tuple(walk.findings),
    )


class _Walk:
    """From the first link to the last."""

    def __init__(self, events: Sequence[Entry]) -> None:
        self.findings: list[Finding] = []
        self.head = GENESIS
        self.proved = self.compacted = 0
        self._events = {(e.topic, e.offset): e for e in events}
        self._newest = {e.topic: e.offset for e in sorted(events, key=lambda e: e.offset)}
        self._sequence = 0
        self._hashes: dict[int, str] = {}
        self._linked: set[tuple[str, int]] = set()
        self._reached: dict[str, int] = {}
        self._epoch = 0

    def step(self, value: bytes) -> None:
        """Judge the next link against the one before, itself, and its event."""
        try:
            record = AuditRecord.model_validate_json(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"])) or "the value"
            self._find(Wrong.UNREADABLE, self._sequence + 1, f"{field}: {first['msg']}")
            self._sequence, self.head = self._sequence + 1, sha256(value)
            return
        self._follow(record)
        if record.encode() != value:
            self._find(Wrong.ALTERED, record.sequence, "it is not spelled as links are")
        self._sequence, self.head = record.sequence, sha256(value)
        self._hashes[record.sequence] = self.head
        self._hold(record)

    def left_out(self, now_ms: int) -> int:
        """Look for events without a link. Returns how many are too young for one."""
        waiting = 0
        for place, entry in self._events.items():
            if place in self._linked:
                continue
            passed = entry.offset < self._reached.get(entry.topic, -1)
            if not passed and entry.ingest_ms > now_ms - GRACE_MS:
                waiting += 1
                continue
            where = f"{entry.topic} at offset {entry.offset} ({entry.event.event_id})"
            why = "" if passed else "; the chain was cut off, or the auditor does not run"
            self._find(
                Wrong.MISSING, 0 if passed else self._sequence, f"no link holds {where}{why}"
            )
        return waiting

    def compare(self, others: Mapping[int, str], whose: str, kind: Wrong) -> None:
        """Hold the links to hashes that somebody else has kept."""
        for sequence, other in sorted(others.items()):
            mine = self._hashes.get(sequence)
            if mine is None:
                self._find(kind, sequence, f"there is no such link, and {whose} is {_short(other)}")
            elif not mine.startswith(other):
                self._find(
                    kind, sequence, f"its hash is {_short(mine)}, {whose} is {_short(other)}"
                )

    def _follow(self, record: AuditRecord) -> None:
        wanted = self._sequence + 1
        if record.sequence != wanted:
            self._find(Wrong.GAP, record.sequence, f"link {wanted} should stand here")
        elif record.previous_sha256 != self.head:
            claimed = _short(record.previous_sha256)
            how = f"it follows a link of hash {claimed}, and link {self._sequence} has {_short(self.head)}"
            self._find(Wrong.BROKEN, record.sequence, how)

    def _hold(self, record: AuditRecord) -> None:
        place = (record.topic, record.offset)
        if record.offset <= self._reached.get(record.topic, -1):
            how = f"{record.topic} had been recorded up to offset {self._reached[record.topic]} already"
            self._find(Wrong.REPEATED, record.sequence, how)
        self._reached[record.topic] = max(record.offset, self._reached.get(record.topic, -1))
        self._linked.add(place)
        if sha256(record.content.encode()) != record.content_sha256:
            self._find(Wrong.ALTERED, record.sequence, "its content is not what its own hash says")
        self._follow_epochs(record)
        entry = self._events.get(place)
        if entry is not None:
            self._agree(record, entry)
        elif record.topic == COMPACTED and record.offset < self._newest.get(COMPACTED, -1):
            self.compacted += 1
        else:
            where = f"{record.topic} at offset {record.offset}"
            self._find(Wrong.FORGED, record.sequence, f"there is no such event on {where}")

    def _agree(self, record: AuditRecord, entry: Entry) -> None:
        if link(entry, record.sequence, record.previous_sha256) == record:
            self.proved += 1
            return
        where = f"{record.topic} at offset {record.offset}"
        self._find(Wrong.ALTERED, record.sequence, f"{where} says something else")

    def _follow_epochs(self, record: AuditRecord) -> None:
        """Releases are numbered: one that was never recorded leaves a hole, though Kafka has compacted it away."""
        if record.topic != COMPACTED:
            return
        try:
            epoch = Release.model_validate_json(record.content).epoch
        except ValidationError:
            self._find(Wrong.ALTERED, record.sequence, "its content is not a release")
            return
        if self._epoch and epoch != self._epoch + 1:
            how = f"release {epoch} follows release {self._epoch}"
            self._find(Wrong.MISSING, record.sequence, how)
        self._epoch = epoch

    def _find(self, kind: Wrong, sequence: int, how: str) -> None:
        self.findings.append(Finding(kind, sequence, how))


def _short(digest: str) -> str:
    return digest[:HASH_SHOWN]
