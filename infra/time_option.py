"""An instant on the command line: ISO 8601, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from schemas.errors import HeadraceError

AGO = re.compile(r"(\d+) ?(s|m|min|h|d)")
# Of what somebody typed, in a refusal.
QUOTED_CHARS_MAX = 60
UNITS_S = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}
EPOCH = datetime.fromtimestamp(0, UTC)


class NotATime(HeadraceError):
    """Neither ISO 8601 nor a length of time; or an instant that no calendar has."""


def time_option(option: str, text: str, now_ms: int | None) -> int:
    """Epoch milliseconds of `2013-06-01T12:00`, UTC where no zone is given, or of `2h` before `now_ms`.

    Raises:
        NotATime: It is neither, or it is an "ago" and there is nothing yet to count back from; or it lies outside of the years
            1 to 9999, where nobody could be told when that is.
    """
    ago = AGO.fullmatch(text.strip())
    if ago and now_ms is None:
        raise NotATime(option, wanted="something to count back from", came="nothing happened yet")
    try:
        at = _before(ago, now_ms or 0) if ago else _at(option, text)
        # Of a zone that is ahead or behind, the first or last hours of the calendar are none in UTC.
        return (at.astimezone(UTC) - EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError) as error:
        raise NotATime(
            option,
            wanted="a time between the years 1 and 9999",
            came=f"it is {text.strip()[:QUOTED_CHARS_MAX]!r}",
        ) from error


def _before(ago: re.Match[str], now_ms: int) -> datetime:
    length = timedelta(seconds=int(ago[1]) * UNITS_S[ago[2]])
    return EPOCH + timedelta(milliseconds=now_ms) - length


def _at(option: str, text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise NotATime(
            option,
            wanted="a time like 2013-06-01T12:00 or 2h, 30m, 7d",
            came=f"it is {text[:QUOTED_CHARS_MAX]!r}",
        ) from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)
