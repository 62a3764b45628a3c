"""`headrace replay`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from infra.json_print import print_json

if TYPE_CHECKING:
    from rich.progress import Progress

    from serving.replay import Difference

app = typer.Typer()


@app.command("replay")
def replay(
    since: str = typer.Option("", "--from", help="From this event time on: ISO, or 2h, 7d ago."),
    until: str = typer.Option("", "--to", help="Up to this event time: the same."),
    model: str = typer.Option("", help="The version that scores; each result's own if not given."),
    limit: int | None = typer.Option(None, min=1, help="At most so many decisions, oldest first."),
    *,
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Score the logged vectors of past results again, and print what differs; results themselves stay as they are.

    What comes out is published to `<case>.replay`. "Ago" counts back from the newest result in the lake. After Ctrl-C the
    same command goes on where it stopped. Exit code 1 if each result's own version does not give the very same bits.

    Example: headrace replay --from 2d --model v0002
    """
    import dataclasses
    from pathlib import Path

    from features.lake import Lake
    from features.served import newest_ms
    from infra.settings import Settings
    from infra.time_option import time_option
    from serving.replay_run import Asked, Replay

    settings = Settings.load()
    lake = Lake(settings.stores)
    newest = newest_ms(lake, settings.case) if since or until else None
    asked = Asked(
        settings.case,
        since_ms=time_option("--from", since, newest) if since else None,
        until_ms=time_option("--to", until, newest) if until else None,
        version=model or None,
        limit=limit,
    )
    models, state = Path(settings.serving.models_dir), settings.data / "replay"
    one = Replay(asked, settings.kafka, lake, models, state)
    if one.resumed:
        typer.echo(f"goes on after {one.resumed.rows:,} decisions", err=True)
    difference = _run(one.run)
    told = dataclasses.asdict(difference)
    if as_json:
        print_json(told)
    else:
        _print(difference, model or "its own version")
    if not model and (difference.differing or difference.failed):
        raise typer.Exit(1)


def _run(run: Callable[[Callable[[int, int], None]], Difference]) -> Difference:
    """Run it under a bar on standard error."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    with Progress(
        *Progress.get_default_columns(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("scoring again", total=None)
        try:
            return run(lambda done, rows: bar.update(task, completed=done, total=rows))
        except KeyboardInterrupt:
            _interrupted(bar)
            raise


def _interrupted(bar: Progress) -> None:
    done = int(bar.tasks[0].completed)
    bar.stop()
    typer.echo(
        f"interrupted after {done:,} decisions; the same command goes on from there", err=True
    )


def _print(difference: Difference, version: str) -> None:
    from rich.console import Console
    from rich.table import Table

    told = difference
    same = "equal" if told.hash == told.logged_hash else "not equal"
    lines = [
        f"{told.replayed:,} decisions scored again by {version}",
        f"{told.equal:,} equal to the bit, {told.differing:,} differ, {told.flips:,} labels flipped",
        f"hashes {same}: {told.logged_hash[:16]} then, {told.hash[:16]} now",
    ]
    if told.worst is not None:
        lines.insert(2, f"greatest difference {told.greatest:.6g}, of request {told.worst}")
    if told.uncompared:
        lines.append(f"{told.uncompared:,} had no model's score then: a rule had answered")
    if told.failed:
        lines.append(f"{told.failed:,} get no score from {version}")
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(line, markup=False)
    table = Table(box=None, pad_edge=False)
    for column in ("score", "then", "now"):
        table.add_column(column, justify="right")
    for tenth, (then, now) in enumerate(zip(told.logged_bins, told.bins, strict=True)):
        table.add_row(f"{tenth / 10:.1f}-{(tenth + 1) / 10:.1f}", f"{then:,}", f"{now:,}")
    console.print(table)
