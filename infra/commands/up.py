"""`headrace up`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer()


@app.command("up")
def up() -> None:
    """Start the local stack, or join the one that runs; returns when every service is ready."""
    import time

    from rich.console import Console
    from rich.live import Live

    from infra.commands.doctor import require
    from infra.commands.status import addresses, table
    from infra.local import stack
    from infra.settings import Settings
    from schemas import requirements

    settings = Settings.load()
    # What cannot be meant is told here, and not by workers that start again and again.
    requirements.load(settings.case)
    if not stack.is_running(settings):
        require(settings)
    console = Console()
    started = time.monotonic()
    if console.is_terminal:
        with Live(console=console, refresh_per_second=5, transient=True) as live:
            settings = stack.up(settings, lambda state: live.update(table(state)))
    else:
        settings = stack.up(settings, _Lines(console))
    console.print(f"up in {time.monotonic() - started:.0f} s")
    console.print(addresses(settings))


class _Lines:
    """Progress without a terminal: a line for each change of phase."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._phases: dict[str, str] = {}

    def __call__(self, state: Mapping[str, Any]) -> None:
        for name, row in state["services"].items():
            if self._phases.get(name) != row["phase"] and row["phase"] != "waiting":
                self._console.print(f"{name:13} {row['phase']}", highlight=False)
            self._phases[name] = row["phase"]
