"""`headrace supervise` (hidden): the process behind `up`."""

from __future__ import annotations

from pathlib import Path

import typer

app = typer.Typer()


@app.command("supervise", hidden=True)
def supervise(settings_file: Path = typer.Option(..., "--settings")) -> None:
    """Own every process of the stack until SIGTERM."""
    from infra.local import stack
    from infra.settings import Settings

    stack.supervise(Settings.read(settings_file))
