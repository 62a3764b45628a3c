"""`headrace features freshness`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from infra.commands.features_show import length
from infra.json_print import print_json

if TYPE_CHECKING:
    from features.freshness import Freshness


def freshness(*, as_json: bool = typer.Option(False, "--json", help="As JSON.")) -> None:
    """The latest event that each view has seen, its age, and how old its entities' newest events are.

    Against the clock that plain reads go by: the wall's, or the latest event time seen; at most 5,000 entities a view. What
    a single entity's values are from is in Feast's answers: `to_dict(include_event_timestamps=True)`.

    Example: headrace features freshness --json
    """
    from features.freshness import freshness as look
    from features.views import Plan
    from infra.settings import Settings

    stores = Settings.load().stores
    found = look(Plan.load(stores.plan_path), stores)
    if as_json:
        told = {"clock_ms": found.clock_ms, "views": [one._asdict() for one in found.views]}
        print_json(told)
    else:
        _print(found)


def _print(found: Freshness) -> None:
    from datetime import UTC, datetime

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("view", "of", "features", "latest event", "age", "entities", "newest", "oldest"):
        numeric = column in ("features", "age", "entities", "newest", "oldest")
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for one in found.views:
        at = one.latest_event_ms
        shown = datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="seconds") if at else "-"
        ages = (
            found.clock_ms - t if t is not None else None for t in (one.newest_ms, one.oldest_ms)
        )
        spans = [_span(age) for age in (one.age_ms, *ages)]
        table.add_row(
            one.view,
            one.kind,
            f"{len(one.features)}",
            shown,
            spans[0],
            f"{one.entities:,}",
            *spans[1:],
        )
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, 120)
    console.print(table)


def _span(ms: int | None) -> str:
    if ms is None:
        return "-"
    return f"-{length(-ms)}" if ms < 0 else length(ms)
