"""`headrace schemas check | export`."""

from __future__ import annotations

import typer

app = typer.Typer(name="schemas", no_args_is_help=True)


@app.command("check")
def check() -> None:
    """Compare every contract with its released JSON Schema. Exit code 1 where old records became unreadable."""
    from infra.settings import Settings
    from schemas import evolution

    case = Settings.load().case
    breaks = evolution.check(case)
    for one in breaks:
        typer.echo(f"{one.contract}.{one.field}: {one.problem}", err=True)
    if breaks:
        typer.echo("Make the change optional, or give the contract a new name.", err=True)
        raise typer.Exit(1)
    typer.echo(f"{len(evolution.contracts(case))} contracts read everything that was released")


@app.command("export")
def export() -> None:
    """Write every contract's JSON Schema to schemas/json."""
    from infra.settings import Settings
    from schemas import evolution

    changed = evolution.export(Settings.load().case)
    typer.echo("\n".join(f"wrote {path}" for path in changed) or "nothing changed")
