"""`headrace worker NAME`."""

from __future__ import annotations

from pathlib import Path

import typer

app = typer.Typer()


@app.command("worker")
def worker(
    name: str = typer.Argument(help="A worker of `headrace status`."),
    settings_file: Path | None = typer.Option(None, "--settings", hidden=True),
) -> None:
    """Run one of headrace's workers in the foreground until Ctrl-C."""
    from infra.settings import Settings
    from infra.workers import run_worker
    from infra.workers import worker as named

    entry = named(name)
    run_worker(entry, Settings.read(settings_file) if settings_file else Settings.load())
