"""`headrace step NAME` (hidden): one step of `up`, run by the supervisor."""

from __future__ import annotations

from pathlib import Path

import typer

app = typer.Typer()


@app.command("step", hidden=True)
def step(name: str, settings_file: Path = typer.Option(..., "--settings")) -> None:
    """Run one step of `up` to its end."""
    from infra.settings import Settings
    from infra.workers import run_step

    run_step(name, Settings.read(settings_file))
