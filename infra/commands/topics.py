"""`headrace topics list | apply | grow`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from schemas.topics import Topic

app = typer.Typer(name="topics", no_args_is_help=True)

DAY_MS = 86_400_000


@app.command("list")
def list_topics(*, as_json: bool = typer.Option(False, "--json", help="As JSON.")) -> None:
    """The table of topics: contract, key, partitions, retention."""
    import json

    from rich.console import Console
    from rich.table import Table

    from infra.settings import Settings
    from schemas import topics

    table = topics.table_of(Settings.load().case).values()
    if as_json:
        typer.echo(json.dumps([_row(topic) for topic in table], indent=1))
        return
    view = Table(box=None, pad_edge=False)
    view.add_column("topic", no_wrap=True)
    for column in ("contract", "key", "partitions", "kept"):
        view.add_column(column)
    for topic in table:
        contract = topic.contract.__name__ if topic.contract else ""
        view.add_row(topic.name, contract, topic.key, str(topic.partitions), _kept(topic))
    Console().print(view)


@app.command("apply")
def apply(*, as_json: bool = typer.Option(False, "--json", help="As JSON.")) -> None:
    """Create the topics that are missing; those that exist are left as they are."""
    import json

    from infra.settings import Settings
    from schemas import topics

    settings = Settings.load()
    created = topics.apply(settings.kafka, settings.case)
    if as_json:
        typer.echo(json.dumps({"created": created}))
    else:
        typer.echo("\n".join(f"created {name}" for name in created) or "nothing to create")


@app.command("grow")
def grow(*, as_json: bool = typer.Option(False, "--json", help="As JSON.")) -> None:
    """Add partitions to topics that have fewer than their row says; order is promised within a partition only."""
    import json

    from infra.settings import Settings
    from schemas import topics

    settings = Settings.load()
    grown = topics.grow(settings.kafka, settings.case)
    if as_json:
        typer.echo(json.dumps({"grown": grown}))
    else:
        typer.echo("\n".join(f"grew {name}" for name in grown) or "nothing to grow")


def _row(topic: Topic) -> dict[str, str | int | bool | None]:
    return {
        "name": topic.name,
        "contract": topic.contract.__name__ if topic.contract else None,
        "key": topic.key,
        "partitions": topic.partitions,
        "retention_ms": topic.retention_ms,
        "compacted": topic.compacted,
    }


def _kept(topic: Topic) -> str:
    if topic.compacted:
        return "newest of a key"
    return "for ever" if topic.retention_ms < 0 else f"{topic.retention_ms // DAY_MS} d"
