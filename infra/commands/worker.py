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
    """Run one of headrace's workers in the foreground until Ctrl-C.

    One that fails ends here and now, not by way of Python's end: that would wait for threads which nobody tells to stop,
    and call librdkafka's destructors, which may wait for ever on a broker that is gone (fault case 6). The error still
    holds whatever its frames held, so that nothing of it has been destroyed by now.
    """
    from infra.cli import fail
    from infra.settings import Settings
    from infra.workers import run_worker
    from infra.workers import worker as named

    entry = named(name)
    settings = Settings.read(settings_file) if settings_file else Settings.load()
    try:
        run_worker(entry, settings)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told and then the process is over
        fail(error)
