"""What was found of one column: a value that verdicts, pages and commands share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ColumnDrift:
    """One column's verdict.

    Attributes:
        column: Its name.
        test: "ks", "chi2", or "none" where there was nothing to compare.
        statistic: KS D, or the total variation distance: the effect as well.
        p_value: Corrected for the number of columns.
        drifted: Both significant and large enough.
        note: What a reader should know: constant, empty, too few values, a new category, moved nulls.
        broken: It drifted because the window is constant at an unusual value, without values, or full of codes never seen.
    """

    column: str
    test: str
    statistic: float
    p_value: float
    drifted: bool
    note: str = ""
    broken: bool = False
