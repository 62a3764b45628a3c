from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from features import compiled_plan as subject
from features.compiled_plan import compiled_plan

ROOT = Path(__file__).parents[2]


def test_a_plan_is_compiled_once_and_again_when_a_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    assert len(subject._source_digest()) == 16
    monkeypatch.setattr(subject, "_source_digest", lambda: "one")
    plan = compiled_plan("flights", path)
    assert len(plan.views) == 5
    assert not path.exists(), "what is applied is not touched"
    (kept,) = (tmp_path / subject.FOLDER).iterdir()
    stamp = kept.stat().st_mtime_ns
    assert compiled_plan("flights", path) == plan
    assert kept.stat().st_mtime_ns == stamp
    monkeypatch.setattr(subject, "_source_digest", lambda: "another")
    assert compiled_plan("flights", path) == plan
    (again,) = (tmp_path / subject.FOLDER).iterdir()
    assert again != kept


def test_a_kept_plan_is_read_without_feast(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    compiled_plan("flights", path)
    code = (
        "import sys; from features.compiled_plan import compiled_plan; "
        f"compiled_plan('flights', {str(path)!r}); assert 'feast' not in sys.modules"
    )
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    # 0.3 s on a quiet machine.
    assert time.monotonic() - started < 5
