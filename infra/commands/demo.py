"""`headrace demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from infra.settings import Settings

app = typer.Typer()

EPILOG = "Examples: `headrace demo` · `headrace demo --year` · `headrace demo --chaos --seed 7` · `headrace demo --keep`"


@app.command("demo", epilog=EPILOG)
def demo(
    *,
    keep: bool = typer.Option(False, "--keep", help="Leave the stack up afterwards."),
    chaos: bool = typer.Option(
        False, "--chaos", help="Kill -9 a scorer replica and each worker of the loop meanwhile."
    ),
    seed: int = typer.Option(2013, help="Of what is random: malformed events, chaos."),
    since: str = typer.Option("2013-06-01", help="The first day replayed."),
    until: str = typer.Option("2013-08-01", help="The first day that is not."),
    slice_s: int = typer.Option(600, min=60, max=900, help="Event time a slice spans at most."),
    year: bool = typer.Option(
        False,
        "--year",
        help="February to December, whatever the days named, and what the loop was worth: half an hour.",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the summary as JSON."),
) -> None:
    """New York flights of 2013, end to end, on the real engines. Exit code 1 if anything was lost."""
    import sys
    from dataclasses import replace
    from datetime import date

    import structlog
    from rich.console import Console

    from infra.commands.doctor import require
    from infra.demo.run import YEAR, Options, run
    from infra.demo.table import failures, table
    from infra.settings import Settings

    # Standard output is the summary's.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    settings = Settings.load()
    require(settings)
    console = Console(stderr=as_json)
    days = Options(date.fromisoformat(since), date.fromisoformat(until), slice_s)
    options = replace(YEAR if year else days, chaos=chaos, seed=seed)
    console.print(f"seed {seed}", highlight=False)
    summary = run(settings, options, console, keep=keep)
    if as_json:
        typer.echo(_json(summary))
    else:
        console.print(table(summary))
        console.print(f"summary: {settings.data / 'demo' / 'summary.json'}", highlight=False)
    if keep:
        _what_to_open(console, settings)
    found = failures(summary)
    for line in found:
        console.print(f"[red]{line}[/red]", highlight=False)
    raise typer.Exit(1 if found else 0)


def _json(summary: dict[str, Any]) -> str:
    import json

    return json.dumps(summary, indent=2)


def _what_to_open(console: Console, settings: Settings) -> None:
    from infra.commands.status import addresses
    from infra.demo.run import demo_settings

    own = demo_settings(settings)
    console.print("\nThe stack is up. In another shell:", highlight=False)
    reports_dir = own.monitoring.reports_dir
    console.print(f"  export HEADRACE_DATA_DIR={own.data} HEADRACE_STORES__CLOCK=stream \\")
    console.print(f"         HEADRACE_MONITORING__REPORTS_DIR={reports_dir}")
    console.print("  headrace status · headrace release list · headrace down", highlight=False)
    console.print(addresses(own), highlight=False)
    console.print(f"reports       {reports_dir}", highlight=False)
