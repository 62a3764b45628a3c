"""`headrace logs`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TextIO

import typer

from schemas.errors import HeadraceError

app = typer.Typer()

POLL_S = 0.3


class NoSuchLog(HeadraceError):
    """No service of that name has written a log."""


@app.command("logs")
def logs(
    name: str = typer.Argument(help="A service of `headrace status`, or `supervisor`."),
    *,
    follow: bool = typer.Option(False, "--follow", "-f", help="Go on as it grows."),
    lines: int = typer.Option(50, "--lines", "-n", min=0, help="How many of the last lines."),
) -> None:
    """Show or follow the log of a service."""
    from infra.local import stack
    from infra.settings import Settings

    path = stack.log_file(Settings.load(), name)
    if not path.exists():
        names = ", ".join(sorted(one.stem for one in path.parent.glob("*.log"))) or "none"
        raise NoSuchLog(f"log {name!r}", wanted=f"one of: {names}", came="there is none")
    with path.open(encoding="utf-8", errors="replace") as file:
        typer.echo("".join(file.readlines()[-lines:] if lines else []), nl=False)
        if follow:
            _follow(path, file)


def _follow(path: Path, file: TextIO) -> None:
    """Print what is appended until Ctrl-C, or until the log is set aside by the next start."""
    while path.exists():
        if line := file.readline():
            typer.echo(line, nl=False)
        else:
            time.sleep(POLL_S)
