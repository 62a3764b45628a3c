from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from pydantic import SecretStr

from features import feast_store, feast_yaml
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


def test_no_secret_is_written(tmp_path: Path) -> None:
    stores = stores_at(tmp_path, "redis://127.0.0.1:1/0").model_copy(
        update={"redis_password": SecretStr("open sesame")}
    )
    path = feast_yaml.write(stores)
    assert "sesame" not in path.read_text()
    assert "password" not in path.read_text()
    assert json.loads(path.read_text())["project"] == stores.project
