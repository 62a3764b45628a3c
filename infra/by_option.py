"""Who says something to the loop, its releases or its keys: `--by`, or the user of the shell."""

from __future__ import annotations

import getpass

import typer

BY = typer.Option("", "--by", help="Who says so; the user of this shell where not given.")


def said_by(by: str = "") -> str:
    """`by`, or the user of this shell where nobody is named."""
    return by or getpass.getuser()
