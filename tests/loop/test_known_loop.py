"""One stream through the whole loop; docs/drift.md has the figures of many."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.settings import KafkaSettings
from tests.loop.crew import Crew
from tests.loop.known_case import KnownCase
from tests.loop.known_run import KnownRun


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_true_drift_is_found_and_answered_once(kafka: KafkaSettings, tmp_path: Path) -> None:
    with Crew(tmp_path) as crew:
        told = KnownRun(crew, kafka, KnownCase("known_led", "led"), seed=1).play()
    assert told.found_rows is not None
    assert told.found_rows <= 2 * KnownCase("known_led", "led").known.rows
    assert (told.orders, told.candidates, told.promoted, told.lost) == (1, 1, 1, 0), told
    assert told.before
    assert told.between
    assert told.after
    assert told.after.auc == pytest.approx(told.before.auc, abs=0.05)
    assert (told.between.auc or 1.0) < (told.after.auc or 0.0) - 0.1
