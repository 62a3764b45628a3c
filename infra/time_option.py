"""An instant on the command line: ISO 8601, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from schemas.errors import HeadraceError

AGO = re.compile(r"(\d+) ?(s|m|min|h|d)")
UNITS_S = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}


class NotATime(HeadraceError):
    """Neither ISO 8601 nor a length of time."""


def time_option(option: str, text: str, now_ms: int | None) -> int:
    """Epoch milliseconds of `2013-06-01T12:00`, UTC where no zone is given, or of `2h` before `now_ms`.

    Raises:
        NotATime: It is neither, or it is an "ago" and there is nothing yet to count back from.
    """
    ago = AGO.fullmatch(text.strip())
    if ago and now_ms is not None:
        length = timedelta(seconds=int(ago[1]) * UNITS_S[ago[2]])
        return now_ms - length // timedelta(milliseconds=1)
    if ago:
        raise NotATime(option, wanted="something to count back from", came="nothing happened yet")
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise NotATime(
            option,
            wanted="a time like 2013-06-01T12:00 or 2h, 30m, 7d",
            came=f"it is {text!r}",
        ) from error
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return (at - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)
