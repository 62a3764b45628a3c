"""What the registry for people shows, folded from the control log: versions, their stages, three aliases. Pure.

The truth is `control.releases`; this follows from it, so that a registry that was lost, or is behind after a crash, is made
again by folding the log once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from schemas.control import Release, Verdict, VerdictKind
from schemas.control_log import Entry


class Alias(StrEnum):
    """Names that MLflow's users expect; each points to one version at most.

    `archived` is the champion before this one: where to go back to. Those before it are archived by their stage.
    """

    CHAMPION = "champion"
    CHALLENGER = "challenger"
    ARCHIVED = "archived"


@dataclass(frozen=True)
class Picture:
    """A model as the registry should show it.

    Attributes:
        model: Its name.
        stages: Version → champion, challenger, shadow, pinned or archived.
        aliases: Of the three, those that point somewhere.
        gate: Version → what the gate measured, on held-out rows, of those that passed it.
        epoch: Of the release that this is of.
    """

    model: str
    stages: Mapping[str, str]
    aliases: Mapping[Alias, str]
    gate: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    epoch: int = 0


class Catalogue:
    """One use case's control events, folded. Free of order and repetition."""

    def __init__(self, case: str) -> None:
        self._case = case
        self._releases: dict[int, Release] = {}
        self._admitted: dict[str, dict[str, float]] = {}
        self._succeeded: dict[str, str] = {}

    def fold(self, entries: Sequence[Entry]) -> None:
        """Take note of releases and verdicts; of everything else there is nothing to show."""
        for entry in entries:
            event = entry.event
            if event.case != self._case:
                continue
            if isinstance(event, Release):
                self._releases.setdefault(event.epoch, event)
            elif isinstance(event, Verdict):
                if event.verdict is VerdictKind.ADMIT:
                    self._admitted[event.candidate] = event.candidate_metrics
                elif event.verdict is VerdictKind.PROMOTE:
                    self._succeeded[event.candidate] = event.champion

    def picture(self) -> Picture | None:
        """What follows from all that was folded; None before the first release."""
        if not self._releases:
            return None
        now = self._releases[max(self._releases)]
        before = self._before(now)
        stages = dict.fromkeys(sorted({*self._admitted, *self._named(), *before}), "archived")
        stages |= dict.fromkeys(now.pins.values(), "pinned")
        if now.shadow:
            stages[now.shadow] = "shadow"
        if now.canary:
            stages[now.canary] = str(Alias.CHALLENGER)
        stages[now.champion] = str(Alias.CHAMPION)
        aliases = {Alias.CHAMPION: now.champion}
        if now.canary:
            aliases[Alias.CHALLENGER] = now.canary
        if before:
            aliases[Alias.ARCHIVED] = before[0]
        return Picture(now.model, stages, aliases, dict(self._admitted), now.epoch)

    def _named(self) -> set[str]:
        """Every version that a release of the log let answer, or score in the shadow."""
        releases = self._releases.values()
        found = {v for r in releases for v in (r.champion, r.canary, r.shadow, *r.pins.values())}
        return {version for version in found if version is not None}

    def _before(self, now: Release) -> list[str]:
        """The champion before this one. Compaction forgets releases; the verdict that promoted this one remembers."""
        for epoch in sorted(self._releases, reverse=True):
            if (champion := self._releases[epoch].champion) != now.champion:
                return [champion]
        succeeded = self._succeeded.get(now.champion)
        return [succeeded] if succeeded and succeeded != now.champion else []
