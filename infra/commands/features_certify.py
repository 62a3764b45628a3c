"""`headrace features certify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from infra.json_print import print_json

if TYPE_CHECKING:
    from features.certify import Difference, Verdict
    from features.views import Plan, View
    from infra.settings import Settings


def certify(
    *,
    seeds: int = typer.Option(50, min=1, help="How many hostile streams; a certificate needs 50."),
    view: list[str] = typer.Option([], "--view", help="Only this view; may be repeated."),
    without_stream: bool = typer.Option(
        False, help="Leave out Flink and Kafka: seconds, but no full certificate."
    ),
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Run every view through the stream, the batch and the in-process executor on hostile streams, and compare.

    The stream is the view's own generated Flink job on the session cluster, under temporary names; what is applied is
    not touched. Writes a certificate a view. Exit code 1 if any value differs by more than 1e-9 relative; the smallest
    failing example is printed.

    Example: headrace features certify --seeds 50
    """
    from contextlib import closing

    from features import certificate
    from infra.settings import Settings

    settings = Settings.load()
    _say("compiling the definitions")
    plan = wanted_plan(settings)
    views = [plan.view(name) for name in view] or list(plan.views)
    verdicts = []
    # Closed whatever happens, Ctrl-C as well: its jobs and topics go with it.
    with closing(_verdicts(views, range(seeds), None if without_stream else settings)) as found:
        for verdict in found:
            _say(f"{verdict.view}: {verdict.compared:,} values, {verdict.differences:,} differ")
            made = _certificate(verdict, without_stream=without_stream)
            certificate.save(made, settings.stores.plan_path)
            verdicts.append(verdict)
    if as_json:
        _print_json(verdicts, without_stream=without_stream)
    else:
        _print(verdicts, str(certificate.folder_of(settings.stores.plan_path)))
    if any(verdict.differences for verdict in verdicts):
        raise typer.Exit(1)


def wanted_plan(settings: Settings) -> Plan:
    """The use case's definitions as they are in the code now, compiled: Feast's ten seconds after a change."""
    from features.compiled_plan import compiled_plan

    return compiled_plan(settings.case, settings.stores.plan_path)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _verdicts(views: list[View], seeds: range, settings: Settings | None) -> Any:  # noqa: ANN401
    """One verdict a view, as they come; without settings the stream is run in process."""
    from features.certify import certify as compare
    from features.hostile import stream
    from pipelines import certify_stream

    if settings is None:
        for view in views:
            yield compare(view, seeds)
        return
    by_name = {view.name: view for view in views}
    streams = {v.name: (v, [e for s in seeds for e in stream(v, s).events]) for v in views}
    for name, rows in certify_stream.rows_of(streams, settings.kafka, settings.flink, _say):
        yield compare(by_name[name], seeds, lambda *_, rows=rows: rows)


def _certificate(verdict: Verdict, *, without_stream: bool) -> Any:  # noqa: ANN401
    from datetime import UTC, datetime

    from features.certificate import Certificate, code_digest, engine_versions
    from features.certify import TOLERANCE

    return Certificate(
        view=verdict.view,
        fingerprint=verdict.fingerprint,
        executors=("ring" if without_stream else "stream", "batch", "reference"),
        seeds=verdict.seeds,
        compared=verdict.compared,
        differences=verdict.differences,
        difference_max=verdict.difference_max,
        tolerance=TOLERANCE,
        seconds=round(verdict.seconds, 3),
        code=code_digest(),
        versions=engine_versions(),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _print_json(verdicts: list[Verdict], *, without_stream: bool) -> None:

    told = [
        verdict._asdict() | {"smallest": verdict.smallest and verdict.smallest._asdict()}
        for verdict in verdicts
    ]
    answer = {"full": not without_stream, "views": told}
    print_json(answer, enc_hook=str)


def _print(verdicts: list[Verdict], folder: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("view", "seeds", "values", "differ", "greatest difference", "seconds"):
        table.add_column(column, justify="left" if column == "view" else "right", no_wrap=True)
    for one in verdicts:
        table.add_row(
            one.view,
            str(one.seeds),
            f"{one.compared:,}",
            f"{one.differences:,}",
            f"{one.difference_max:.1e}",
            f"{one.seconds:.1f}",
        )
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for one in verdicts:
        if one.smallest:
            _print_example(one.smallest)
    console.print(f"certificates in {folder}")


def _print_example(example: Difference) -> None:
    import msgspec

    at = "with its head tile whole, " if example.head == "whole" else ""
    stream = f"stream {example.stream}, " if example.head == "whole" else ""
    others = f"batch {example.batch}, reference {example.reference}"
    lines = [
        f"smallest difference: {example.view}, {example.feature} of {list(example.key)}",
        f"  {at}as of {example.as_of_ms}, seed {example.seed}: {stream}{others}",
        *(f"  event {msgspec.json.encode(event).decode()}" for event in example.events),
    ]
    typer.echo("\n".join(lines))
