"""Where reports go, and how the outcome join keeps and bounds its tables."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class MonitoringSettings(BaseModel):
    """Folders and bounds of the monitoring workers.

    `unlabelled_keep_days` is how long, by event time, a result waits for its outcome (or an outcome for its result);
    `unlabelled_rows_max` bounds each of the join's partitions when event time stands still.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    reports_dir: str = ".headrace/reports"
    faust_dir: str = ".headrace/faust"
    unlabelled_keep_days: float = Field(default=7.0, gt=0)
    unlabelled_rows_max: int = Field(default=250_000, ge=1)
