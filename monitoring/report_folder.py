"""The folder of one use case's drift pages: a page for each judged window, a line in the index for each window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monitoring.judgement import SCORE, Judgement, champion_scores, input_columns
from monitoring.report_index import Line, record, window_name
from monitoring.reports import ReportTask, ReportWriter

if TYPE_CHECKING:
    from pathlib import Path

    from monitoring.reference import Reference
    from monitoring.windows import Window


class ReportFolder:
    """Where pages go and what the index says of each window."""

    def __init__(self, folder: Path, case: str, writer: ReportWriter) -> None:
        self._folder = folder
        self._case = case
        self.writer = writer

    def path(self, window: Window) -> Path:
        """Where this window's page will be."""
        return self._folder / f"{window_name(window.start_ms)}.html"

    def publish(
        self,
        window: Window,
        judgement: Judgement,
        reference: Reference,
        categorical: frozenset[str],
    ) -> None:
        """Ask for the page; it is there some seconds later."""
        rows = [r for r in window.results if r.features]
        self.writer.ask(
            ReportTask(
                path=self.path(window),
                reference={**reference.inputs, SCORE: reference.score},
                window={
                    **input_columns(rows, reference.inputs),
                    SCORE: champion_scores(window, judgement.version),
                },
                categorical=categorical,
                seed=window.start_ms,
            )
        )

    def record(self, window: Window, judgement: Judgement, action: str) -> None:
        """The window's line in the index; with a link where it was judged."""
        judged = bool(judgement.columns)
        record(
            self._folder,
            self._case,
            Line(
                window_start_ms=window.start_ms,
                window_end_ms=window.end_ms,
                version=judgement.version,
                rows=judgement.rows,
                kinds=tuple(kind.value for kind in judgement.kinds),
                columns={c.column: c.statistic for c in judgement.columns if c.drifted},
                auc=judgement.live.auc,
                log_loss=judgement.live.log_loss,
                action=action,
                report=self.path(window).name if judged else None,
            ),
        )
