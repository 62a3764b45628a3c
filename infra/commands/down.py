"""`headrace down`."""

from __future__ import annotations

import typer

app = typer.Typer()


@app.command("down")
def down() -> None:
    """Stop the local stack; leaves no process. Data stays under the data folder."""
    from infra.local import stack
    from infra.settings import Settings

    settings = Settings.load()
    was_running = stack.is_running(settings)
    killed = stack.down(settings)
    if killed:
        typer.echo(f"down; {killed} processes did not end by themselves and were killed")
    else:
        typer.echo("down" if was_running else "nothing was running")
