"""Row g: drift of 50 columns, 40 of numbers and 10 of codes, a window as large as its reference.

Ours is `compare` against a kept reference: both tests of each column (values and nulls), Holm's correction, verdicts. The limit
is one sort a column of numbers and one bincount a column of codes. Peers: Evidently's preset with the same two tests, which also makes
its plots; a loop of scipy; NannyML, fitted beforehand, which makes statistics only. Every peer's score must equal ours to
1e-9, like with like: Evidently's chi-squared takes the reference for the truth, NannyML's is the statistic itself.

10,001 rows and not 10,000, because up to there scipy, and by it Evidently and NannyML, takes the exact null distribution of
Kolmogorov-Smirnov, and ours is the asymptotic one at any size. At a million rows peers run once.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from monitoring.drift import Thresholds, compare
from monitoring.ks_distribution import ks_p_values
from monitoring.two_samples import (
    Sample,
    counted,
    fit_p,
    homogeneity_p,
    ks_statistic,
    table_of,
    total_variation,
)
from tests.benchmarks.contenders import REPEATS, Contender, measured, race, record, row
from tests.benchmarks.peers import Peer

if TYPE_CHECKING:
    from pathlib import Path

Floats = NDArray[np.float64]
Columns = dict[str, Floats]

SMALL = os.environ.get("BENCH") == "small"
SIZES = (10_001, 100_000) if SMALL else (10_001, 1_000_000)
# Above it a peer takes half a minute or more a run.
ROWS_OF_REPEATS_MAX = 50_000
NUMBERS, CODES = [f"n{i}" for i in range(40)], [f"c{i}" for i in range(10)]
CATEGORIES = 8
NEAR = 1e-9
THRESHOLDS = Thresholds(alpha=0.01, effect_min=0.1)


class Raw(NamedTuple):
    """What is said of a column before any correction; the statistic is D where it is one of numbers."""

    statistic: float
    p_value: float


def columns(rows: int, seed: int) -> Columns:
    """Smooth, skewed and tied numbers; codes. On the second side every fourth column has moved, by as much as is just seen."""
    dice = np.random.default_rng(seed)
    moved = 3 / np.sqrt(rows) if seed else 0.0
    made: Columns = {}
    for index, name in enumerate(NUMBERS):
        values = dice.normal(moved * (index % 4 == 0), 1, rows)
        kinds: tuple[Floats, ...] = (values, np.exp(values), np.round(values * 4))
        made[name] = kinds[index % 3]
    for index, name in enumerate(CODES):
        shares: Floats = np.full(CATEGORIES, 1 / CATEGORIES)
        shares[0] += moved * (index % 4 == 0) / 4
        drawn = dice.choice(CATEGORIES, rows, p=shares / shares.sum())
        made[name] = drawn.astype(np.float64)
    return made


def ours(kept: dict[str, Sample], window: Columns) -> Contender:
    return lambda: compare(kept, window, categorical=frozenset(CODES), thresholds=THRESHOLDS)


def limit(window: Columns) -> Contender:
    numbers = [window[name] for name in NUMBERS]
    codes = [window[name].astype(np.int64) for name in CODES]

    def sorted_and_counted() -> None:
        for values in numbers:
            np.sort(values)
        for counted_codes in codes:
            np.bincount(counted_codes)

    return sorted_and_counted


def by_scipy(reference: Columns, window: Columns) -> dict[str, Raw]:
    """The loop that one would write."""
    found = {}
    for name in NUMBERS:
        answer = stats.ks_2samp(reference[name], window[name], method="asymp")
        found[name] = Raw(float(answer.statistic), float(answer.pvalue))
    for name in CODES:
        codes, inverse = np.unique(
            np.concatenate([reference[name], window[name]]), return_inverse=True
        )
        sides = inverse[: len(reference[name])], inverse[len(reference[name]) :]
        table = np.stack([np.bincount(side, minlength=len(codes)) for side in sides])
        answer = stats.chi2_contingency(table, correction=False)
        found[name] = Raw(float(answer.statistic), float(answer.pvalue))
    return found


def by_kernel(kept: dict[str, Sample], window: Columns) -> dict[str, Raw]:
    found = {}
    for name in NUMBERS:
        side = Sample(window[name]).ordered
        statistic = ks_statistic(kept[name].ordered, side)
        sizes = (np.array([n]) for n in (len(kept[name].ordered), len(side)))
        found[name] = Raw(statistic, float(ks_p_values(np.array([statistic]), *sizes)[0]))
    for name in CODES:
        _, table = table_of(kept[name].category, counted(window[name]))
        p_value = homogeneity_p(table)
        found[name] = Raw(total_variation(table), p_value)
    return found


def evidently(reference: Columns, window: Columns) -> Callable[[], Any]:
    """Its preset with our two tests; columns of codes are integers, which it counts faster than strings."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report  # noqa: PLC0415
        from evidently.presets import DataDriftPreset  # noqa: PLC0415
    definition = DataDefinition(numerical_columns=NUMBERS, categorical_columns=CODES)
    sides = [
        Dataset.from_pandas(frame(side), data_definition=definition) for side in (window, reference)
    ]

    def run() -> Any:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            preset = DataDriftPreset(num_method="ks", cat_method="chisquare")
            return Report([preset]).run(*sides)

    return run


def frame(side: Columns) -> pd.DataFrame:
    return pd.DataFrame(side).astype(dict.fromkeys(CODES, np.int64))


def evidently_scores(snapshot: Any) -> dict[str, float]:
    """Of its `ValueDrift` metrics: p-values by column."""
    return {
        metric["config"]["column"]: float(metric["value"])
        for metric in snapshot.dict()["metrics"]
        if "column" in metric.get("config", {})
    }


def same(
    found: dict[str, Raw], kept: dict[str, Sample], window: Columns, reference: Columns
) -> None:
    """Ours, scipy's and what `compare` makes of it."""
    theirs = by_scipy(reference, window)
    for name, one in found.items():
        assert one.p_value == pytest.approx(theirs[name].p_value, abs=NEAR), name
    for name in NUMBERS:
        assert found[name].statistic == pytest.approx(theirs[name].statistic, abs=NEAR), name
    verdicts = compare(kept, window, categorical=frozenset(CODES), thresholds=THRESHOLDS)
    effects = {verdict.column: verdict.statistic for verdict in verdicts}
    assert {name: effects[name] for name in NUMBERS} == {
        name: found[name].statistic for name in NUMBERS
    }


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("rows", SIZES)
def test_bench_drift(rows: int, tmp_path: Path) -> None:
    reference, window = columns(rows, 0), columns(rows, 1)
    kept = {name: Sample(values) for name, values in reference.items()}
    for name, sample in kept.items():
        assert len(sample.category.codes if name in CODES else sample.ordered)
    found = by_kernel(kept, window)
    same(found, kept, window, reference)

    preset = evidently(reference, window)
    scores = evidently_scores(preset())
    for name in NUMBERS:
        assert scores[name] == pytest.approx(found[name].p_value, abs=NEAR), name
    for name in CODES:
        _, table = table_of(kept[name].category, counted(window[name]))
        assert scores[name] == pytest.approx(fit_p(table), abs=NEAR), name

    for name, side in (("reference", reference), ("window", window)):
        frame(side).to_parquet(tmp_path / f"{name}.parquet")
    with Peer("peer_drift", folder=str(tmp_path), numbers=NUMBERS, codes=CODES) as peer:
        theirs = peer.ask("statistics")
        for name in NUMBERS:
            assert theirs[name] == pytest.approx(found[name].statistic, abs=NEAR), name
        for name in CODES:
            p_value = float(stats.chi2.sf(theirs[name], CATEGORIES - 1))
            assert p_value == pytest.approx(found[name].p_value, abs=NEAR), name
        mine: dict[str, Contender] = {"ours": ours(kept, window), "limit": limit(window)}
        others: dict[str, Contender] = {
            "evidently": preset,
            "scipy": lambda: by_scipy(reference, window),
            "nannyml": peer.contender("nannyml"),
        }
        versions = peer.ask("versions")
        if rows <= ROWS_OF_REPEATS_MAX:
            runs, note = race(mine | others, 2 if SMALL else REPEATS), ""
        else:
            runs, note = race(mine), "the peers ran once, after the run that was compared"
            runs |= {name: [measured(work)] * REPEATS for name, work in others.items()}
    packages = ("evidently", "scipy", "numpy")
    versions |= {name: version(name) for name in packages}
    record(row("g", f"drift, 50 columns x {rows:,} rows", runs, versions, note))
