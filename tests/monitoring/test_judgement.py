from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitoring import reference as references
from monitoring.accuracy import accuracy
from monitoring.judgement import Outcomes, concept_drifted, judge
from monitoring.reference import MissingReference, Reference
from monitoring.windows import ResultRow, Window
from schemas.control import AlertKind
from tests.monitoring import rig

CATEGORICAL = frozenset({"origin"})


@pytest.fixture
def reference(tmp_path: Path) -> Reference:
    rig.write_model(tmp_path, "v1")
    return references.load(tmp_path, "m", "v1")


def window(*, rows: int = 1_500, shift: float = 0.0, spoiled: bool = False) -> Window:
    found = Window(rig.T0_MS, rig.T0_MS + 86_400_000)
    for pair in rig.traffic(seed=11, start_ms=rig.T0_MS, rows=rows, rows_a_day=rows, shift=shift):
        result, joined = rig.rows_of(pair)
        found.results.append(result)
        found.results_seen += 1
        if spoiled:
            joined = type(joined)(
                **{f: getattr(joined, f) for f in joined.__struct_fields__}
                | {"late": not joined.late}
            )
        found.joined[joined.request_id] = joined
    return found


def test_a_quiet_window(reference: Reference) -> None:
    found = judge(window(), reference, CATEGORICAL, rig.POLICY)
    assert (found.kinds, found.drifted, found.note) == ((), (), "")
    assert found.live.rows == 1_500
    assert found.live.auc == pytest.approx(0.76, abs=0.04)


def test_an_empty_window_is_told_and_alarms_nobody(reference: Reference) -> None:
    nothing = judge(Window(0, 1), reference, CATEGORICAL, rig.POLICY)
    assert (nothing.rows, nothing.kinds, nothing.columns) == (0, (), ())
    assert nothing.said == "0 of 200 rows; 0 of 200 outcomes of v1"
    unscored = window()
    unscored.results = [
        ResultRow(**vars_of(row) | {"features": {}, "score": None, "status": "expired"})
        for row in unscored.results
    ]
    unscored.joined = {}
    found = judge(unscored, reference, CATEGORICAL, rig.POLICY)
    assert (found.rows, found.kinds, found.said) == (1_500, (), nothing.said)


def test_moved_inputs_are_data_drift(reference: Reference) -> None:
    found = judge(window(shift=0.7), reference, CATEGORICAL, rig.POLICY)
    assert found.kinds == (AlertKind.DATA_DRIFT,)
    assert set(found.drifted) == set(rig.FEATURES[2:])


def test_scores_worth_less_are_concept_drift(reference: Reference) -> None:
    found = judge(window(spoiled=True), reference, CATEGORICAL, rig.POLICY)
    assert found.kinds == (AlertKind.CONCEPT_DRIFT,)


def test_broken_inputs_hold_a_retraining_back_and_name_what_broke(reference: Reference) -> None:
    found = window()
    found.results = [
        ResultRow(**vars_of(row) | {"features": {**row.features, "weather__wind": 1.0}})
        for row in found.results
    ]
    assert rig.POLICY.drift.columns_min > 1, "one broken input is enough"
    judged = judge(found, reference, CATEGORICAL, rig.POLICY)
    assert judged.kinds == (AlertKind.DATA_DRIFT,)
    assert judged.held_back_by == "broken inputs: weather__wind (constant in the window)"
    assert judged.said == judged.held_back_by
    assert judge(window(shift=0.7), reference, CATEGORICAL, rig.POLICY).held_back_by is None


def vars_of(row: ResultRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__struct_fields__}


def outcomes_of_few(seed: int) -> Outcomes:
    """Forty cards that pay fifty times each; what a model does not know of a card is the same every time."""
    dice = np.random.default_rng(seed)
    of = np.repeat(np.arange(40), 50)
    known, unknown = dice.normal(-1, 1, 2_000), dice.normal(0, 1.0, 40)[of]
    labels = (dice.random(2_000) < 1 / (1 + np.exp(-known - unknown))).astype(np.float64)
    return Outcomes(1 / (1 + np.exp(-known)), labels, of.astype(str).tolist())


def test_rows_of_one_entity_do_not_pass_for_many(reference: Reference) -> None:
    """The same model on other cards of the same kind. With rows taken one by one, 25 of 200 windows were alarmed; 4 are allowed."""
    drift = replace(rig.POLICY.drift, auc_drop_min=0.0, log_loss_rise_min=0.0)
    policy = replace(rig.POLICY, drift=drift)
    every = [outcomes_of_few(seed) for seed in range(200)]
    worth = [accuracy(one.scores, one.labels) for one in every]
    true = replace(
        reference,
        auc=float(np.mean([one.auc for one in worth if one.auc is not None])),
        log_loss=float(np.mean([one.log_loss for one in worth if one.log_loss is not None])),
        rows=10**6,
    )
    alarms = sum(concept_drifted(one, true, policy) for one in every)
    rows_apart = [one._replace(entities=[str(i) for i in range(2_000)]) for one in every]
    # Binomial(200, 0.02): more than 11 has a chance below 1e-3.
    assert alarms <= 11
    assert sum(concept_drifted(one, true, policy) for one in rows_apart) >= 2 * alarms


def test_few_rows_are_noted_and_not_judged(reference: Reference) -> None:
    found = judge(window(rows=50, shift=3.0), reference, CATEGORICAL, rig.POLICY)
    assert found.kinds == ()
    assert found.note == "50 of 200 rows; 50 of 200 outcomes of v1"


def test_another_versions_scores_are_not_the_champions(reference: Reference) -> None:
    found = window()
    found.results = [r for r in found.results if r.version == "v2"]
    assert judge(found, reference, CATEGORICAL, rig.POLICY).columns == ()


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingReference, match="Restore it, or release another version"):
        references.load(tmp_path, "m", "v9")
