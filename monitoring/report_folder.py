"""The folder of one use case's drift pages: a page for each window, plots of each judged one, a line in the index for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monitoring.judgement import SCORE, Judgement, champion_scores, input_columns
from monitoring.report_index import Line, amend, record, window_name
from monitoring.reports import WORKSPACE, ReportTask, ReportWriter

if TYPE_CHECKING:
    from pathlib import Path

    from monitoring.policy import DriftPolicy
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

    def plots(self, window: Window) -> Path:
        """Where Evidently's page of it will be."""
        return self._folder / f"{window_name(window.start_ms)}.plots.html"

    def publish(
        self,
        window: Window,
        judgement: Judgement,
        reference: Reference,
        categorical: frozenset[str],
    ) -> None:
        """Ask for the plots; they are there some seconds later."""
        rows = [r for r in window.results if r.features]
        self.writer.ask(
            ReportTask(
                path=self.plots(window),
                reference={**reference.inputs, SCORE: reference.score},
                window={
                    **input_columns(rows, reference.inputs),
                    SCORE: champion_scores(window, judgement.version),
                },
                categorical=categorical,
                seed=window.start_ms,
                workspace=self._folder / WORKSPACE,
                project=self._case,
                start_ms=window.start_ms,
            )
        )

    def amend(self, window_start_ms: int, was: str, now: str) -> None:
        """Of a window that was recorded: what is done by now, where it still says `was`."""
        amend(self._folder, self._case, window_start_ms, was, now)

    def record(
        self,
        window: Window,
        judgement: Judgement,
        action: str,
        *,
        reference: Reference | None = None,
        policy: DriftPolicy | None = None,
    ) -> None:
        """The window's page and its line in the index; with a link to plots where it was judged."""
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
                report=self.path(window).name,
                plots=self.plots(window).name if judgement.columns else None,
                verdicts=judgement.columns,
                effect_min=policy.inputs.effect_min if policy else None,
                reference_auc=reference.auc if reference else None,
                reference_log_loss=reference.log_loss if reference else None,
            ),
        )
