"""`headrace features parity`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from infra.json_print import print_json

if TYPE_CHECKING:
    from features.parity import ParityReport

EXAMPLES_SHOWN = 5
# A result may be in the lake before the events that its features were made of are.
SETTLE_S = 30


def parity(
    *,
    since: str = typer.Option("", help="From this event time on: ISO, or 2h, 30m, 7d ago."),
    until: str = typer.Option("", help="Up to this event time: the same."),
    service: str = typer.Option("", help="The feature service; the use case's own if not given."),
    html: Path | None = typer.Option(None, help="Also write a page with the worst examples."),
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Recompute what was served from the lake; per feature, what is equal, and for the rest the cause.

    Times are event times, of the requests; "ago" counts back from the newest result in the lake. Results read in the last
    30 s are left for next time. Exit code 1 if anything is unexplained.

    Example: headrace features parity --since 2h --html parity.html
    """
    from features.lake import Lake
    from features.parity import compare
    from features.served import newest_ms, served_vectors
    from features.views import Plan
    from infra.settings import Settings
    from infra.time_option import time_option
    from schemas import usecase

    settings = Settings.load()
    service = service or usecase.load("schemas", settings.case).SERVICE
    plan, lake = Plan.load(settings.stores.plan_path), Lake(settings.stores)
    newest = newest_ms(lake, settings.case)
    since_ms = time_option("--since", since, newest) if since else None
    until_ms = time_option("--until", until, newest) if until else None
    typer.echo("reading what was served", err=True)
    served = served_vectors(
        lake, plan, settings.case, service, since_ms=since_ms, until_ms=until_ms
    )
    settled = _settled(served)
    typer.echo(f"recomputing {len(settled):,} vectors", err=True)
    report = compare(plan, service, settled, lake)
    left_out = len(served) - len(settled)
    if html:
        from features.parity_page import page

        html.write_text(page(report, f"Parity of {service}"), encoding="utf-8")
    if as_json:
        _print_json(report, service, since_ms, until_ms, left_out)
    else:
        _print(report, left_out)
    if report.unexplained:
        raise typer.Exit(1)


def _settled(served: Any) -> Any:  # noqa: ANN401 - an Arrow table; Arrow is imported when it is needed
    import time

    import pyarrow.compute as pc

    return served.filter(pc.less(served["read_at_ms"], int((time.time() - SETTLE_S) * 1000)))


def _print_json(
    report: ParityReport, service: str, since_ms: int | None, until_ms: int | None, left_out: int
) -> None:
    told = {
        "service": service,
        "since_ms": since_ms,
        "until_ms": until_ms,
        **report.counts(),
        "left_out": left_out,
        "by_feature": report.by_feature,
        "examples": [example._asdict() for example in report.examples],
    }
    print_json(told)


def _print(report: ParityReport, left_out: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from features.causes import CAUSES

    table = Table(box=None, pad_edge=False)
    table.add_column("feature", no_wrap=True)
    for cause in CAUSES:
        table.add_column(cause.replace("_", " "), justify="right", no_wrap=True)
    for name, counts in report.by_feature.items():
        table.add_row(name, *(f"{counts[cause]:,}" for cause in CAUSES))
    table.add_row("all", *(f"{getattr(report, cause):,}" for cause in CAUSES), style="bold")
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, 120)
    console.print(table)
    for one in report.examples[:EXAMPLES_SHOWN]:
        console.print(
            f"{one.cause}: request {one.request_id}, {one.feature}: "
            f"served {one.served:.12g}, recomputed {one.recomputed:.12g}"
        )
    told = f"{report.compared:,} values compared, {report.unexplained:,} unexplained"
    console.print(f"{told}; {left_out:,} vectors are too new" if left_out else told)
