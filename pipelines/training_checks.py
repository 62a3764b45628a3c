"""Whether rows may carry a model: a training set against the last one that did.

A retraining is ordered because the data has moved, so only what no world does by itself is refused: hardly any rows, labels that
are suddenly all one way, inputs that are suddenly missing, most inputs in another place than ever. That is a broken source,
and a model fitted on it would be sound and wrong. A person may accept such rows (`headrace models train --accept-data`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import stats

from pipelines.training_set import TrainingRefused, TrainingSet
from schemas import manifest, usecase
from schemas.manifest import REFERENCE_FILE, Manifest

DAY_MS = 86_400_000
NAMES_SHOWN = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DataChecks:
    """What a use case bears from one training set to the next (`DATA_CHECKS` in `pipelines/<case>.py`).

    Attributes:
        rows_share_min: Of the last set's rows a day, so many must be there.
        label_rate_factor_max: So many times rarer or more frequent the label may have become.
        null_rise_max: The share of missing values of one input may rise by so much.
        distance_max: Two samples of an input lie apart where their Kolmogorov-Smirnov distance is above this.
        apart_share_max: So many of the inputs may lie apart: seasons move some, a wrong unit or join moves most.
    """

    rows_share_min: float = 0.3
    label_rate_factor_max: float = 4.0
    null_rise_max: float = 0.3
    distance_max: float = 0.9
    apart_share_max: float = 0.5


@dataclass(frozen=True)
class LastGood:
    """The newest version that passed, and a sample of its rows: input → values, NaN for null."""

    manifest: Manifest
    inputs: dict[str, Floats]

    @classmethod
    def of(cls, models_dir: Path, model: str) -> LastGood | None:
        """None where no version has been trained yet. Variants were not trained."""
        for version in reversed(manifest.versions(models_dir, model)):
            folder = models_dir / model / version
            described = Manifest.read(folder)
            if described.variant_of is None:
                table = pq.read_table(folder / REFERENCE_FILE)
                sample = {n: table[n].to_numpy().astype(np.float64) for n in described.inputs}
                return cls(described, sample)
        return None


def checks_of(case: str) -> DataChecks:
    """What the use case declares, or the default."""
    declared: DataChecks = getattr(usecase.load("pipelines", case), "DATA_CHECKS", DataChecks())
    return declared


def refuse_unlike(training: TrainingSet, last: LastGood | None, checks: DataChecks) -> None:
    """Refuse rows that are unlike the last that a version was trained on.

    Raises:
        TrainingRefused: With every check that failed, its bound and what came.
    """
    if last is None:
        return
    complaints = [*_rows(training, last, checks), *_inputs(training, last, checks)]
    if complaints:
        raise TrainingRefused(
            f"training set of {training.case}",
            wanted=f"rows like those of {last.manifest.version}",
            came="; ".join(complaints),
            mend="Look at the sources. If the world is like that now: `headrace models train --accept-data`.",
        )


def _rows(training: TrainingSet, last: LastGood, checks: DataChecks) -> Iterator[str]:
    then = last.manifest.trained
    daily = len(training.train) / (training.until_ms - training.since_ms) * DAY_MS
    daily_then = then.rows / (then.until_ms - then.since_ms) * DAY_MS
    if daily < checks.rows_share_min * daily_then:
        yield (
            f"{daily:,.0f} rows a day against {daily_then:,.0f}; "
            f"{checks.rows_share_min:.0%} of them are wanted"
        )
    rate, rate_then = training.train.label_rate, then.label_rate
    if max(rate / rate_then, rate_then / rate) > checks.label_rate_factor_max:
        yield (
            f"{rate:.2%} positive labels against {rate_then:.2%}; "
            f"a factor of {checks.label_rate_factor_max:g} is borne"
        )


def _inputs(training: TrainingSet, last: LastGood, checks: DataChecks) -> Iterator[str]:
    apart, compared = [], 0
    for index, name in enumerate(training.inputs):
        if name not in last.inputs:
            continue
        values, values_then = training.train.matrix[:, index], last.inputs[name]
        lost, lost_then = np.isnan(values).mean(), np.isnan(values_then).mean()
        if lost - lost_then > checks.null_rise_max:
            yield f"{name} is missing in {lost:.0%} of the rows against {lost_then:.0%}"
        known, known_then = values[~np.isnan(values)], values_then[~np.isnan(values_then)]
        if len(known) and len(known_then):
            compared += 1
            distance = stats.ks_2samp(known, known_then, method="asymp").statistic
            apart += [name] if distance > checks.distance_max else []
    if len(apart) > checks.apart_share_max * compared:
        shown = ", ".join(apart[:NAMES_SHOWN]) + (" …" if len(apart) > NAMES_SHOWN else "")
        yield f"{len(apart)} of {compared} inputs are nowhere near where they were ({shown})"
