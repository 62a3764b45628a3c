"""The history checker: was every request answered exactly once, in order, and do the offsets agree (pure).

It is given what lies on the topics and nothing of what the scorer says of itself, and shares no code with it. `headrace
audit`, the demo's auditor and the fault cases all judge by it.

A record of the request topics is answered by one dead letter, which names its place, or by one result, which bears its
id. Of several records of one id, as many may have results as were not refused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

Partition = tuple[str, int]
Key = bytes
# Begins what stands for the id of a record that has none; an id is printable.
NAMELESS = "\0"


class Place(NamedTuple):
    """Where a record lies."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


class Asked(NamedTuple):
    """A record of a request topic; `id` is empty where none can be read from it."""

    place: Place
    key: Key
    id: str


class Given(NamedTuple):
    """A committed result."""

    place: Place
    key: Key
    id: str


class Refused(NamedTuple):
    """A committed dead letter; `origin` is the place of the record that was refused, where the letter says it."""

    place: Place
    origin: Place | None
    id: str


class Wrong(StrEnum):
    """What can be wrong with a history."""

    LOST = "lost"
    TWICE = "twice"
    BOTH = "both"
    UNASKED = "unasked"
    DISORDERED = "disordered"
    OFFSETS = "offsets"
    ABORTED = "aborted"


class Finding(NamedTuple):
    """One thing that is wrong: a request id (or a place, where there is none), and in words how."""

    kind: Wrong
    id: str
    how: str


@dataclass(frozen=True)
class History:
    """What lies on the topics.

    To judge a system that goes on meanwhile, read in this order: `consumed`, the results, the dead letters, the requests,
    `consumed_after`. Then nothing sound can look wrong.

    Attributes:
        asked: The records of the request topics.
        given: The committed results, in the order of each partition.
        refused: The committed dead letters.
        consumed: Partition → the group's committed offset before the results were read; None judges every request, as
            for a system that has come to rest.
        consumed_after: The same, after the requests were read; None judges no offset.
        cut: Whether requests are missing at the beginning, by retention or by choice: an answer to one that is not
            there is then older, and not unasked.
        read: Places of results that a reader has taken for committed, read before the results.
    """

    asked: Sequence[Asked]
    given: Sequence[Given]
    refused: Sequence[Refused]
    consumed: Mapping[Partition, int] | None = None
    consumed_after: Mapping[Partition, int] | None = None
    cut: bool = False
    read: Iterable[Place] = ()


@dataclass(frozen=True)
class Judgement:
    """The counts, and everything that is wrong.

    Attributes:
        requests: Records of the request topics.
        results: Committed ones.
        dead_letters: Committed ones.
        waiting: Requests that the group has not come to yet.
        again: Ids that were published several times and answered several times, each time exactly once: beyond the
            window in which a repeat is recognised.
        older: Answers to requests that are not there any more.
        findings: What is wrong; empty if nothing is.
    """

    requests: int
    results: int
    dead_letters: int
    waiting: int = 0
    again: int = 0
    older: int = 0
    findings: Sequence[Finding] = field(default=())

    def of(self, *kinds: Wrong) -> list[Finding]:
        """The findings of these kinds."""
        return [one for one in self.findings if one.kind in kinds]

    def counts(self) -> dict[str, int]:
        """How many findings of each kind, zeros included."""
        found = Counter(one.kind for one in self.findings)
        return {kind.value: found[kind] for kind in Wrong}


def check(history: History) -> Judgement:
    """Judge a history."""
    asked, given = _by_id(history.asked), _by_id(history.given)
    refused_places = Counter(one.origin for one in history.refused if one.origin is not None)
    refused_ids = Counter(one.id for one in history.refused if one.origin is None)
    findings = [
        Finding(Wrong.TWICE, str(place), f"{count} dead letters")
        for place, count in refused_places.items()
        if count > 1
    ]
    waiting = again = older = 0
    for request_id in asked.keys() | given.keys():
        places = sorted(one.place for one in asked.get(request_id, ()))
        left = [place for place in places if place not in refused_places]
        # A letter that does not say where its request lay stands for one of that id.
        left = left[: max(0, len(left) - refused_ids[request_id])]
        answers = len(given.get(request_id, ()))
        if answers > len(left):
            if not places and history.cut:
                older += answers
            else:
                findings.append(_too_many(request_id, answers, len(left), len(places)))
        again += 1 < answers <= len(left)
        for place in left[answers:]:
            if _is_consumed(history.consumed, place):
                named = str(place) if request_id.startswith(NAMELESS) else request_id
                findings.append(Finding(Wrong.LOST, named, f"asked at {place}"))
            else:
                waiting += 1
        findings += _ahead(history.consumed_after, request_id, left[:answers])
    findings += _disordered(asked, history.given)
    findings += _aborted(history)
    return Judgement(
        requests=len(history.asked),
        results=len(history.given),
        dead_letters=len(history.refused),
        waiting=waiting,
        again=again,
        older=older,
        findings=tuple(findings),
    )


def _by_id(records: Sequence[Asked] | Sequence[Given]) -> dict[str, list[Asked | Given]]:
    found: dict[str, list[Asked | Given]] = defaultdict(list)
    for record in records:
        # Records without an id can only be told apart by their places, and are only ever refused.
        found[record.id or f"{NAMELESS}{record.place}"].append(record)
    return found


def _too_many(request_id: str, answers: int, left: int, places: int) -> Finding:
    if not places:
        return Finding(Wrong.UNASKED, request_id, f"{answers} results, and nobody asked")
    if left < places and answers <= places:
        return Finding(Wrong.BOTH, request_id, f"{answers} results beside its dead letters")
    return Finding(Wrong.TWICE, request_id, f"{answers} results to {left} requests")


def _is_consumed(consumed: Mapping[Partition, int] | None, place: Place) -> bool:
    if consumed is None:
        return True
    return place.offset < consumed.get((place.topic, place.partition), 0)


def _ahead(
    consumed: Mapping[Partition, int] | None, request_id: str, answered: Sequence[Place]
) -> list[Finding]:
    """An answer without its offset: whoever goes on from the offset answers again."""
    return [
        Finding(Wrong.OFFSETS, request_id, f"answered, but the group stands before {place}")
        for place in answered
        if consumed is not None and not _is_consumed(consumed, place)
    ]


def _disordered(
    asked: Mapping[str, Sequence[Asked | Given]], given: Sequence[Given]
) -> list[Finding]:
    """Results of one key, and of one partition of requests, that overtook each other."""
    last: dict[tuple[Key, int, str, int], int] = {}
    found = []
    for result in given:
        places = asked.get(result.id, ())
        # Of an id that was asked several times nobody can say which record a result answers.
        if len(places) != 1:
            continue
        of = places[0].place
        stream = (result.key, result.place.partition, of.topic, of.partition)
        if of.offset < last.get(stream, -1):
            how = f"{of} was answered after {of.topic}[{of.partition}]@{last[stream]}"
            found.append(Finding(Wrong.DISORDERED, result.id, how))
        last[stream] = max(of.offset, last.get(stream, -1))
    return found


def _aborted(history: History) -> list[Finding]:
    committed = {one.place for one in history.given}
    first: dict[Partition, int] = {}
    for place in committed:
        partition = (place.topic, place.partition)
        first[partition] = min(place.offset, first.get(partition, place.offset))
    return [
        Finding(Wrong.ABORTED, str(place), "was read, but is not committed")
        for place in history.read
        # What lies before the first record that is still there may have been.
        if place not in committed and place.offset > first.get(place[:2], place.offset)
    ]
