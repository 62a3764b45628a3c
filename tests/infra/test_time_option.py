from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.time_option import NotATime, time_option
from monitoring.loop import day

NOW_MS = 1_370_000_000_000


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2h", NOW_MS - 7_200_000),
        ("30m", NOW_MS - 1_800_000),
        ("30 min", NOW_MS - 1_800_000),
        ("7d", NOW_MS - 604_800_000),
        ("2013-06-01", 1_370_044_800_000),
        ("2013-06-01T12:00", 1_370_088_000_000),
        ("2013-06-01T12:00:00.5Z", 1_370_088_000_500),
        ("2013-06-01T12:00+02:00", 1_370_080_800_000),
    ],
)
def test_iso_or_ago(text: str, ms: int) -> None:
    assert time_option("--since", text, NOW_MS) == ms


@given(text=st.text())
def test_anything_else_is_refused_in_a_sentence(text: str) -> None:
    try:
        time_option("--since", text, NOW_MS)
    except NotATime as error:
        assert "--since" in str(error)  # noqa: PT017 - a property: most texts are refused


@pytest.mark.parametrize(
    "text",
    [
        "3000000d",
        "99999999999999d",
        f"{'9' * 5_000}d",
        "9999-12-31T23:59-01:00",
        "0001-01-01T00:00+01:00",
    ],
)
def test_what_no_calendar_has_is_refused(text: str) -> None:
    with pytest.raises(NotATime, match="between the years 1 and 9999") as refused:
        time_option("--until", text, NOW_MS)
    assert len(str(refused.value)) < 300


def test_the_ends_of_the_calendar_are_times() -> None:
    for text in ("0001-01-01T00:00", "9999-12-31T23:59:59.999"):
        assert day(time_option("--until", text, None)).startswith(text[:4].lstrip("0"))


def test_ago_needs_something_to_count_back_from() -> None:
    with pytest.raises(NotATime, match="nothing happened yet"):
        time_option("--until", "2h", None)
