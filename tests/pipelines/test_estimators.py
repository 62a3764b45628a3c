from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

from pipelines.estimators import BadEstimators, UnknownEstimator, default, estimator, estimators

CASE = "fitting"


def _train(matrix: Any, labels: Any) -> Any:
    return "fitted"


def _other(matrix: Any, labels: Any) -> Any:
    return "fitted otherwise"


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """`pipelines.fitting`, which has a `train` and nothing else."""
    made = ModuleType(f"pipelines.{CASE}")
    made.__spec__ = ModuleSpec(made.__name__, loader=None)
    made.train = _train  # type: ignore[attr-defined]
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


def test_who_has_only_train_has_one_estimator(module: ModuleType) -> None:
    assert estimators(CASE) == {"default": _train}
    assert estimator(CASE, None) == ("default", _train)


def test_the_default_is_the_one_that_train_is(module: ModuleType) -> None:
    vars(module).update(ESTIMATORS={"other": _other, "plain": _train})
    assert default(CASE) == "plain"
    assert estimator(CASE, None) == ("plain", _train)
    assert estimator(CASE, "other") == ("other", _other)


def test_an_unknown_name_is_refused_with_those_there_are(module: ModuleType) -> None:
    vars(module).update(ESTIMATORS={"other": _other, "plain": _train})
    with pytest.raises(UnknownEstimator, match="one of other, plain, but 'forest'"):
        estimator(CASE, "forest")


@pytest.mark.parametrize("given", [{"other": _other}, {"": _train}, {"plain": 3}, (_train,)])
def test_what_cannot_be_meant_is_refused(module: ModuleType, given: Any) -> None:
    vars(module).update(ESTIMATORS=given)
    with pytest.raises(BadEstimators, match="wanted"):
        estimators(CASE)
