"""A few seeds of `known_drift`; the table of docs/drift.md is from 200."""

from __future__ import annotations

from collections import Counter

import pytest

from schemas.control import AlertKind
from tests.monitoring import rig
from tests.monitoring.known_drift import alarmed, alarms_max, found, summary
from tests.monitoring.known_streams import KNOWN

SEEDS = range(1, 5)
# What a quiet window may come to: inputs, scores, and two metrics.
NOMINAL = rig.POLICY.drift.inputs.alpha + rig.POLICY.drift.score.alpha + 2 * rig.POLICY.drift.alpha
# Within so many rows the last of 200 seeds found it, rounded up (docs/drift.md).
ROWS_MAX = {
    "SEA, threshold 7 to 9.5": 8_000,
    "SEA, threshold 9 to 7": 11_000,
    "LEDDrift, 7 segments": 2_000,
    "one column, 0.5 deviations": 2_000,
}


def test_one_distribution_is_alarmed_no_more_often_than_the_nominal_rate() -> None:
    alarms = sum(alarmed(seed) for seed in range(100))
    assert alarms <= alarms_max(100, rig.POLICY.drift.inputs.alpha)


@pytest.mark.parametrize("name", ROWS_MAX)
def test_a_true_drift_is_found_and_quiet_windows_stay_quiet(name: str) -> None:
    known = KNOWN[name]
    runs = [found(known, seed) for seed in SEEDS]
    assert all(run.delay_rows is not None for run in runs), runs
    assert max(run.delay_rows or 0 for run in runs) <= ROWS_MAX[name]
    assert known.expected & {AlertKind(kind) for run in runs for kind in run.kinds}
    alarms = Counter(kind for run in runs for kind in run.false)
    assert alarms.total() <= alarms_max(sum(run.quiet for run in runs), NOMINAL)


def test_a_benign_shift_is_seen_and_is_no_alarm() -> None:
    runs = [found(KNOWN["benign: effect 0.05"], seed) for seed in SEEDS]
    told = summary(KNOWN["benign: effect 0.05"], runs)
    assert told["significant_but_small"], told
    assert not any(AlertKind.DATA_DRIFT in run.kinds for run in runs)
