"""Which fields of a request a model may see, and how they become numbers.

Categories are declared with the contract, not learnt by a model, so that a logged vector means the same to every
version and can be replayed by any.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import nan

UNKNOWN_CATEGORY = -1.0


@dataclass(frozen=True)
class RequestInput:
    """One field of the request as a model input.

    Attributes:
        name: The field of the request's contract.
        categories: The known values of a category, coded by position; None for a number.
    """

    name: str
    categories: tuple[str, ...] | None = None

    @cached_property
    def codes(self) -> dict[str, float]:
        """Category → code."""
        return {value: float(code) for code, value in enumerate(self.categories or ())}

    def encode(self, value: str | float | None) -> float:
        """The number the model sees: null is NaN, a category nobody declared is -1."""
        if value is None:
            return nan
        if isinstance(value, str):
            return self.codes.get(value, UNKNOWN_CATEGORY)
        return float(value)
