"""`headrace features …`: plan, apply and list; the other verbs are files beside this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from infra.commands.features_certify import certify
from infra.commands.features_freshness import freshness
from infra.commands.features_parity import parity
from infra.commands.features_rebuild import rebuild
from infra.commands.features_show import show
from infra.commands.features_test import check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from features.state_cost import Cost
    from pipelines.deploy import Deployed

PIPED_WIDTH = 200

app = typer.Typer(name="features", no_args_is_help=True)
app.command("certify")(certify)
app.command("freshness")(freshness)
app.command("parity")(parity)
app.command("rebuild")(rebuild)
app.command("show")(show)
app.command("test")(check)

SIGNS = {
    "added": "[green]+[/]",
    "changed": "[yellow]~[/]",
    "removed": "[red]-[/]",
    "unchanged": " ",
}


@app.command("plan")
def plan(*, as_json: bool = typer.Option(False, "--json", help="As JSON.")) -> None:
    """What `apply` would change: definitions, lake tables, topics, jobs; and what each view costs. Changes nothing.

    A definition that cannot be run is refused, and so is a contract that broke what was released.

    Example: headrace features plan --json
    """
    from infra.settings import Settings
    from pipelines import deploy

    settings = Settings.load()
    _print(
        deploy.plan(settings.case, settings.kafka, settings.stores, settings.flink),
        verb="would submit",
        as_json=as_json,
    )


@app.command("apply")
def apply(
    *,
    allow_service_changes: bool = typer.Option(
        False, "--allow-service-changes", help="Let a service mean something else by the same name."
    ),
    prune: bool = typer.Option(
        False, "--prune", help="Remove topics, rings and state of versions that nobody reads."
    ),
    again: list[str] = typer.Option(
        [], "--again", help="Count this view again from the lake, under a new version; repeatable."
    ),
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Register the definitions, create their tables and topics, run their Flink jobs.

    A view that changed is filled from the lake beside the running one, and readers switch when it has caught up; Ctrl-C
    before that changes nothing for them, and applying again goes on. Where flink.require_certificate is set, a view
    that `features certify` has not passed is refused.

    Example: headrace features apply
    Example: headrace features apply --prune
    Example: headrace features apply --again origin_departures
    """
    from infra.settings import Settings
    from pipelines import deploy

    settings = Settings.load()

    def progress(line: str) -> None:
        typer.echo(line, err=True)

    _print(
        deploy.apply(
            settings.case,
            settings.kafka,
            settings.stores,
            settings.flink,
            progress,
            allow_service_changes=allow_service_changes,
            prune=prune,
            again=again,
        ),
        verb="submitted",
        as_json=as_json,
    )


@app.command("list")
def list_features(*, as_json: bool = typer.Option(False, "--json", help="As JSON.")) -> None:
    """The features that were applied, by view: function, window, hop.

    Example: headrace features list --json
    """
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
    for of_rows in applied.row_views:
        keys = ", ".join(of_rows.join_keys)
        for field in of_rows.fields:
            origin = of_rows.topic or of_rows.table
            table.add_row(of_rows.name, keys, field, "newest row", "", "", origin)
    for made in applied.on_demand:
        read = ", ".join(dict.fromkeys([*(one.view for one in made.inputs), *made.request]))
        for field in made.features:
            table.add_row(made.name, "", field, f"{made.function}()", "", "", read)
    console = Console()
    # Piped, a table is not cut to the width of a terminal that is not there.
    console.width = console.width if console.is_terminal else PIPED_WIDTH
    console.print(table)
    for service in applied.services:
        typer.echo(f"service {service.name}: {len(service.features)} features")


def _print(deployed: Deployed, *, verb: str, as_json: bool) -> None:
    import json

    from rich.console import Console
    from rich.markup import escape

    if as_json:
        told: dict[str, Any] = deployed._asdict() | {"diff": deployed.diff._asdict()}
        told["costs"] = [_cost(cost) for cost in deployed.costs]
        typer.echo(json.dumps(told, indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    for sign, what in _changes(deployed):
        console.print(sign, escape(what))
    for cost in deployed.costs:
        console.print(f"  {cost.view}: {_in_words(cost)}")
    if deployed.topics is None:
        console.print("Kafka does not answer: its topics are not compared")
    if deployed.submitted is None:
        console.print("Flink does not answer: its jobs are not compared")
    else:
        console.print(f"{verb} {len(deployed.submitted)} Flink jobs")


def _changes(deployed: Deployed) -> Iterator[tuple[str, str]]:
    """What is made, changed, left and taken away, a line each: definitions, lake tables, topics, jobs."""
    for kind, sign in SIGNS.items():
        for name in getattr(deployed.diff, kind):
            yield sign, name
    added, removed = SIGNS["added"], SIGNS["removed"]
    yield from ((added, f"table {name}") for name in deployed.diff.tables)
    yield from ((added, f"topic {name}") for name in deployed.topics or ())
    taking_over = "a new version takes over, filled from the lake"
    yield from ((SIGNS["changed"], f"{name}: {taking_over}") for name in deployed.handed_over)
    refused = "means something else: its models are refused"
    yield from ((removed, f"service {name} {refused}") for name in deployed.services_changed)
    cut = "a job lost its state, it counts too few: headrace features apply --again"
    yield from ((removed, f"{name}: {cut} {name}") for name in deployed.incomplete)
    yield from ((removed, f"job {name}") for name in deployed.cancelled)
    yield from ((added, f"job of {view}") for view in deployed.submitted or ())
    yield from ((removed, what) for what in deployed.pruned)


def _cost(cost: Cost) -> dict[str, Any]:
    redis_gib, flink_gib = cost.gib_a_million
    return cost._asdict() | {
        "redis_gib_a_million": round(redis_gib, 3),
        "flink_gib_a_million": round(flink_gib, 3),
    }


def _in_words(cost: Cost) -> str:
    redis_gib, flink_gib = cost.gib_a_million
    if not cost.flink_bytes:
        return (
            f"{cost.ring_bytes:,} B an entity in Redis, nothing in Flink;"
            f" a million are {redis_gib:.1f} GiB"
        )
    return (
        f"{cost.ring_bytes:,} B an entity in Redis, at most {cost.flink_bytes:,} B in Flink;"
        f" a million are {redis_gib:.1f} and {flink_gib:.1f} GiB"
    )


def _duration(seconds: int) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
