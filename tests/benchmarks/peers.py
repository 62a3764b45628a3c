"""Peers live in an environment of their own, `.bench/peers`, because their pins contradict ours: as child processes.

A child is a module `tests.benchmarks.peer_*`. It is told on its standard input what to do, one line of JSON a piece of
work, and answers with a line: what it measured of itself, or a value. What it prints beside goes to standard error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from tests.benchmarks.contenders import Run, measured

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".bench" / "peers"
PINS = ROOT / "benchmarks" / "peers.txt"
PYTHON = HOME / "bin" / "python"
MADE = HOME / ".pins"


def python() -> Path:
    """The interpreter of the peers' environment, which is made first if its pins are not those of the file."""
    pins = PINS.read_text()
    if not MADE.exists() or MADE.read_text() != pins:
        uv = [sys.executable, "-m", "uv"]
        subprocess.run(
            [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(HOME)], check=True
        )
        sync = [
            *uv,
            "pip",
            "sync",
            "--quiet",
            "--python",
            str(PYTHON),
            "--require-hashes",
            str(PINS),
        ]
        subprocess.run(sync, check=True)
        MADE.write_text(pins)
    return PYTHON


def pinned(package: str) -> str:
    """The version of a package in the peers' environment."""
    lines = PINS.read_text().splitlines()
    return next(line.split()[0].partition("==")[2] for line in lines if line.startswith(package))


class Peer:
    """One child. A context manager; leaving it ends the process."""

    def __init__(self, module: str, **options: object) -> None:
        self._child = subprocess.Popen(
            [
                str(python()),
                "-W",
                "ignore",
                "-m",
                f"tests.benchmarks.{module}",
                json.dumps(options),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "FEAST_USAGE": "False"},
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()

    def ask(self, work: str) -> Any:
        """Let the child do what it calls `work`, and wait for its value."""
        self.tell(work)
        assert self._child.stdout is not None
        answer = self._child.stdout.readline()
        assert answer, f"the peer died over {work!r}: see standard error"
        return json.loads(answer)

    def tell(self, work: str) -> None:
        """Let the child do what it calls `work`, and go on."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(work) + "\n")
        self._child.stdin.flush()

    def contender(self, work: str) -> Callable[[], Run]:
        """`work` as a contender of a race, measured in the child."""
        return lambda: Run(*self.ask(work))


def serve(
    work: Mapping[str, Callable[[], object]], values: Mapping[str, Callable[[], object]]
) -> None:
    """The child's side: do what is asked until the input ends. `work` is measured, `values` are answered."""
    # Whatever a library prints must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name = json.loads(line)
        answer = measured(work[name]) if name in work else values[name]()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
