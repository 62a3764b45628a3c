"""The function of an on-demand view, run on a batch at once.

Every executor evaluates it here, so the values are the same: numbers come as float64, null as NaN (in mode "python" as
None), strings as str or None, and each row's value depends on that row alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import structlog

from features import on_demand_source
from features.on_demand import Kind, OnDemandView
from features.tiles import Floats
from schemas.errors import HeadraceError

# Of all rows of a batch, or None where a row has no value.
Column = Sequence[Any] | Floats

log = structlog.get_logger()


class FunctionChanged(HeadraceError):
    """The function in the module is not the one that was applied."""


class WrongOutput(HeadraceError):
    """A function gave something else than one number a row for each declared feature."""


class Function:
    """The function of a view, ready to run. `failed` counts rows that it could not compute."""

    def __init__(self, view: OnDemandView) -> None:
        """Take the function from its module's text.

        Raises:
            FunctionUnusable: It is not there any more.
            FunctionChanged: It is another than the plan's.
        """
        self.view = view
        self.failed = 0
        self._function, found = on_demand_source.load(view.module, view.function)
        if found.digest != view.digest:
            raise FunctionChanged(
                f"on-demand view {view.name}",
                wanted=f"the function that was applied ({view.digest})",
                came=f"{view.module}:{view.function} is {found.digest}",
                mend="Apply the definitions anew, and train a model on them.",
            )
        self._text = found.text
        shorts = [one.feature for one in view.inputs] + list(view.request)
        self._unique = {short for short in shorts if shorts.count(short) == 1}

    @property
    def text(self) -> str:
        """The function and what it uses, as it is run."""
        return self._text

    def evaluate(self, columns: Mapping[str, Column], rows: int) -> dict[str, Floats]:
        """The view's features, `[rows]` each.

        Where the function fails on the batch it is tried on each row alone, and a row that it fails on has no values.

        Args:
            columns: Inputs by their full names, and the request's fields by theirs.
            rows: How many rows there are.
        """
        try:
            return self.strict(columns, rows)
        # Whatever the author's code raises: one row must not take the others with it.
        except Exception as error:  # noqa: BLE001
            if rows == 1:
                self.failed += 1
                log.warning("on-demand view", view=self.view.name, error=repr(error)[:500])
                return {name: np.full(1, np.nan) for name in self.view.features}
        each = [
            self.evaluate({n: column[r : r + 1] for n, column in columns.items()}, 1)
            for r in range(rows)
        ]
        return {
            name: np.concatenate([one[name] for one in each]) if each else np.empty(0)
            for name in self.view.features
        }

    def strict(self, columns: Mapping[str, Column], rows: int) -> dict[str, Floats]:
        """`evaluate`, but whatever the function raises is the caller's.

        Raises:
            WrongOutput: A feature is missing, or has not one number a row.
        """
        if rows == 0:
            return {name: np.empty(0) for name in self.view.features}
        given: dict[str, Any] = {}
        for one in self.view.inputs:
            given[one.full] = self._column(columns[one.full], one.kind)
            if one.feature in self._unique:
                given[one.feature] = self._column(columns[one.full], one.kind)
        for name, kind in self.view.request.items():
            given[name] = self._column(columns[name], kind)
        made = self._function(pd.DataFrame(given) if self.view.mode == "pandas" else given)
        return {name: self._feature(made, name, rows) for name in self.view.features}

    def _column(self, values: Column, kind: Kind) -> Any:  # noqa: ANN401 - by mode and kind
        if kind == "string":
            strings = [v if isinstance(v, str) else None for v in values]
            return strings if self.view.mode == "python" else np.array(strings, dtype=object)
        numbers = numeric(values)
        if self.view.mode == "pandas":
            return numbers
        return [
            None if missing else v
            for v, missing in zip(numbers.tolist(), np.isnan(numbers), strict=True)
        ]

    def _feature(self, made: Any, name: str, rows: int) -> Floats:  # noqa: ANN401 - the author's
        try:
            values = numeric(made[name])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise self._wrong(name, rows, f"it gave {error!r}") from error
        if values.shape != (rows,):
            raise self._wrong(name, rows, f"it gave shape {values.shape}")
        return values

    def _wrong(self, name: str, rows: int, came: str) -> WrongOutput:
        return WrongOutput(
            f"on-demand view {self.view.name}, feature {name}",
            wanted=f"a column of that name with {rows} numbers",
            came=came,
        )


def numeric(values: Column) -> Floats:
    """Numbers as float64, a new array; null is NaN.

    Raises:
        TypeError, ValueError: Some value is no number.
    """
    if isinstance(values, np.ndarray) and values.dtype != object:
        return values.astype(np.float64)
    numbers = [np.nan if v is None or v is pd.NA else v for v in values]
    return np.array(numbers, dtype=np.float64)


def evaluate(
    functions: Sequence[Function], columns: Mapping[str, Column], rows: int
) -> dict[str, Floats]:
    """The features of several views by their full names."""
    made: dict[str, Floats] = {}
    for function in functions:
        values = function.evaluate(columns, rows)
        made |= {f"{function.view.name}__{name}": v for name, v in values.items()}
    return made
