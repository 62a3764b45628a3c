"""Why a definition that Feast accepts cannot be run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from schemas.errors import HeadraceError


class Refusal(NamedTuple):
    """One thing that cannot be run: a whole sentence for its author.

    `at` is the definition's file and line, where they are known: `features/flights.py:88`.
    """

    where: str
    wanted: str
    came: str
    mend: str
    at: str = ""

    def __str__(self) -> str:
        place = f"{self.at}: {self.where}" if self.at else self.where
        return f"{place}: wanted {self.wanted}, but {self.came}. {self.mend}"


class PlanRefused(HeadraceError):
    """Definitions that Feast accepts and headrace cannot run; `refusals` has them all."""

    def __init__(self, module: str, refusals: Sequence[Refusal]) -> None:
        self.refusals = tuple(refusals)
        super().__init__(
            f"definitions of {module}",
            wanted="every one to be runnable",
            came="; ".join(str(r) for r in refusals),
        )
