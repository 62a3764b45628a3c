from __future__ import annotations

import os
import tempfile
from pathlib import Path

from infra.local import process
from tests.faults.__main__ import play
from tests.faults.harness import Rig
from tests.faults.memory import MemoryWatch
from tests.faults.outcome import Outcome


def test_a_case_holds_and_leaves_no_process() -> None:
    with tempfile.TemporaryDirectory(prefix="headrace-faults-") as folder:
        with Rig(Path(folder)) as rig:
            outcome = play(rig, 18, seed=1)
        assert outcome.held, outcome.line()
        assert process.marked(folder) == []
    assert process.STACK_MARK not in os.environ


def test_a_process_above_its_bound_breaks_the_case() -> None:
    outcome = Outcome(0, 0)
    with MemoryWatch("no such rig", outcome) as watch:
        watch.saw("redis-server *:6379", 100)
        assert watch.peaks_mb == {"redis": 100}
        watch.saw("python -m tests.pipelines.worker_process archiver", 5_000)
    assert outcome.invariants == {"memory is bounded": False}
    assert "archiver" in outcome.details["memory is bounded"]


def test_a_case_without_processes_says_nothing_of_memory() -> None:
    outcome = Outcome(0, 0)
    with MemoryWatch("no such rig", outcome):
        pass
    assert outcome.invariants == {}
