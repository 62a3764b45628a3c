from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from infra.local import process
from tests.faults.__main__ import play
from tests.faults.harness import Rig


@pytest.mark.parametrize("case", [18, 27])
def test_the_cheapest_cases_hold_and_leave_no_process(case: int) -> None:
    with tempfile.TemporaryDirectory(prefix="headrace-faults-") as folder:
        with Rig(Path(folder)) as rig:
            outcome = play(rig, case, seed=1)
        assert outcome.held, outcome.line()
        assert process.marked(folder) == []
    assert process.STACK_MARK not in os.environ
