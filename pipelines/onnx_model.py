"""A fitted estimator as an ONNX model, and the proof that it still says the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType

from schemas.errors import HeadraceError

Matrix = NDArray[np.float32]
# Trees fitted and fed in float32 differ by 5e-7 at most; fitted in float64, or with `categorical_features`, by 0.09 and
# more, without any error. Between the two lies this bound.
DIFFERENCE_MAX = 1e-5
# The reference runtime is Python and takes a second for this many; the runtime that serves is tried on all of the
# reference rows at admission.
CHECKED_ROWS = 1_000


class ConversionRefused(HeadraceError):
    """The ONNX model does not say what the estimator says."""


class Classifier(Protocol):
    """What a use case's `train` returns: a fitted scikit-learn classifier of two classes."""

    def predict_proba(self, x: Matrix, /) -> NDArray[np.float64]:
        """[rows, 2]: the probability of either class."""

    def get_params(self) -> dict[str, Any]:
        """What it was made with."""


def convert(estimator: Classifier, inputs: int) -> onnx.ModelProto:
    """The estimator as ONNX: `input` float32 [rows, inputs] → `label`, `probabilities` [rows, 2].

    Raises:
        ConversionRefused: The converter does not know the estimator.
    """
    try:
        with _booleans_as_integers():
            return convert_sklearn(
                estimator,
                name="headrace",  # else random: the same model must have the same digest
                initial_types=[("input", FloatTensorType([None, inputs]))],
                options={id(estimator): {"zipmap": False}},
            )
    except Exception as error:  # noqa: BLE001 - the converter's errors share no base
        # The converter's own message quotes the model and may be 77,000 lines long: never pass it on.
        raise ConversionRefused(
            f"conversion of {type(estimator).__name__}",
            wanted="an ONNX model",
            came=f"{type(error).__name__}: {str(error)[:120]}",
            mend="Use an estimator that skl2onnx converts, such as HistGradientBoostingClassifier.",
        ) from None


def verify(model: onnx.ModelProto, estimator: Classifier, matrix: Matrix) -> float:
    """Compare both on rows that neither was fitted on; returns the greatest difference in probability.

    The model is run by ONNX's own reference implementation: independent of the estimator, and of the runtime
    that serves it.

    Raises:
        ConversionRefused: They differ by more than `DIFFERENCE_MAX` somewhere.
    """
    rows = matrix[:: max(1, len(matrix) // CHECKED_ROWS)]
    # The reference's sigmoid computes both of its halves everywhere, and overflows in the one that it does not take.
    with np.errstate(over="ignore"):
        scores = ReferenceEvaluator(model).run(["probabilities"], {"input": rows})[0]
    difference = float(np.abs(scores[:, 1] - estimator.predict_proba(rows)[:, 1]).max())
    if not difference <= DIFFERENCE_MAX:
        raise ConversionRefused(
            f"conversion of {type(estimator).__name__}",
            wanted=f"probabilities that differ by {DIFFERENCE_MAX} at most",
            came=f"they differ by {difference:.2g} on {len(rows)} rows",
            mend="Fit on float32, code categories as numbers instead of `categorical_features`, scale linearly.",
        )
    return difference


_ONE_AT_A_TIME = Lock()


@contextmanager
def _booleans_as_integers() -> Iterator[None]:
    """skl2onnx 1.20 passes booleans where ONNX has integers, which protobuf 7 refuses.

    Patches `onnx.helper` for the moment of a conversion, one at a time: two would each put back what the other still needs.
    """
    with _ONE_AT_A_TIME:
        original = helper.make_attribute

        def make_attribute(key: str, value: object, *args: Any, **named: Any) -> Any:  # noqa: ANN401
            return original(key, _plain(value), *args, **named)

        helper.make_attribute = make_attribute
        try:
            yield
        finally:
            helper.make_attribute = original


def _plain(value: object) -> object:
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, Sequence) and any(isinstance(v, bool | np.bool_) for v in value):
        return [int(v) for v in value]
    return value
