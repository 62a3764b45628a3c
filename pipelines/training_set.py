"""A training set that cannot see the future.

Features are as of the request (`features.batch`), and a row is there only if its outcome had happened by `until_ms`.
The latest requests are held out, and a row whose outcome came after the first of them is in neither part, for whoever
trained then could not have known it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from features import served
from features.answers import first
from features.batch import features_as_of
from features.inputs import input_names, matrix
from features.lake import Lake
from schemas import topics, usecase
from schemas.errors import HeadraceError

if TYPE_CHECKING:
    from features.settings import StoreSettings
    from features.views import Plan
    from pipelines.onnx_model import Matrix

DAY_S = 86_400
HOLDOUT_S = 7 * DAY_S
# Below these a metric is noise: the AUC of 500 rows has a standard error of about 0.03.
ROWS_MIN = 2_000
HOLDOUT_ROWS_MIN = 500

Labels = NDArray[np.bool_]
Times = NDArray[np.int64]


class TrainingRefused(HeadraceError):
    """The data cannot carry a model, or the version could not be put in its place."""


@dataclass(frozen=True)
class Rows:
    """Labelled rows in the order of their requests.

    Attributes:
        matrix: float32 [rows, inputs], as the model sees them when serving.
        labels: [rows] the outcome.
        event_time_ms: [rows] when the request was.
        request_ids: [rows].
    """

    matrix: Matrix
    labels: Labels
    event_time_ms: Times
    request_ids: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: NDArray[np.bool_]) -> Rows:
        """The rows that a mask chooses."""
        return Rows(
            self.matrix[chosen],
            self.labels[chosen],
            self.event_time_ms[chosen],
            self.request_ids[chosen],
        )

    @property
    def covered_ms(self) -> int:
        """From the first row to the last."""
        return int(self.event_time_ms[-1] - self.event_time_ms[0])

    @property
    def label_rate(self) -> float:
        """The share of positive labels; NaN without rows."""
        return float(self.labels.mean()) if len(self) else float("nan")


@dataclass(frozen=True)
class TrainingSet:
    """What a version is fitted on and judged by, and where it came from."""

    case: str
    service: str
    inputs: tuple[str, ...]
    train: Rows
    holdout: Rows
    since_ms: int
    until_ms: int
    definitions: Mapping[str, str]
    snapshots: Mapping[str, int]


def training_set(
    case: str,
    plan: Plan,
    stores: StoreSettings,
    since_ms: int,
    until_ms: int,
    holdout_s: int = HOLDOUT_S,
    reading: Callable[[Mapping[str, int]], None] = lambda _: None,
) -> TrainingSet:
    """Requests of `[since_ms, until_ms)` whose outcome had happened by `until_ms`, with the features they were due.

    Reads one snapshot of each table and records which; `reading` is told before. Two months of flights take about five
    seconds on one core.

    Raises:
        TrainingRefused: Too few rows, or labels of one class only.
    """
    lake = Lake(stores)
    module = usecase.load("schemas", case)
    tables = [view.table for view in plan.service_views(module.SERVICE)]
    tables += [view.table for view in plan.service_row_views(module.SERVICE)]
    snapshots = _snapshots(lake, case, tables)
    reading(snapshots)
    labelled = _labelled(lake, case, snapshots, since_ms, until_ms)
    if labelled.empty:
        raise _thin(case, "to train on", ROWS_MIN, "there are none")
    read = (*plan.entity_columns(module.SERVICE), *plan.request_columns(module.SERVICE))
    needed = list(dict.fromkeys([*read, "event_time_ms"]))
    entities = pa.Table.from_pandas(labelled[needed], preserve_index=False)
    vectors = features_as_of(plan, module.SERVICE, lake, entities, snapshots=snapshots)
    names = plan.service(module.SERVICE).names
    rows = _rows(module, labelled, _matrix(vectors, names))
    train, holdout = split(rows, labelled["outcome_ms"].to_numpy(dtype=np.int64), holdout_s)
    _refuse_thin(case, "to train on", train, ROWS_MIN)
    _refuse_thin(case, "held out", holdout, HOLDOUT_ROWS_MIN)
    return TrainingSet(
        case=case,
        service=module.SERVICE,
        inputs=input_names(module.INPUTS, names),
        train=train,
        holdout=holdout,
        since_ms=since_ms,
        until_ms=until_ms,
        definitions=plan.definitions(module.SERVICE),
        snapshots=snapshots,
    )


def span_ms(case: str, stores: StoreSettings) -> tuple[int, int] | None:
    """From the first request in the lake to just after the last request or outcome; None where there is no request."""
    lake = Lake(stores)
    asked, known = (_span_ms(lake, case, stream) for stream in ("requests", "outcomes"))
    if asked is None:
        return None
    return asked[0], max(asked[1], (known or asked)[1]) + 1


def _span_ms(lake: Lake, case: str, stream: str) -> tuple[int, int] | None:
    return served.span_ms(lake, case, stream) if lake.exists(_table(case, stream)) else None


def _table(case: str, stream: str) -> str:
    return topics.table_of(case)[f"{case}.{stream}"].table


def _snapshots(lake: Lake, case: str, tables: list[str]) -> dict[str, int]:
    """The snapshot of each table as the reading begins; a table without one is empty."""
    needed = sorted({_table(case, "requests"), _table(case, "outcomes"), *tables})
    return {table: held for table in needed if (held := lake.snapshot_id(table)) is not None}


def _labelled(
    lake: Lake, case: str, snapshots: Mapping[str, int], since_ms: int, until_ms: int
) -> pd.DataFrame:
    """Requests with `label` and `outcome_ms`, in the order of their time."""

    def read(stream: str) -> pd.DataFrame:
        table = _table(case, stream)
        rows = lake.scan(
            table, snapshot_id=snapshots.get(table), since_ms=since_ms, until_ms=until_ms
        )
        # A producer that retried, or changed its mind, left a request or its outcome twice; the first one counts.
        once: pd.DataFrame = first(rows).to_pandas()
        return once.sort_values(["event_time_ms", "request_id"], kind="stable")

    outcomes = read("outcomes")[["request_id", "late", "event_time_ms"]]
    known = outcomes.rename(columns={"late": "label", "event_time_ms": "outcome_ms"})
    return read("requests").merge(known, on="request_id", how="inner")


def _matrix(vectors: pa.Table, names: tuple[str, ...]) -> NDArray[np.float64]:
    """[rows, features]; without columns where a use case has no feature but what its requests say."""
    columns = [vectors[name].to_numpy() for name in names]
    return np.column_stack(columns) if columns else np.empty((len(vectors), 0))


def _rows(module: ModuleType, labelled: pd.DataFrame, vectors: NDArray[np.float64]) -> Rows:
    # pandas writes a missing string as NaN, which is a number to whoever codes categories.
    columns = {
        spec.name: list(labelled[spec.name].astype(object).where(labelled[spec.name].notna(), None))
        for spec in module.INPUTS
    }
    return Rows(
        matrix(module.INPUTS, columns, vectors),
        labelled["label"].to_numpy(dtype=np.bool_),
        labelled["event_time_ms"].to_numpy(dtype=np.int64),
        labelled["request_id"].to_numpy(dtype=object),
    )


def split(rows: Rows, outcome_ms: Times, holdout_s: int) -> tuple[Rows, Rows]:
    """What is fitted, and what is held out."""
    # By the last row, not by the end of the interval, which may lie beyond what has been received.
    holdout_from_ms = int(rows.event_time_ms.max()) + 1 - holdout_s * 1000
    held = rows.event_time_ms >= holdout_from_ms
    return rows.where(~held & (outcome_ms < holdout_from_ms)), rows.where(held)


def _refuse_thin(case: str, part: str, rows: Rows, least: int) -> None:
    if len(rows) < least or not 0 < rows.label_rate < 1:
        came = f"there are {len(rows):,}, {rows.label_rate:.1%} of them positive"
        raise _thin(case, part, least, came)


def _thin(case: str, part: str, least: int, came: str) -> TrainingRefused:
    return TrainingRefused(
        f"training set of {case}, rows {part}",
        wanted=f"at least {least:,} labelled rows of both classes",
        came=came,
        mend="Widen the interval, or wait for more outcomes.",
    )
