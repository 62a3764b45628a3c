from __future__ import annotations

from pathlib import Path

import numpy as np

from monitoring.report_index import Line, lines_of, record, window_name
from monitoring.reports import ReportTask, ReportWriter
from tests.monitoring import rig


def columns(rows: int, shift: float) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(rows)
    gaps = generator.normal(shift, 1, rows)
    gaps[::3] = np.nan
    return {
        "number": generator.normal(shift, 1, rows),
        "gaps": gaps,
        "code": generator.integers(0, 3, rows).astype(float),
        "constant": np.ones(rows),
        "nothing": np.full(rows, np.nan),
        "score": generator.beta(2, 5, rows // 2),
    }


def task(path: Path) -> ReportTask:
    return ReportTask(path, columns(2_000, 0.0), columns(6_000, 0.5), frozenset({"code"}), seed=1)


def test_evidently_writes_real_pages_one_after_another_and_survives_a_bad_one(
    tmp_path: Path,
) -> None:
    writer = ReportWriter()
    writer.ask(task(tmp_path / "case" / "a.html"))
    writer.ask(ReportTask(tmp_path / "bad.html", {}, {}, frozenset(), seed=1))
    writer.ask(task(tmp_path / "case" / "b.html"))
    writer.stop(60)
    assert (writer.written, writer.failed) == (2, 1)
    for name in ("a", "b"):
        page = (tmp_path / "case" / f"{name}.html").read_text()
        assert len(page) > 100_000
        assert "number" in page
    assert not list(tmp_path.rglob("*.draft"))


def line(day: int, action: str, kinds: tuple[str, ...] = ()) -> Line:
    start_ms = rig.T0_MS + day * 86_400_000
    report = f"{window_name(start_ms)}.html"
    return Line(
        window_start_ms=start_ms,
        window_end_ms=start_ms + 86_400_000,
        version="v1",
        rows=950,
        kinds=kinds,
        columns={"<temp>": 0.31} if kinds else {},
        auc=0.79,
        log_loss=None,
        action=action,
        report=report,
    )


def test_the_index_is_newest_first_and_a_repeat_replaces_its_line(tmp_path: Path) -> None:
    for entry in (
        line(0, "nothing to do"),
        line(2, "alert, retraining ordered", ("data_drift",)),
        line(1, "first"),
        line(1, "second"),
    ):
        record(tmp_path, "c", entry)
    assert [entry.action for entry in lines_of(tmp_path)] == [
        "alert, retraining ordered",
        "second",
        "nothing to do",
    ]
    page = (tmp_path / "index.html").read_text()
    assert page.index("2013-06-04") < page.index("2013-06-03")
    assert "&lt;temp&gt; 0.31" in page
    assert "<temp>" not in page
    assert 'href="2013-06-02T0000.html"' in page
