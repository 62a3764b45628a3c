from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from typer.testing import CliRunner, Result

from infra.commands.reports import app
from infra.report_server import NotServed, report_server
from monitoring.column_drift import ColumnDrift
from monitoring.report_index import Line, record, window_name

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
T0_MS = 1_370_131_200_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two windows as the drift worker leaves them."""
    found = tmp_path / "reports" / "flights"
    for day, kinds in enumerate([(), ("data_drift",)]):
        start_ms = T0_MS + day * 86_400_000
        name = window_name(start_ms)
        record(
            found,
            "flights",
            Line(
                start_ms,
                start_ms + 86_400_000,
                "v0001",
                950,
                kinds,
                {"temp": 0.31} if kinds else {},
                0.8,
                0.4,
                "[alert], retraining ordered" if kinds else "nothing to do",
                f"{name}.html",
                f"{name}.plots.html",
                (ColumnDrift("temp", "ks", 0.31, 1e-9, bool(kinds)),),
                0.15,
            ),
        )
    return found


def headrace(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env=_environment(folder))


def _environment(folder: Path) -> dict[str, str]:
    own = {"HEADRACE_MONITORING__REPORTS_DIR": str(folder.parent), "HEADRACE_DATA_DIR": str(folder)}
    return {**own, "COLUMNS": "200"}


def test_windows_are_listed_newest_first(folder: Path) -> None:
    done = headrace(folder)
    assert done.exit_code == 0, done.output
    assert done.stdout.index("2013-06-03") < done.stdout.index("2013-06-02")
    assert "temp 0.31" in done.stdout
    assert "[alert], retraining ordered" in done.stdout
    told = json.loads(headrace(folder, "--json").stdout)
    assert [line["kinds"] for line in told] == [["data_drift"], []]
    assert Path(told[0]["report"]).exists()
    assert told[0]["verdicts"][0]["column"] == "temp"


def test_a_page_is_found_by_its_number(folder: Path) -> None:
    done = headrace(folder, "--open", "2")
    assert done.stdout.strip() == str(folder / "2013-06-02T0000.html")
    assert headrace(folder, "--open", "3").exit_code == 2
    empty = headrace(folder / "nothing" / "there")
    assert (empty.exit_code, "no window" in empty.stdout) == (0, True)


@contextmanager
def served(folder: Path, beside: int | None = None) -> Iterator[int]:
    server = report_server(folder, 0, beside)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def get(port: int, path: str, host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def test_pages_are_served_and_nothing_else(folder: Path) -> None:
    (folder.parent / "secret").write_text("x")
    with served(folder, beside=4_242) as port:
        status, page = get(port, "/")
        assert (status, "http://127.0.0.1:4242/" in page) == (200, True)
        assert get(port, "/2013-06-03T0000.html")[0] == 200
        for path in ("/../secret", "/%2e%2e/secret", "/evidently/", "/nothing.html"):
            assert get(port, path)[0] == 404, path
        assert get(port, "/", host="evil.example:80")[0] == 403
        with pytest.raises(NotServed, match="another --port"):
            report_server(folder, port, None)


def test_interrupting_leaves_no_process(folder: Path) -> None:
    (folder / "evidently").mkdir()
    command = [sys.executable, "-u", "-m", "infra.cli", "reports", "serve"]
    serving = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | _environment(folder), stdout=subprocess.PIPE, text=True
    )
    assert serving.stdout is not None
    ports = [
        int(found[1])
        for found in (re.search(r":(\d+)/", serving.stdout.readline()) for _ in range(3))
        if found
    ]
    assert len(set(ports)) == 2
    assert get(ports[0], "/")[0] == 200
    children = psutil.Process(serving.pid).children(recursive=True)
    assert children
    time.sleep(0.2)
    serving.send_signal(signal.SIGINT)
    assert serving.wait(30) == 130
    assert not any(child.is_running() for child in children)
