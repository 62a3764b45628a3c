"""After the last request: wait until the lake holds what the topics hold and no retraining is under way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from infra.demo.lake_audit import lake_rows
from schemas.errors import HeadraceError

if TYPE_CHECKING:
    from infra.demo.answers import Answers
    from infra.settings import Settings

TIMEOUT_S = 120.0
POLL_S = 1.0
# The archiver appends every few seconds; a lake that has not grown for three of its intervals has all there is.
QUIET_INTERVALS = 3


class NotSettled(HeadraceError):
    """The lake or the loop did not come to rest."""


def settle(settings: Settings, answers: Answers) -> None:
    """Return once every result lies in the lake, the lake has stopped growing, and no order is open.

    Raises:
        NotSettled: That did not come to pass within two minutes.
    """
    deadline = time.monotonic() + TIMEOUT_S
    quiet_s = QUIET_INTERVALS * settings.pipelines.archive_interval_s
    rows, since = lake_rows(settings.stores, settings.case), time.monotonic()
    results = f"{settings.case}_results"
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        now = lake_rows(settings.stores, settings.case)
        if now != rows:
            rows, since = now, time.monotonic()
        archived = rows.get(results, 0) >= len(answers.arrivals)
        if archived and answers.open_order is None and time.monotonic() - since >= quiet_s:
            return
    raise NotSettled(
        "the lake",
        wanted=f"{len(answers.arrivals)} results in it, no more growth, and no open order",
        came=f"after {TIMEOUT_S:.0f} s it holds {rows.get(results, 0)}; open: {answers.open_order}",
        mend="Look at the logs of archiver and trainer.",
    )
