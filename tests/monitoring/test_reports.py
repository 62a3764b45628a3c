from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from monitoring.column_drift import ColumnDrift
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
        "code": generator.integers(0, 3 + (shift > 0), rows).astype(float),
        "code with gaps": np.where(gaps > 0, 1.0, np.where(gaps > -1, 0.0, np.nan)),
        "constant": np.ones(rows),
        "nothing": np.full(rows, np.nan),
        "score": generator.beta(2, 5, rows // 2),
    }


def task(path: Path) -> ReportTask:
    return ReportTask(
        path,
        columns(2_000, 0.0),
        columns(6_000, 0.5),
        frozenset({"code", "code with gaps"}),
        seed=1,
    )


def test_evidently_writes_real_pages_one_after_another_and_survives_a_bad_one(
    tmp_path: Path,
) -> None:
    writer = ReportWriter()
    first = task(tmp_path / "case" / "a.html")
    workspace = tmp_path / "workspace"
    writer.ask(replace(first, workspace=workspace, project="c", start_ms=rig.T0_MS))
    rig.wait_until(lambda: writer.written == 1)
    (snapshot,) = workspace.glob("*/snapshots/*.json")
    assert "2013-06-02 00:00" in snapshot.read_text()
    # A report costs the same however many there are: none is read for the next one.
    snapshot.write_text("{")
    writer.ask(ReportTask(tmp_path / "bad.html", {}, {}, frozenset(), seed=1))
    second = task(tmp_path / "case" / "b.html")
    writer.ask(replace(second, workspace=workspace, project="c", start_ms=rig.T0_MS + 1))
    writer.stop(60)
    assert (writer.written, writer.failed) == (2, 1)
    for name in ("a", "b"):
        page = (tmp_path / "case" / f"{name}.html").read_text()
        assert len(page) > 100_000
        assert "number" in page
    assert not list(tmp_path.rglob("*.draft"))
    assert len(list(workspace.glob("*/snapshots/*.json"))) == 2


def line(day: int, action: str, kinds: tuple[str, ...] = ()) -> Line:
    start_ms = rig.T0_MS + day * 86_400_000
    report = f"{window_name(start_ms)}.html"
    drifted = ColumnDrift(
        "<temp>", "ks", 0.31, 1e-9, bool(kinds), "a & b", broken=action == "broken"
    )
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
        plots=report.replace(".html", ".plots.html"),
        verdicts=(ColumnDrift("code", "chi2", 0.02, 0.6, drifted=False), drifted),
        effect_min=0.1,
        reference_auc=0.8,
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
    assert page.count("<circle") == 1
    assert 'href="2013-06-02T0000.plots.html"' in page


def test_a_window_has_a_page_with_its_worst_column_first(tmp_path: Path) -> None:
    record(tmp_path, "c", line(0, "alert, <b>held back</b>", ("data_drift",)))
    page = (tmp_path / "2013-06-02T0000.html").read_text()
    assert page.index("&lt;temp&gt;") < page.index("code")
    assert "a &amp; b" in page
    assert "alert, &lt;b&gt;held back&lt;/b&gt;" in page
    assert "0.790 (held out when it was trained: 0.800)" in page
    assert 'href="2013-06-02T0000.plots.html"' in page
    record(tmp_path, "c", line(1, "broken", ("data_drift",)))
    assert 'class="broken"' in (tmp_path / "index.html").read_text()


def test_a_window_that_nothing_could_be_said_of_has_a_page_too(tmp_path: Path) -> None:
    quiet = replace(line(0, "0 of 200 rows"), plots=None, verdicts=(), auc=None, rows=0)
    record(tmp_path, "c", quiet)
    page = (tmp_path / "2013-06-02T0000.html").read_text()
    assert "No column was judged" in page
    assert "plots" not in page


def test_an_index_of_an_older_release_is_read(tmp_path: Path) -> None:
    record(tmp_path, "c", line(0, "nothing to do"))
    newer = {"plots", "verdicts", "effect_min", "reference_auc", "reference_log_loss"}
    older = {name: value for name, value in asdict(line(1, "old")).items() if name not in newer}
    (tmp_path / "index.json").write_text(json.dumps([older]))
    record(tmp_path, "c", line(2, "new"))
    assert [(entry.action, len(entry.verdicts)) for entry in lines_of(tmp_path)] == [
        ("new", 2),
        ("old", 0),
    ]


def test_windows_of_one_minute_have_names_of_their_own() -> None:
    assert window_name(rig.T0_MS) == "2013-06-02T0000"
    assert window_name(rig.T0_MS + 5_123) == "2013-06-02T000005-123"
