from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.time_option import NotATime, time_option

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


def test_ago_needs_something_to_count_back_from() -> None:
    with pytest.raises(NotATime, match="nothing happened yet"):
        time_option("--until", "2h", None)
