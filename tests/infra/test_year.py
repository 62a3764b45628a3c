from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from numpy.typing import NDArray

from features.settings import StoreSettings
from infra.demo import table, year
from pipelines.training_set import training_set
from schemas.errors import HeadraceError
from tests.pipelines.january import SINCE_MS, UNTIL_MS, lake, plan

DAYS_MS = 18 * 86_400_000


class February:
    """An audit of answers to the last week of January's flights, as if they were of February; a few are of March."""

    def __init__(self, stores: StoreSettings) -> None:
        made = training_set("flights", plan(), stores, SINCE_MS, UNTIL_MS)
        rows = made.holdout
        self._late = rows.labels
        self._dice = np.random.default_rng(1)
        month = pd.DataFrame(
            {
                "time_ms": rows.event_time_ms + DAYS_MS,
                "score": 0.5 * rows.labels + self._dice.random(len(rows)),
                "late": rows.labels,
                "features": [dict(zip(made.inputs, row, strict=True)) for row in rows.matrix],
            }
        )
        evening = month.head(40).assign(time_ms=month.time_ms + 2 * DAYS_MS)
        self._frame = pd.concat([month, evening], ignore_index=True)

    def labelled(self) -> pd.DataFrame:
        return self._frame.copy()

    def rescored(self, version: str, rows: pd.DataFrame) -> NDArray[np.float64]:
        assert version == "v0001"
        return self._dice.random(len(rows))

    def releases(self) -> list[dict[str, Any]]:
        return [{"champion": "v0001"}, {"champion": "v0002"}]

    def trainings_s(self) -> list[float]:
        return [12.0, 8.5]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    stores = lake(tmp_path_factory.mktemp("year"))
    return year.worth(February(stores), "flights", plan(), stores)  # type: ignore[arg-type]


def test_each_way_is_worth_what_its_scores_are(told: dict[str, Any]) -> None:
    [month] = told["months"]
    assert month["month"] == "2013-02"
    assert month["flights"] > 500
    assert month["never"] == pytest.approx(0.5, abs=0.05)
    # A uniform score that half the label is added to: 1 - 0.5³.
    assert month["loop"] == pytest.approx(0.875, abs=0.03)
    assert month["monthly"] > 0.65
    assert told["mean_auc"] == {way: month[way] for way in year.WAYS}


def test_what_each_way_costs(told: dict[str, Any]) -> None:
    assert told["trainings"] == {"loop": 2, "never": 0, "monthly": 1}
    assert told["training_s"]["loop"] == 20.5
    assert told["training_s"]["monthly"] > 0


def test_a_comparison_that_fails_is_told_and_one_nobody_waits_for_is_ended(tmp_path: Path) -> None:
    with (
        pytest.raises(HeadraceError, match="ended with 1"),
        year.asked_meanwhile(tmp_path / "none.json") as answer,
    ):
        answer()
    others = set(psutil.Process().children())
    with year.asked_meanwhile(tmp_path / "none.json"):
        (process,) = set(psutil.Process().children()) - others
    assert not process.is_running()


def test_the_table_has_a_line_a_month_and_the_costs(told: dict[str, Any]) -> None:
    lines = table.year_lines(told)
    assert len(lines) == 4
    assert lines[1].startswith("2013-02")
    assert lines[3].startswith("trainings: loop 2 in 2")
    assert len({len(line) for line in lines[:3]}) == 1
    assert table.year_lines(None) == []
