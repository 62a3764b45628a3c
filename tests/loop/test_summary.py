from __future__ import annotations

import pytest

from tests.loop.known_case import (
    CHUNK_ROWS,
    HELD_OUT_ROWS,
    OUTCOME_AFTER_ROWS,
    SINCE_ROWS,
    STREAMS,
    KnownCase,
    policy,
)
from tests.loop.story import Story, Worth
from tests.loop.summary import summary, table

ROWS_MIN = 2_000


def story(**changes: object) -> Story:
    told = Story("sea", 1, 4_100, rows=20_000, quiet=4, found_rows=900, found=["concept_drift"])
    told.orders = told.candidates = told.promoted = 1
    told.promoted_rows = 6_000
    told.before, told.between = Worth(4_100, 0.85, 0.43), Worth(6_000, 0.88, 0.55)
    told.after, told.never = Worth(5_000, 0.88, 0.45), Worth(5_000, 0.87, 0.56)
    for name, value in changes.items():
        setattr(told, name, value)
    return told


def test_a_line_tells_what_became_of_the_runs() -> None:
    unseen = story(found_rows=None, found=[], orders=0, promoted_rows=None, after=None, never=None)
    runs = [story(), story(found_rows=1_900, orders=2, false=["data_drift"]), unseen]
    line = summary(runs)
    assert (line["runs"], line["found"], line["promoted"]) == (3, 2, 2)
    assert line["found_rows"] == [1_400.0, 1_850.0, 1_900.0]
    assert line["orders"] == {"0": 1, "1": 1, "2": 1}
    assert line["false_alarms"] == {"data_drift": 1}
    assert line["log_loss"]["after"] == 0.45
    shown = table([line])
    assert "2 of 3" in shown
    assert "1 data_drift in 12 windows" in shown
    assert "0.430, 0.550, 0.450 | 0.560" in shown


def test_where_nothing_happened_there_is_nothing_to_tell() -> None:
    quiet = story(found_rows=None, found=[], orders=0, promoted_rows=None, after=None, never=None)
    shown = table([summary([quiet])])
    assert "| 0 of 1 | - | - | none in 4 windows | 0 in 1 | - | - |" in shown


@pytest.mark.parametrize("stream", STREAMS)
def test_a_retraining_sees_enough_and_nothing_from_before_its_window(stream: str) -> None:
    """Windows, their grace and chunks end together, or the sender could not wait where the loop decides."""
    known = KnownCase(f"summary_{stream}", stream).known
    of = policy(known)
    assert of.loop.look_back_ms == of.window.grace_ms
    assert SINCE_ROWS - HELD_OUT_ROWS - 2 * OUTCOME_AFTER_ROWS >= ROWS_MIN
    assert known.rows % CHUNK_ROWS == SINCE_ROWS % CHUNK_ROWS == 0
