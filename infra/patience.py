"""What takes longer than a moment says what it is doing."""

from __future__ import annotations

import time
from collections.abc import Callable

import typer

PATIENCE_S = 2.0


def patient() -> Callable[[str], None]:
    """Prints what it is told to standard error, once `PATIENCE_S` have passed."""
    began_s = time.monotonic()

    def progress(doing: str) -> None:
        if time.monotonic() - began_s > PATIENCE_S:
            typer.echo(f"{doing} …", err=True)

    return progress
