"""What `--json` prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import typer


def print_json(told: object, enc_hook: Callable[[Any], Any] | None = None) -> None:
    """Print as JSON; `enc_hook` turns what JSON does not know into what it does."""
    encoded = msgspec.json.encode(told, enc_hook=enc_hook)
    typer.echo(msgspec.json.format(encoded, indent=1).decode())
