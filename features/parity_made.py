"""On-demand features that were served, against their function: what was served must follow from what was served beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from features.causes import CAUSES, equal
from features.on_demand import OnDemandView
from features.on_demand_function import Function
from features.parity_rows import numbers
from features.tiles import Floats


class Compared(NamedTuple):
    """One feature of every row: as served, as recomputed, and the cause of each difference."""

    served: Floats
    exact: Floats
    causes: np.ndarray


class MadeCheck:
    """One on-demand view's features.

    An unequal value has the cause of its unequal inputs, but only if the function makes of those what was served.
    """

    def __init__(
        self,
        view: OnDemandView,
        names: Sequence[str],
        served: pa.Table,
        inputs: Mapping[str, Compared],
        tolerance: float,
    ) -> None:
        self.view, self.names = view, names
        function, rows = Function(view), len(served)
        request = {name: served[name].to_pylist() for name in view.request}
        read = {one.full: inputs[one.full] for one in view.inputs}
        exact = function.evaluate({**{n: c.exact for n, c in read.items()}, **request}, rows)
        follows = function.evaluate({**{n: c.served for n, c in read.items()}, **request}, rows)
        self.served = {n: numbers(served, f"{view.name}__{n}") for n in names}
        self.exact = {n: exact[n] for n in names}
        inherited = _worst(list(read.values()), rows)
        self.causes = {
            n: np.where(
                equal(self.served[n], exact[n], tolerance),
                "equal",
                np.where(equal(self.served[n], follows[n], tolerance), inherited, "unexplained"),
            )
            for n in names
        }


def _worst(inputs: Sequence[Compared], rows: int) -> np.ndarray:
    """Of each row's inputs the last cause in the order of `CAUSES`; unexplained where all are equal."""
    if not inputs:
        return np.full(rows, "unexplained")
    ranks = np.array([[CAUSES.index(cause) for cause in one.causes] for one in inputs]).max(axis=0)
    return np.where(ranks == 0, "unexplained", np.array(CAUSES)[ranks])
