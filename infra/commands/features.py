"""`headrace features plan | apply | list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pipelines.deploy import Deployed

PIPED_WIDTH = 200

app = typer.Typer(name="features", no_args_is_help=True)

SIGNS = {
    "added": "[green]+[/]",
    "changed": "[yellow]~[/]",
    "removed": "[red]-[/]",
    "unchanged": " ",
}


@app.command("plan")
def plan(*, as_json: bool = typer.Option(False, "--json", help="As JSON.")) -> None:
    """What `apply` would change: definitions, topics, jobs. Changes nothing."""
    from infra.settings import Settings
    from pipelines import deploy

    settings = Settings.load()
    _print(
        deploy.plan(settings.case, settings.kafka, settings.stores, settings.flink),
        verb="would submit",
        as_json=as_json,
    )


@app.command("apply")
def apply(*, as_json: bool = typer.Option(False, "--json", help="As JSON.")) -> None:
    """Register the definitions, create their tables and topics, run their Flink jobs."""
    from infra.settings import Settings
    from pipelines import deploy

    settings = Settings.load()

    def progress(line: str) -> None:
        typer.echo(line, err=True)

    _print(
        deploy.apply(settings.case, settings.kafka, settings.stores, settings.flink, progress),
        verb="submitted",
        as_json=as_json,
    )


@app.command("list")
def list_features(*, as_json: bool = typer.Option(False, "--json", help="As JSON.")) -> None:
    """The features that were applied, by view: function, window, hop."""
    import json

    import msgspec
    from rich.console import Console
    from rich.table import Table

    from features.views import Plan
    from infra.settings import Settings

    applied = Plan.load(Settings.load().stores.plan_path)
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(applied), indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("view", "by", "feature", "is", "window", "hop", "stream"):
        table.add_column(column, no_wrap=True)
    for view in applied.views:
        keys = ", ".join(key.name for key in view.join_keys)
        for one in view.aggregates:
            what = f"{one.function}({one.column})"
            window, hop = _duration(one.window_s), _duration(one.hop_s)
            table.add_row(view.name, keys, one.name, what, window, hop, view.topic)
    console = Console()
    # Piped, a table is not cut to the width of a terminal that is not there.
    console.width = console.width if console.is_terminal else PIPED_WIDTH
    console.print(table)
    for service in applied.services:
        typer.echo(f"service {service.name}: {len(service.features)} features")


def _print(deployed: Deployed, *, verb: str, as_json: bool) -> None:
    import json

    from rich.console import Console

    if as_json:
        told: dict[str, Any] = deployed._asdict() | {"diff": deployed.diff._asdict()}
        typer.echo(json.dumps(told, indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    for kind, sign in SIGNS.items():
        for name in getattr(deployed.diff, kind):
            console.print(f"{sign} {name}")
    if deployed.submitted is None:
        console.print("Flink does not answer: its jobs are not compared")
    else:
        console.print(f"{verb} {len(deployed.submitted)} Flink jobs")
    for name in deployed.cancelled:
        console.print("[red]-[/]", "job", name.replace("[", r"\["))


def _duration(seconds: int) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
