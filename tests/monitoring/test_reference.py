from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monitoring import reference as references
from monitoring.judgement import judge
from monitoring.reference import MissingReference
from monitoring.windows import Window
from schemas.control import AlertKind
from schemas.manifest import HOLDOUT_FILE
from tests.monitoring import rig


def hold_out(models: Path, scores: np.ndarray) -> None:
    pq.write_table(pa.table({"score": scores}), models / "m" / "v1" / HOLDOUT_FILE)


def window(scores: np.ndarray) -> Window:
    """Answers of the champion with these scores, on inputs as the reference has them."""
    rows = len(scores)
    found = Window(rig.T0_MS, rig.T0_MS + 86_400_000, results_seen=rows)
    traffic = rig.traffic(seed=11, start_ms=rig.T0_MS, rows=rows, rows_a_day=rows)
    for score, (result, joined) in zip(scores.tolist(), traffic, strict=True):
        row, _ = rig.rows_of((result.model_copy(update={"score": score}), joined))
        found.results.append(row)
    return found


def test_scores_are_compared_with_those_of_held_out_rows(tmp_path: Path) -> None:
    """Of its training rows a model is surer: they would call a quiet window drifted, and miss one that is like them."""
    rig.write_model(tmp_path, "v1")
    surer = references.load(tmp_path, "m", "v1")
    dice = np.random.default_rng(1)
    hold_out(tmp_path, dice.beta(4, 8, 9_000))
    reference = references.load(tmp_path, "m", "v1")
    assert len(reference.score) == len(surer.score) == 3_000, "as many as there are training rows"
    assert set(reference.score) <= set(
        pq.read_table(tmp_path / "m/v1" / HOLDOUT_FILE)["score"].to_numpy()
    )
    quiet, moved = window(dice.beta(4, 8, 1_000)), window(dice.choice(surer.score, 1_000))
    kinds = [
        judge(w, r, frozenset(), rig.POLICY).kinds
        for w in (quiet, moved)
        for r in (reference, surer)
    ]
    drift = (AlertKind.PREDICTION_DRIFT,)
    assert kinds == [(), drift, drift, ()]


def test_a_version_of_before_is_compared_with_its_training_rows(tmp_path: Path) -> None:
    rig.write_model(tmp_path, "v1")
    alone = references.load(tmp_path, "m", "v1")
    pq.write_table(pa.table({"label": [True]}), tmp_path / "m" / "v1" / HOLDOUT_FILE)
    beside = references.load(tmp_path, "m", "v1")
    np.testing.assert_array_equal(alone.score, beside.score)


def test_held_out_rows_that_are_none_are_told(tmp_path: Path) -> None:
    rig.write_model(tmp_path, "v1")
    (tmp_path / "m" / "v1" / HOLDOUT_FILE).write_bytes(b"PAR1")
    with pytest.raises(MissingReference, match=r"the reference of m v1"):
        references.load(tmp_path, "m", "v1")
