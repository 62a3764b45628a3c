"""`headrace reports` and `headrace reports serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from infra.commands.reports_serve import serve
from infra.json_print import print_json
from infra.table_print import print_table

if TYPE_CHECKING:
    from pathlib import Path

    from infra.settings import Settings
    from monitoring.report_index import Line

app = typer.Typer(name="reports")
COLUMNS_SHOWN = 3
app.command("serve")(serve)


@app.callback(invoke_without_command=True)
def reports(
    context: typer.Context,
    *,
    last: int = typer.Option(20, "--last", min=1, help="So many of the newest windows."),
    page: int = typer.Option(
        0, "--open", min=0, metavar="N", help="Print where the N-th page lies, and open it."
    ),
    as_json: bool = typer.Option(False, "--json", help="All windows, as JSON."),
) -> None:
    """Windows that drift was judged in, newest first: what drifted, by how much, what was done, and the page.

    The pages lie under `reports/<use case>` of the data folder and need no server; `serve` adds Evidently's own pages.

    Example: headrace reports --open 1
    """
    if context.invoked_subcommand is not None:
        return
    from infra.settings import Settings
    from monitoring.report_index import lines_of

    folder = folder_of(Settings.load())
    lines = lines_of(folder)
    if as_json:
        print_json([_told(folder, line) for line in lines])
    elif page:
        _open(folder, lines, page)
    elif lines:
        _print(folder, lines[:last])
    else:
        typer.echo(f"no window was judged yet: {folder} holds no reports")


def folder_of(settings: Settings) -> Path:
    """Where the drift worker of this use case writes."""
    from pathlib import Path

    return Path(settings.monitoring.reports_dir) / settings.case


def _told(folder: Path, line: Line) -> dict[str, object]:
    from dataclasses import asdict

    files = {
        name: str(folder / file) if file else None
        for name, file in (("report", line.report), ("plots", line.plots))
    }
    return asdict(line) | files


def _open(folder: Path, lines: list[Line], number: int) -> None:
    import sys

    if number > len(lines):
        raise typer.BadParameter(f"there are {len(lines)} windows", param_hint="--open")
    name = lines[number - 1].report
    if name is None:
        raise typer.BadParameter("that window has no page", param_hint="--open")
    path = folder / name
    typer.echo(path)
    # Where somebody sits before it; elsewhere the path is what is wanted.
    if sys.stdout.isatty():
        typer.launch(str(path))


def _print(folder: Path, lines: list[Line]) -> None:
    from datetime import UTC, datetime

    from rich.table import Table
    from rich.text import Text

    table = Table(
        "", "window (UTC)", "champion", "rows", "drift", "columns (effect)", "done", box=None
    )
    for number, line in enumerate(lines, 1):
        at = datetime.fromtimestamp(line.window_start_ms / 1000, UTC)
        largest = sorted(line.columns.items(), key=lambda item: -item[1])
        columns = ", ".join(f"{name} {effect:.2f}" for name, effect in largest[:COLUMNS_SHOWN])
        if len(largest) > COLUMNS_SHOWN:
            columns += f" and {len(largest) - COLUMNS_SHOWN} more"
        cells = (
            str(number),
            f"{at:%Y-%m-%d %H:%M}",
            line.version,
            f"{line.rows:,}",
            ", ".join(line.kinds) or "quiet",
            columns,
            line.action,
        )
        table.add_row(*(Text(cell) for cell in cells), style="yellow" if line.kinds else "")
    print_table(table)
    typer.echo(folder / "index.html")
