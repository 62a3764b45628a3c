"""What has been decided and what is still to decide, folded from the control log. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from schemas.control import Candidate, Incident, Release, Verdict, VerdictKind
from schemas.control_log import Entry
from serving.catalogue import Catalogue
from serving.releases import ReleaseState


class Docket:
    """One use case's candidates, verdicts and release. Free of order and repetition."""

    def __init__(self, case: str) -> None:
        self.state = ReleaseState(case)
        self.catalogue = Catalogue(case)
        self._candidates: OrderedDict[str, Candidate] = OrderedDict()
        self._judged: set[str] = set()
        # By epoch; Kafka compacts them, so some may be missing.
        self._releases: dict[int, Release] = {}
        self._released_ms: dict[int, int] = {}
        # Order → the verdict that admitted its candidate; and the orders whose trial has a verdict.
        self._admitted: dict[str, Verdict] = {}
        self._ended: set[str] = set()
        self._guard: list[Entry] = []
        self._incidents: dict[str, Entry] = {}

    def fold(self, entries: Sequence[Entry]) -> None:
        """Take note of events, in any order between topics and as often as they come."""
        self.catalogue.fold(entries)
        for entry in entries:
            event = entry.event
            if isinstance(event, Release):
                self._releases[event.epoch] = event
                self._released_ms.setdefault(event.epoch, entry.ingest_ms)
                if event.epoch > self.state.epoch:
                    self.state = self.state.fold(event)
            elif isinstance(event, Candidate):
                if event.error is None and event.version is not None:
                    self._candidates.setdefault(event.event_id, event)
            elif isinstance(event, Incident):
                self._incidents.setdefault(event.event_id, entry)
            elif isinstance(event, Verdict):
                self._fold_verdict(entry, event)

    def ruling(self) -> Verdict | None:
        """The guard's verdict over the canary in force, given after it was released; None where there is none.

        By the broker's clock: a verdict over an earlier trial of the same version says nothing about this one. A release that left
        the canary in its place, a pin or a shadow, annuls none.
        """
        release = self.state.release
        if release is None or release.canary is None:
            return None
        since_ms = self._tried_since_ms(release.canary)
        for entry in self._guard:
            verdict = entry.event
            if (
                isinstance(verdict, Verdict)
                and verdict.candidate == release.canary
                and entry.ingest_ms >= since_ms
            ):
                return verdict
        return None

    def ended(self) -> tuple[Verdict, Release] | None:
        """An admission whose trial a person ended, so that no verdict closes its order, and the release that did; or None.

        Where Kafka has compacted that release, it is the next one there is. Admission and the operator share a transactional
        id: who decides has read the release that followed from the admission.
        """
        release = self.state.release
        if release is None:
            return None
        for order in sorted(self._admitted.keys() - self._ended):
            admitted = self._admitted[order]
            if admitted.candidate != release.canary:
                return admitted, self._end_of(admitted.candidate, release)
        return None

    def incident(self) -> Incident | None:
        """The newest incident about the champion in force, after the last one that was looked at; None while it is suspended.

        By its place in the topic, which is kept for ever: releases are compacted, and may all have been of later date.
        """
        release = self.state.release
        if release is None or release.suspended:
            return None
        known = self._incidents.get(release.incident or "")
        for entry in sorted(self._incidents.values(), key=lambda e: e.offset, reverse=True):
            if known is not None and entry.offset <= known.offset:
                return None
            if isinstance(entry.event, Incident) and entry.event.version == release.champion:
                return entry.event
        return None

    def candidate(self) -> Candidate | None:
        """The oldest candidate to judge; None where there is none, or nobody yet to compare it with, or no room.

        One canary at a time: a candidate that comes while another is tried waits for its end.
        """
        release = self.state.release
        if release is None or release.canary is not None:
            return None
        return next(iter(self.waiting), None)

    @property
    def waiting(self) -> list[Candidate]:
        """Candidates without a verdict, oldest first."""
        return [c for c in self._candidates.values() if verdict_id(c) not in self._judged]

    @property
    def judged(self) -> int:
        """How many candidates have a verdict."""
        return len(self._judged)

    def _fold_verdict(self, entry: Entry, verdict: Verdict) -> None:
        order = verdict.order_id
        if verdict.verdict in (VerdictKind.ADMIT, VerdictKind.REFUSE):
            self._judged.add(verdict.event_id)
            if verdict.verdict is VerdictKind.ADMIT and order is not None:
                self._admitted[order] = verdict
            return
        if order is not None:
            self._ended.add(order)
        # Admission's own word on a trial follows from a release, and leads to none.
        if order is None or verdict.event_id != ended_id(order):
            self._guard.append(entry)

    def _tried_since_ms(self, canary: str) -> int:
        """When the first of the newest releases came that all try it, as far as they are known."""
        since_ms = 0
        for epoch in sorted(self._releases, reverse=True):
            if self._releases[epoch].canary != canary:
                break
            since_ms = self._released_ms[epoch]
        return since_ms

    def _end_of(self, canary: str, now: Release) -> Release:
        """The first known release after the last trial of a version; that in force where no trial is known."""
        trials = [epoch for epoch, one in self._releases.items() if one.canary == canary]
        last = max(trials, default=now.epoch - 1)
        return self._releases[min(epoch for epoch in self._releases if epoch > last)]


def verdict_id(candidate: Candidate) -> str:
    """The id of the gate's verdict over a candidate: the same at every try, so that it is given once."""
    return f"gate-{candidate.event_id}"[:128]


def ended_id(order: str) -> str:
    """The id of the verdict over an order's trial that a person ended."""
    return f"ended-{order}"[:128]
