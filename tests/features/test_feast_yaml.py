from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
from pydantic import SecretStr

from features import feast_store, feast_yaml
from infra.local import process
from tests.conftest import stores_at

ROOT = Path(__file__).parents[2]


def test_feasts_own_command_line_answers_from_our_registry(tmp_path: Path, redis_url: str) -> None:
    stores = stores_at(tmp_path, redis_url)
    feast_store.apply("flights", stores)
    folder = Path(stores.plan_path).parent
    first = (folder / feast_yaml.NAME).read_bytes()
    assert feast_yaml.write(stores).read_bytes() == first
    done = subprocess.run(
        [Path(sys.executable).parent / "feast", "-c", folder, "stream-feature-views", "list"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "origin_departures" in done.stdout


def test_feasts_page_lists_our_views(tmp_path: Path, redis_url: str) -> None:
    stores = stores_at(tmp_path, redis_url)
    feast_store.apply("flights", stores)
    port = process.free_port()
    log = tmp_path / "ui.log"
    page = process.spawn(
        [
            str(Path(sys.executable).parent / "feast"),
            *("-c", str(Path(stores.plan_path).parent), "ui"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        log=log,
        environment={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            answers = _answers(http, page)
            assert answers, log.read_text()
            assert http.get("/").headers["content-type"].startswith("text/html")
            told = http.get("/api/v1/feature_views/all").raise_for_status().json()
    finally:
        process.end(page, grace_s=5.0)
    named = {view["spec"]["name"] for view in told["featureViews"]}
    assert named >= {"origin_departures", "aircraft_departures", "origin_weather"}


def _answers(http: httpx.Client, page: subprocess.Popen[bytes], within_s: float = 90.0) -> bool:
    deadline = time.monotonic() + within_s
    while page.poll() is None and time.monotonic() < deadline:
        try:
            return http.get("/projects-list.json").is_success
        except httpx.TransportError:
            time.sleep(0.2)
    return False


def test_no_secret_is_written(tmp_path: Path) -> None:
    stores = stores_at(tmp_path, "redis://127.0.0.1:1/0").model_copy(
        update={"redis_password": SecretStr("open sesame")}
    )
    path = feast_yaml.write(stores)
    assert "sesame" not in path.read_text()
    assert "password" not in path.read_text()
    assert json.loads(path.read_text())["project"] == stores.project
