"""`headrace features show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from infra.json_print import print_json

if TYPE_CHECKING:
    from features.view_summary import Distribution, ViewSummary

BARS = " ▁▂▃▄▅▆▇█"
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000


def show(
    view: str = typer.Argument(help="The view's name; `headrace features list` has them."),
    *,
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Distribution and freshness of a view's features over its entities, as they would be served now.

    Read from the online store as of the stream's clock, the latest event time seen; at most 20,000 entities.

    Example: headrace features show origin_departures
    """
    from features.view_summary import summarize
    from features.views import Plan
    from infra.settings import Settings

    stores = Settings.load().stores
    summary = summarize(Plan.load(stores.plan_path).view(view), stores)
    if as_json:
        told = summary._asdict() | {"features": [f._asdict() for f in summary.features]}
        print_json(told)
    else:
        _print(summary)


def _print(summary: ViewSummary) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.print(_freshness(summary))
    if not summary.features:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("feature", "entities", "null", "least", "5 %", "median", "95 %", "greatest"):
        justify = "left" if column == "feature" else "right"
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("least to greatest", no_wrap=True)
    for one in summary.features:
        quantiles = [f"{value:.4g}" for value in one.quantiles] or [""] * 5
        table.add_row(one.feature, f"{one.known:,}", f"{one.nulls:,}", *quantiles, _bars(one))
    console.width = max(console.width, 120)
    console.print(table)


def _freshness(summary: ViewSummary) -> str:
    from datetime import UTC, datetime

    if summary.clock_ms is None or summary.age_p50_ms is None or summary.age_p95_ms is None:
        return f"{summary.view}: no entity yet"
    clock = datetime.fromtimestamp(summary.clock_ms / 1000, UTC).isoformat(timespec="seconds")
    p50, p95 = length(summary.age_p50_ms), length(summary.age_p95_ms)
    return (
        f"{summary.view}: {summary.entities:,} entities as of {clock}; newest event {p50} ago in "
        f"the median, {p95} at the 95th percentile; {summary.idle_share:.0%} idle beyond every window"
    )


def length(ms: int) -> str:
    """A span of time in the greatest unit that it reaches."""
    for size, unit in ((DAY_MS, "d"), (HOUR_MS, "h"), (MINUTE_MS, "min")):
        if ms >= size:
            return f"{ms / size:.1f} {unit}"
    return f"{ms / 1000:.1f} s"


def _bars(one: Distribution) -> str:
    most = max(one.histogram, default=0)
    return "".join(BARS[-(-count * (len(BARS) - 1) // most)] for count in one.histogram)
