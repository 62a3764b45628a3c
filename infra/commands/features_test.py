"""`headrace features test`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from infra.json_print import print_json

if TYPE_CHECKING:
    from features.unit_test import Outcome

FOLDER = Path(__file__).parents[2] / "features" / "tests"


def check(
    files: list[Path] = typer.Argument(
        None, help="TOML files; if none, features/tests/<use case>_*.toml."
    ),
    *,
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Run definitions against rows in test files: no Kafka, no Flink, nothing running.

    A file holds a view, some [[event]] rows, and what to [[expect]] of which entity as of when; features/tests has two to
    begin with. Definitions are compiled first, which takes Feast's ten seconds once after a change. Exit code 1 if any
    expectation fails.

    Example: headrace features test features/tests/flights_origin.toml
    """
    from features.compiled_plan import compiled_plan
    from features.unit_test import run
    from infra.settings import Settings
    from schemas.errors import HeadraceError

    settings = Settings.load()
    chosen = files or sorted(FOLDER.glob(f"{settings.case}_*.toml"))
    if not chosen:
        raise HeadraceError(
            str(FOLDER),
            wanted=f"files {settings.case}_*.toml",
            came="there are none",
            mend="Write one: docs/first-feature.md shows how.",
        )
    typer.echo("compiling the definitions", err=True)
    plan = compiled_plan(settings.case, settings.stores.plan_path)
    outcomes = [outcome for path in chosen for outcome in run(path, plan)]
    if as_json:
        _print_json(outcomes)
    else:
        _print(outcomes)
    if not all(outcome.ok for outcome in outcomes):
        raise typer.Exit(1)


def _print_json(outcomes: list[Outcome]) -> None:

    told = [outcome._asdict() | {"ok": outcome.ok} for outcome in outcomes]
    print_json(told)


def _print(outcomes: list[Outcome]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    for one in outcomes:
        entity = ", ".join(str(value) for value in one.key.values())
        what = escape(f"{one.file}: {one.feature} of {entity} at {one.at}")
        if one.ok:
            console.print(f"[green]ok[/]      {what} = {_value(one.got)}")
            continue
        console.print(f"[red]failed[/]  {what}")
        console.print(f"          expected {_value(one.expected)}, got {_value(one.got)}")
        for event in one.events:
            console.print(f"          in its window: {escape(_row(event))}")
        if not one.events:
            console.print("          its window holds no event")
    failed = sum(not one.ok for one in outcomes)
    console.print(f"{len(outcomes)} expectations, {failed} failed")


def _value(value: float | None) -> str:
    return "null" if value is None else f"{value:.12g}"


def _row(event: object) -> str:
    import msgspec

    return msgspec.json.encode(event).decode()
