"""How commands print a table: as wide as the terminal, and wide enough where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

PIPED_WIDTH = 160


def print_table(table: Table) -> None:
    """Print to standard output."""
    from rich.console import Console  # noqa: PLC0415 - a command that prints none need not import it

    console = Console()
    Console(width=None if console.is_terminal else PIPED_WIDTH).print(table)
