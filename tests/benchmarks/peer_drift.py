"""Row g's peer in an environment of its own: NannyML's univariate drift, fitted before the clock starts."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

# It reports usage to its makers otherwise.
os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"

import nannyml  # type: ignore[import-not-found]  # the peers' environment has it
import pandas as pd

from tests.benchmarks.peers import serve

OPTIONS = json.loads(sys.argv[1])
FOLDER = Path(OPTIONS["folder"])
NUMBERS: list[str] = OPTIONS["numbers"]
CODES: list[str] = OPTIONS["codes"]
# By default D is estimated from 10,000 bins, which is another statistic. Version 0.13.1 looks for the way beside the method's
# name and not under it.
EXACT = {"kolmogorov_smirnov": {"calculation_method": "exact"}, "calculation_method": "exact"}


def calculator() -> nannyml.UnivariateDriftCalculator:
    """Fitted on the reference; a window is one chunk."""
    made = nannyml.UnivariateDriftCalculator(
        column_names=[*NUMBERS, *CODES],
        continuous_methods=["kolmogorov_smirnov"],
        categorical_methods=["chi2"],
        treat_as_categorical=CODES,
        chunk_number=1,
        computation_params=EXACT,
    )
    made.fit(pd.read_parquet(FOLDER / "reference.parquet"))
    return made


if __name__ == "__main__":
    fitted, window = calculator(), pd.read_parquet(FOLDER / "window.parquet")

    def statistics() -> dict[str, float]:
        """D, or chi-squared itself, by column."""
        found = fitted.calculate(window).filter(period="analysis").to_df()
        named = dict.fromkeys(NUMBERS, "kolmogorov_smirnov") | dict.fromkeys(CODES, "chi2")
        return {name: float(found[name, of, "value"].iloc[0]) for name, of in named.items()}

    serve(
        {"nannyml": lambda: fitted.calculate(window)},
        {"statistics": statistics, "versions": lambda: {"nannyml": version("nannyml")}},
    )
