"""`headrace audit verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from infra.json_print import print_json

if TYPE_CHECKING:
    from monitoring.audit_chain import Judgement

SHOWN = 10


def verify(
    *,
    head: str = typer.Option(
        "", help="SEQUENCE:HASH as an earlier run printed it, and as it must still be."
    ),
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Is the record of decisions whole? Walks the chain, and compares it with the control topics and the lake.

    Finds links that were changed, left out, swapped, cut off or added, and control events that were changed or are in no
    link. Exit code 1 where anything is wrong; each finding names its link. Note the head it prints elsewhere, and ask for it
    with --head later: that finds a record that was rewritten from some link to its end, topics and all.

    Example: headrace audit verify --head 42:9f2c51d07b1e
    """
    from infra.record import judge
    from infra.settings import Settings
    from infra.stderr_log import log_to_stderr

    log_to_stderr()
    settings = Settings.load()
    judgement = judge(settings.kafka, settings.stores, settings.case, _noted(head))
    if as_json:
        print_json(judgement)
    else:
        _print(judgement)
    if judgement.findings:
        raise typer.Exit(1)


def _noted(head: str) -> tuple[int, str] | None:
    if not head:
        return None
    sequence, _, digest = head.partition(":")
    if not sequence.isdigit() or not digest:
        raise typer.BadParameter(f"{head!r} is not SEQUENCE:HASH", param_hint="--head")
    return int(sequence), digest


def _print(told: Judgement) -> None:
    typer.echo(
        f"{told.links:,} links: {told.proved:,} agree with their topic, "
        f"{told.compacted:,} with releases compacted since; {told.waiting:,} events too young for one"
    )
    typer.echo(f"head {told.links}:{told.head}")
    if not told.findings:
        typer.echo("nothing is wrong")
    for one in told.findings[:SHOWN]:
        typer.echo(f"{one.kind}: link {one.sequence}: {one.how}", err=True)
    if len(told.findings) > SHOWN:
        typer.echo(f"and {len(told.findings) - SHOWN:,} more; --json has all", err=True)
