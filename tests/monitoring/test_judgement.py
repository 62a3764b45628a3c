from __future__ import annotations

from pathlib import Path

import pytest

from monitoring import reference as references
from monitoring.judgement import judge
from monitoring.reference import MissingReference, Reference
from monitoring.windows import Window
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


def test_moved_inputs_are_data_drift(reference: Reference) -> None:
    found = judge(window(shift=0.7), reference, CATEGORICAL, rig.POLICY)
    assert found.kinds == (AlertKind.DATA_DRIFT,)
    assert set(found.drifted) == set(rig.FEATURES[2:])


def test_scores_worth_less_are_concept_drift(reference: Reference) -> None:
    found = judge(window(spoiled=True), reference, CATEGORICAL, rig.POLICY)
    assert found.kinds == (AlertKind.CONCEPT_DRIFT,)


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
