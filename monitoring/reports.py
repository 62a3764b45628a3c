"""Evidently's report of one window, and its workspace of all: the only file that knows its interface (0.7).

Evidently explains; it does not decide. It takes the same tests, but its p-values are not corrected for the number of columns,
so verdicts come from `monitoring.drift`, and this page shows the shapes behind them. The workspace holds the same reports
for Evidently's own pages: `python -m monitoring.reports <workspace> <port>` serves it on loopback.
"""

from __future__ import annotations

import os
import queue
import secrets
import sys
import threading
import warnings
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import structlog
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd
    from evidently.core.report import Snapshot
    from evidently.ui.workspace import Workspace

DO_NOT_TRACK = "DO_NOT_TRACK"
ROWS_MAX = 5_000
WORKSPACE = "evidently"
LOOPBACK = "127.0.0.1"
# A page is wanted within the minute; events are wanted now.
NICENESS = 15

log = structlog.get_logger()


@dataclass(frozen=True)
class ReportTask:
    """What one page shows. Columns hold NaN for null; the score is a column like any other.

    Where a `workspace` is given, the report goes into its `project` too, dated by the window's start.
    """

    path: Path
    reference: dict[str, NDArray[np.float64]]
    window: dict[str, NDArray[np.float64]]
    categorical: AbstractSet[str]
    seed: int
    workspace: Path | None = None
    project: str = ""
    start_ms: int = 0


class Workspaces:
    """Evidently's workspaces, each opened once: opening one parses every report that was ever put into it."""

    def __init__(self) -> None:
        self._held: dict[Path, Workspace] = {}

    def keep(self, workspace: Path, project: str, snapshot: Snapshot) -> None:
        """Put a report into a project, which is made if there is none of that name."""
        from evidently.ui.workspace import Workspace  # noqa: PLC0415

        if workspace not in self._held:
            self._held[workspace] = Workspace.create(str(workspace))
        held = self._held[workspace]
        found = held.search_project(project)
        held.add_run((found[0] if found else held.create_project(project)).id, snapshot)


def write(task: ReportTask, workspaces: Workspaces) -> None:
    """Write the page of one window, whole or not at all. The first call imports Evidently (8 s)."""
    with warnings.catch_warnings():
        # Its use of NumPy's and pandas' old names is Evidently's business, even where warnings are errors.
        warnings.simplefilter("ignore")
        _write(task, workspaces)


def _write(task: ReportTask, workspaces: Workspaces) -> None:
    # Evidently reports usage to its makers unless this is set before it is imported.
    os.environ.setdefault(DO_NOT_TRACK, "1")
    from evidently import DataDefinition, Dataset, Report  # noqa: PLC0415
    from evidently.presets import DataDriftPreset  # noqa: PLC0415

    columns = [
        name
        for name in task.reference
        if name in task.window
        # A column without a single value has no shape to show, and Evidently stops at it.
        and not (np.isnan(task.reference[name]).all() or np.isnan(task.window[name]).all())
    ]
    definition = DataDefinition(
        numerical_columns=[c for c in columns if c not in task.categorical],
        categorical_columns=[c for c in columns if c in task.categorical],
    )
    generator = np.random.default_rng(task.seed)
    sides = [
        Dataset.from_pandas(
            _frame(side, columns, task.categorical, generator), data_definition=definition
        )
        for side in (task.window, task.reference)
    ]
    preset = DataDriftPreset(columns=columns, num_method="ks", cat_method="chisquare")
    at = datetime.fromtimestamp(task.start_ms / 1000, UTC)
    snapshot = Report([preset]).run(*sides, timestamp=at, name=f"{at:%Y-%m-%d %H:%M}")
    # A window that is judged again is in the workspace already.
    if task.workspace is not None and not task.path.exists():
        workspaces.keep(task.workspace, task.project, snapshot)
    task.path.parent.mkdir(parents=True, exist_ok=True)
    draft = task.path.with_suffix(".draft")
    snapshot.save_html(str(draft))
    draft.replace(task.path)


def serve(workspace: Path, port: int) -> None:
    """Evidently's own pages of a workspace, on loopback, until the process ends.

    They answer whoever can reach the port, and `EVIDENTLY_SECRET` guards writes only; where it is not set, nobody may write.
    """
    os.environ.setdefault(DO_NOT_TRACK, "1")
    from evidently.ui.service.app import run_local  # noqa: PLC0415

    secret = os.environ.get("EVIDENTLY_SECRET") or secrets.token_urlsafe()
    run_local(host=LOOPBACK, port=port, workspace=str(workspace), secret=secret)


class ReportWriter:
    """Writes pages one after another in a thread of low priority, so that events keep flowing.

    A page that fails is logged and counted; it never stops the worker. `stop` lets the pages that were asked for be
    finished, within its time.
    """

    def __init__(self) -> None:
        self.written = 0
        self.failed = 0
        self._tasks: queue.Queue[ReportTask | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="reports", daemon=True)
        self._thread.start()

    def ask(self, task: ReportTask) -> None:
        """Have a page written, soon."""
        self._tasks.put(task)

    def stop(self, timeout_s: float) -> None:
        """Finish and end the thread; after `timeout_s` it is left to die with the process."""
        self._tasks.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        if sys.platform == "linux":
            # On Linux a thread has a priority of its own.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        workspaces = Workspaces()
        while (task := self._tasks.get()) is not None:
            try:
                write(task, workspaces)
            except Exception:
                # Evidently raises whatever its plots raise; a page is not worth a worker.
                self.failed += 1
                log.exception("report_failed", path=str(task.path))
            else:
                self.written += 1


def _frame(
    columns: dict[str, NDArray[np.float64]],
    names: list[str],
    categorical: AbstractSet[str],
    generator: np.random.Generator,
) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415

    # The columns may differ in length: only the champion's rows have a score to compare.
    frame = pd.DataFrame({name: pd.Series(columns[name]) for name in names})
    for name in categorical & set(names):
        frame[name] = frame[name].map("{:g}".format, na_action="ignore")
    if len(frame) <= ROWS_MAX:
        return frame
    return frame.iloc[np.sort(generator.choice(len(frame), ROWS_MAX, replace=False))]


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
