from __future__ import annotations

from pathlib import Path

import pytest

from features.unit_test import TestFileRefused, run
from features.views import UnknownDefinition
from tests.features.readings import PLAN

GOOD = """
view = "sensor_readings"
t0 = "2013-06-01T12:02:00Z"

[[event]]
at = "t0 - 1 min"
sensor = "a"
value = 3.0

[[event]]
at = 2013-06-01T12:02:00Z
sensor = "a"
value = 5

[[event]]
at = "2013-06-01T12:02:00.001"
sensor = "a"
value = 7.0

[[event]]
at = "t0 - 0.5 s"
sensor = "a"

[[expect]]
at = "t0"
sensor = "a"
sum_5m = 8
std_5m = 1.4142135623730951
events_2m = 3

[[expect]]
at = "t0 + 1 h"
sensor = "a"
sum_5m = 0
last_5m = "null"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "case.toml"
    path.write_text(text)
    return path


def test_expectations_are_told_one_by_one(tmp_path: Path) -> None:
    outcomes = run(written(tmp_path, GOOD), PLAN)
    assert [o.feature for o in outcomes if o.ok] == [o.feature for o in outcomes]
    assert {o.feature for o in outcomes} == {"sum_5m", "std_5m", "events_2m", "last_5m"}
    assert outcomes[0].view == "sensor_readings"


def test_a_failure_has_what_came_and_the_events_of_its_window(tmp_path: Path) -> None:
    outcomes = run(written(tmp_path, GOOD.replace("sum_5m = 8", "sum_5m = 9")), PLAN)
    (failed,) = [o for o in outcomes if not o.ok]
    assert (failed.expected, failed.got, failed.key) == (9.0, 8.0, {"sensor": "a"})
    assert [e["value"] for e in failed.events] == [3.0, None, 5]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('t0 = "2013-06-01T12:02:00Z"', "", "t0"),
        ('"t0 - 1 min"', '"t0 - 1 fortnight"', "event 1, at"),
        ("value = 3.0", "vlaue = 3.0", "event 1.*vlaue"),
        ("sum_5m = 8", "sum_6m = 8", "expect 1.*sum_6m"),
        ("sum_5m = 8", 'sum_5m = "eight"', "expect 1, sum_5m"),
        ('at = "t0"\nsensor = "a"', 'at = "t0"', "the join key sensor"),
        ('at = "t0 - 1 min"', "", "event 1.*`at`"),
        ("[[event]]", "[[event]", "a TOML file"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(
    before: str, after: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(TestFileRefused, match=said) as refused:
        run(written(tmp_path, GOOD.replace(before, after, 1)), PLAN)
    assert "case.toml" in str(refused.value)


def test_a_file_that_expects_nothing_or_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TestFileRefused, match="at least one"):
        run(written(tmp_path, GOOD.partition("[[expect]]")[0]), PLAN)
    with pytest.raises(TestFileRefused, match="No such file"):
        run(tmp_path / "none.toml", PLAN)


def test_an_unknown_view_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnknownDefinition, match="sensor_readings"):
        run(written(tmp_path, GOOD.replace("sensor_readings", "sensor_reading")), PLAN)
