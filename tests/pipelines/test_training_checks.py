from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines import training
from pipelines.training_checks import DataChecks, LastGood, checks_of, refuse_unlike
from pipelines.training_set import TrainingRefused, TrainingSet
from tests.pipelines import training_rows


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> LastGood:
    folder = tmp_path_factory.mktemp("models")
    assert LastGood.of(folder, "flights") is None
    training.build(training_rows.training_set(), folder)
    found = LastGood.of(folder, "flights")
    assert found is not None
    return found


def moved(*by: float) -> TrainingSet:
    made = training_rows.training_set(seed=9)
    return replace(
        made, train=replace(made.train, matrix=made.train.matrix + np.array(by, dtype=np.float32))
    )


def test_the_first_training_set_and_one_like_the_last_pass(last: LastGood) -> None:
    made = training_rows.training_set(seed=9)
    refuse_unlike(made, None, DataChecks())
    refuse_unlike(made, last, checks_of("flights"))


def test_inputs_that_moved_as_seasons_do_pass(last: LastGood) -> None:
    refuse_unlike(moved(1.0, 6.0), last, DataChecks())


def test_what_no_world_does_is_refused_with_every_reason(last: LastGood) -> None:
    made = moved(9.0, 9.0)
    few = made.train.where(np.arange(len(made.train)) % 10 == 0)
    few = replace(few, labels=np.arange(len(few)) % 20 == 0)
    few.matrix[: len(few) // 2, 1] = np.nan
    with pytest.raises(TrainingRefused) as refused:
        refuse_unlike(replace(made, train=few), last, DataChecks())
    told = str(refused.value)
    for part in (
        "30% of them are wanted",
        "5.00% positive labels",
        "view__mean is missing in 50% of the rows against 0%",
        "2 of 2 inputs are nowhere near where they were (scheduled_hour, view__mean)",
        "--accept-data",
    ):
        assert part in told, told


def test_an_input_that_the_last_did_not_have_is_not_compared(last: LastGood) -> None:
    renamed = replace(moved(9.0, 9.0), inputs=("other", "another"))
    refuse_unlike(renamed, last, DataChecks())


def test_rows_without_a_variant_are_the_last_good_ones(tmp_path: Path) -> None:
    training.build(training_rows.training_set(), tmp_path)
    training.build(training_rows.training_set(seed=5), tmp_path)
    found = LastGood.of(tmp_path, "flights")
    assert found is not None
    assert found.manifest.version == "v0002"
