"""A copy of the platform's source with a use case of a case's own, for what is judged before anything runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

PACKAGES = ("schemas", "features", "pipelines", "serving", "monitoring", "infra")
TIMEOUT_S = 180


class Sources:
    """The copy, and the command line run in it: there, its packages come before the installed ones.

    With `compiled` what Python has compiled comes along: processes that start at once need not all do it again.
    """

    def __init__(self, folder: Path, case: str, *, compiled: bool = False) -> None:
        self.folder = folder
        self.case = case
        for package in PACKAGES:
            skipped = shutil.ignore_patterns("target", *([] if compiled else ["__pycache__"]))
            shutil.copytree(ROOT / package, folder / package, ignore=skipped)

    def write(self, layer: str, text: str) -> None:
        """The use case's module of a layer."""
        (self.folder / layer / f"{self.case}.py").write_text(text, encoding="utf-8")

    def headrace(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`headrace …` for the use case."""
        environment = os.environ | {
            "HEADRACE_CASE": self.case,
            "HEADRACE_DATA_DIR": str(self.folder / "data"),
            "PYTHONPATH": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.run(
            [sys.executable, "-m", "infra.cli", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
