"""The model's input matrix: request inputs first, then the service's features, in one fixed order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from schemas.inputs import RequestInput

F = TypeVar("F", np.float32, np.float64)


def input_names(inputs: Sequence[RequestInput], features: Sequence[str]) -> tuple[str, ...]:
    """The columns of the matrix, in order; `features` are full names (`view__feature`)."""
    return (*(i.name for i in inputs), *features)


def matrix(
    inputs: Sequence[RequestInput],
    columns: Mapping[str, Sequence[Any]],
    vectors: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Request columns and feature vectors side by side.

    Args:
        inputs: The request inputs of the use case.
        columns: Request field → one value per row.
        vectors: [rows × features], NaN where a feature has no value.

    Returns:
        [rows × (inputs + features)] in float32, the type models are trained on: trees trained on float64 and served on
        float32 differ by up to 0.09 in probability.
    """
    return _filled(np.float32, inputs, columns, vectors)


def exact(
    inputs: Sequence[RequestInput],
    columns: Mapping[str, Sequence[Any]],
    vectors: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The same, not rounded: what a result holds. Rounded, it is `matrix`."""
    return _filled(np.float64, inputs, columns, vectors)


def _filled(
    dtype: type[F],
    inputs: Sequence[RequestInput],
    columns: Mapping[str, Sequence[Any]],
    vectors: NDArray[np.float64],
) -> NDArray[F]:
    out = np.empty((vectors.shape[0], len(inputs) + vectors.shape[1]), dtype=dtype)
    for index, spec in enumerate(inputs):
        out[:, index] = [spec.encode(value) for value in columns[spec.name]]
    out[:, len(inputs) :] = vectors
    return out
