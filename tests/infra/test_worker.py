from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("fails_with", "said"),
    [
        ("headrace", "headrace: the failing worker: wanted to go on"),
        ("another", "ValueError: nobody expected this"),
    ],
)
def test_a_worker_that_fails_ends_though_a_thread_of_its_own_hangs(
    tmp_path: Path, fails_with: str, said: str
) -> None:
    # Past the time-out the process would still wait for its thread.
    ended = subprocess.run(
        [sys.executable, "-m", "tests.infra.failing_worker"],
        cwd=ROOT,
        env=os.environ | {"HEADRACE_DATA_DIR": str(tmp_path), "FAILS_WITH": fails_with},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode == 1, ended
    assert said in ended.stderr
    assert "worker started" in ended.stdout
