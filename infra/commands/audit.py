"""`headrace audit`, and `headrace audit verify`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from infra.commands.audit_verify import verify
from infra.json_print import print_json

if TYPE_CHECKING:
    from features.settings import StoreSettings
    from infra.exactly_once import Judgement, Place

app = typer.Typer(name="audit")
app.command("verify")(verify)

SHOWN = 10


@app.callback(invoke_without_command=True)
def audit(
    context: typer.Context,
    since: str = typer.Option(
        "", help="Only what the broker received from then on: ISO, or 2h ago."
    ),
    *,
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Was every request answered exactly once? Judged from the topics alone; the scorer is not asked.

    Looks for requests lost, answered twice, answered and refused, or answered unasked; for results out of their key's
    order, ahead of the group's offsets, or archived though their transaction was aborted. It may run while requests are
    answered. Exit code 1 where anything is wrong. `headrace audit verify` looks at the record of decisions instead.

    Example: headrace audit --since 2h
    """
    if context.invoked_subcommand is not None:
        return
    import time

    from infra.exactly_once import check
    from infra.patience import patient
    from infra.settings import Settings
    from infra.time_option import time_option
    from infra.topic_history import read
    from schemas import topics

    settings = Settings.load()
    now_ms = time.time_ns() // 1_000_000
    judgement = check(
        read(
            settings.kafka,
            settings.case,
            requests=[t.name for t in topics.lanes(settings.case)],
            since_ms=time_option("--since", since, now_ms) if since else None,
            taken=lambda: _archived(settings.stores, settings.case),
            progress=patient(),
        )
    )
    if as_json:
        _print_json(judgement)
    else:
        _print(judgement)
    if judgement.findings:
        raise typer.Exit(1)


def _archived(stores: StoreSettings, case: str) -> Iterator[Place]:
    """The places of results that the lake holds: a reader that must not have seen what was aborted."""
    from features.lake import Lake, NoSuchLakeTable
    from infra.exactly_once import Place
    from schemas import topics

    columns = ("kafka_topic", "kafka_partition", "kafka_offset")
    table = topics.table_of(case)[f"{case}.results"].table
    try:
        rows = Lake(stores).scan(table, columns=columns)
    except NoSuchLakeTable:
        return
    for topic, partition, offset in zip(*(rows[name].to_pylist() for name in columns), strict=True):
        if topic is not None:
            yield Place(topic, partition, offset)


def _print_json(judgement: Judgement) -> None:
    import dataclasses

    told = dataclasses.asdict(judgement) | {"wrong": judgement.counts()}
    told["findings"] = [one._asdict() for one in judgement.findings]
    print_json(told)


def _print(judgement: Judgement) -> None:
    told = judgement
    typer.echo(
        f"{told.requests:,} requests: {told.results:,} results, {told.dead_letters:,} dead letters, "
        f"{told.waiting:,} still waiting"
    )
    if told.again:
        typer.echo(f"{told.again:,} ids were published again later than a repeat is recognised")
    if told.older:
        typer.echo(f"{told.older:,} results answer requests that are not there any more")
    typer.echo(", ".join(f"{count:,} {kind}" for kind, count in told.counts().items()))
    for one in told.findings[:SHOWN]:
        typer.echo(f"{one.kind}: {one.id}: {one.how}", err=True)
    if len(told.findings) > SHOWN:
        typer.echo(f"and {len(told.findings) - SHOWN:,} more; --json has all", err=True)
