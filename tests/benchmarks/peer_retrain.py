"""Row h's peer: the script that a team writes. Fit on the lake's newest rows, ONNX, a file, and `serve deploy`.

A new process, as cron or an alert's hook starts one; then Ray Serve's own command, which replaces the replica. It has no gate, no
signature, no canary and no exactly-once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from infra.local import process
from infra.local.ray_head import RayHead, client_environment
from tests.benchmarks.contenders import Run

ROOT = Path(__file__).parents[2]
SCRIPT, APP = "tests.benchmarks.retrain_script", "tests.benchmarks.served_file:app"
WITHIN_S = 120.0


class Head(RayHead):
    """Ray, whose replicas find what is deployed."""

    def environment(self) -> dict[str, str]:
        """Where they look."""
        return super().environment() | {"PYTHONPATH": str(ROOT)}


class Scripted:
    """The team's script and its cluster.

    Args:
        folder: Of the cluster, and of models.
        sources: Where the script finds the use case.
        told: What the script is told: a settings file, and the milliseconds between which it reads.
        row: What is asked until the new model answers.
    """

    def __init__(
        self, folder: Path, sources: Path, told: tuple[Path, int, int], row: list[float]
    ) -> None:
        folder.mkdir()
        self._folder, self._sources, self._told, self._row = folder, sources, told, row
        self._http, self._numbers = process.free_port(), count(1)
        ports = {"port": process.free_port(), "dashboard_port": process.free_port()}
        self._head = Head(folder / "ray", **ports)
        self._dashboard = f"http://{process.LOOPBACK}:{ports['dashboard_port']}"

    def __enter__(self) -> Self:
        self._head.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._head.stop()

    def retrained(self) -> Run:
        """Seconds from the script's start to the first answer of its model."""
        model, config = self._folder / f"{next(self._numbers)}.onnx", self._folder / "serve.json"
        config.write_text(json.dumps(self._config(model)))
        began = time.perf_counter()
        self._run(sys.executable, "-m", SCRIPT, *self._told, model)
        deploy = Path(sys.executable).parent / "serve"
        self._run(deploy, "deploy", config, "--address", self._dashboard)
        deadline = began + WITHIN_S
        while self._answers_with() != str(model):
            assert time.perf_counter() < deadline, "the deployment did not come"
            time.sleep(0.01)
        return Run(time.perf_counter() - began, 0.0, 0.0)

    def _config(self, model: Path) -> dict[str, object]:
        application = {
            "name": "scored",
            "route_prefix": "/",
            "import_path": APP,
            "args": {"model": str(model)},
        }
        http = {"host": process.LOOPBACK, "port": self._http}
        return {"http_options": http, "applications": [application]}

    def _run(self, *command: object) -> None:
        subprocess.run(
            [str(word) for word in command],
            check=True,
            cwd=self._sources,
            env=os.environ
            | client_environment(self._head.folder)
            | {"PYTHONPATH": f"{self._sources}{os.pathsep}{ROOT}"},
            stdout=subprocess.DEVNULL,
        )

    def _answers_with(self) -> str | None:
        """The model that answers; none where there is no answer yet."""
        url = f"http://{process.LOOPBACK}:{self._http}/"
        try:
            answer = httpx.post(url, json=self._row, timeout=5.0, trust_env=False)
        except httpx.HTTPError:
            return None
        return str(answer.json()["model"]) if answer.is_success else None
