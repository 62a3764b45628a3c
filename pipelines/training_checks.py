"""Whether rows may carry a model: a training set against that of the champion.

A retraining is ordered because the data has moved, so only what no world does by itself is refused: hardly any rows, labels that
are suddenly all one way, inputs that are suddenly missing, most inputs in another place than ever. That is a broken source,
and a model fitted on it would be sound and wrong. A person may accept such rows (`headrace models train --accept-data`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog
from numpy.typing import NDArray
from scipy import stats

from pipelines.training_set import TrainingRefused, TrainingSet
from schemas import manifest, usecase
from schemas.manifest import REFERENCE_FILE, Manifest

DAY_MS = 86_400_000
NAMES_SHOWN = 5

Floats = NDArray[np.float64]

log = structlog.get_logger()


@dataclass(frozen=True)
class DataChecks:
    """What a use case bears from one training set to the next (`DATA_CHECKS` in `pipelines/<case>.py`).

    Attributes:
        rows_share_min: Of the last good set's rows a day, so many must be there.
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
    """The version whose rows are compared with, and a sample of them: input → values, NaN for null."""

    manifest: Manifest
    inputs: dict[str, Floats]

    @classmethod
    def of(
        cls,
        models_dir: Path,
        model: str,
        like: str | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> LastGood | None:
        """The champion's rows, by its version: what came after it may have been refused, or rolled back.

        Where `like` names none, or one that cannot be read, it is the newest version. Variants were not trained: it is
        their origin.

        Args:
            models_dir: Where versions lie.
            model: Whose.
            like: The champion.
            progress: Told where `like` cannot be read.

        Returns:
            None where no version has been trained yet.
        """
        known = {said.version: said for said in manifest.manifests(models_dir, model)}
        named = known.get(like or "")
        named = known.get(named.variant_of) if named and named.variant_of else named
        trained = [said for said in known.values() if said.variant_of is None]
        for said in ([named] if named else []) + trained:
            sample = _sample(models_dir / model / said.version, said.inputs)
            if sample is None:
                continue
            if like and said is not named:
                progress(
                    f"the rows of {like} cannot be read: those of {said.version} are what is compared with"
                )
            return cls(said, sample)
        return None


def _sample(folder: Path, inputs: Sequence[str]) -> dict[str, Floats] | None:
    try:
        table = pq.read_table(folder / REFERENCE_FILE)
        return {name: table[name].to_numpy().astype(np.float64) for name in inputs}
    except (OSError, pa.ArrowException, KeyError) as error:
        log.warning("training_checks.unreadable", folder=str(folder), error=str(error))
        return None


def checks_of(case: str) -> DataChecks:
    """What the use case declares, or the default."""
    declared: DataChecks = getattr(usecase.load("pipelines", case), "DATA_CHECKS", DataChecks())
    return declared


def refuse_unlike(training: TrainingSet, last: LastGood | None, checks: DataChecks) -> None:
    """Refuse rows that are unlike those of the last good version.

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
    daily = _daily(len(training.train), training.train.covered_ms)
    # A version of before counts fewer than it had, which is lenient.
    daily_then = _daily(then.rows, then.covered_ms or then.until_ms - then.since_ms)
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


def _daily(rows: int, covered_ms: int) -> float:
    """By the time that the rows cover: the held-out week and labels that come late would count against a short look back."""
    return rows / max(covered_ms, 1) * DAY_MS


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
