"""`headrace explain REQUEST_ID`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from infra.commands.features_show import length
from infra.json_print import print_json

if TYPE_CHECKING:
    from rich.console import Console

    from infra.decision import Decision

app = typer.Typer()

NEVER_SEEN = 3


@app.command("explain")
def explain(
    request_id: str = typer.Argument(help="The id that the request was published under."),
    *,
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """One decision, whole: request, features with ages and offsets, model, route and why, timings, outcome, trace.

    Read from the lake, from what the topics hold beyond it, and from the dead letters. Exit code 3 where the id was never
    seen (or everything of it is past its retention).

    Example: headrace explain flights-20130601-UA-1545
    """
    from pathlib import Path

    from infra.decision import told
    from infra.decision_search import Search
    from infra.patience import patient
    from infra.settings import Settings

    settings = Settings.load()
    models = Path(settings.serving.models_dir)
    search = Search(settings.kafka, settings.stores, models, settings.case, patient())
    decision = search.find(request_id)
    if decision is None:
        typer.echo(
            f"{request_id}: never seen in {settings.case}, neither asked nor refused", err=True
        )
        raise typer.Exit(NEVER_SEEN)
    if as_json:
        print_json(told(decision))
    else:
        _print(decision)


def _print(decision: Decision) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, 120)
    console.print(f"[bold]{decision.request_id}[/]  {decision.state}")
    for sentence in decision.sentences():
        console.print(sentence, markup=False)
    console.print()
    console.print(_facts(decision))
    for letter in decision.letters:
        console.print(f"\nrefused value: {letter.value}", markup=False)
    _print_features(console, decision)


def _facts(decision: Decision) -> Any:  # noqa: ANN401 - rich is imported when it prints
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, text in _lines(decision):
        table.add_row(name, escape(text))
    return table


def _lines(decision: Decision) -> list[tuple[str, str]]:
    answer, lines = decision.answer, []
    if decision.request is not None:
        asked = decision.request
        fields = asked.event.model_dump(mode="json", exclude={"event_time_ms", "request_id"})
        lines.append(("request", f"as of {_clock(asked.event.event_time_ms)}, {asked.place}"))
        lines.append(("", ", ".join(f"{name} {value}" for name, value in fields.items())))
    if answer is not None and decision.result is not None:
        lines.append(("result", f"{_clock(decision.result.ingest_ms)}, {decision.result.place}"))
    if decision.model is not None:
        of = decision.model
        since, until = _clock(of.trained.since_ms)[:10], _clock(of.trained.until_ms)[:10]
        measured = ", ".join(f"{name} {value:.4g}" for name, value in of.metrics.items())
        lines.append(("model", f"{of.model} {of.version}, threshold {of.threshold:.4g}"))
        lines.append(("", f"trained on {of.trained.rows:,} rows of {since} to {until}; {measured}"))
    if answer is not None:
        took = [f"{stage} {us / 1000:.2f} ms" for stage, us in answer.timings_us.items()]
        whole = decision.total_ms
        took += [f"request to answer at the broker {whole} ms"] if whole is not None else []
        lines.append(("took", ", ".join(took) or "not told"))
    outcome = decision.outcome
    lines.append(("outcome", _outcome(outcome.event) if outcome else "not known yet"))
    lines.append(("trace", decision.trace_id or "none"))
    return lines


def _outcome(event: Any) -> str:  # noqa: ANN401 - a use case's own contract
    fields = event.model_dump(mode="json", exclude={"event_time_ms", "request_id"})
    said = ", ".join(f"{name} {value}" for name, value in fields.items())
    return f"{said} ({_clock(event.event_time_ms)})"


def _print_features(console: Console, decision: Decision) -> None:
    from rich.table import Table

    from infra.decision import VIEW_SEPARATOR

    rows = decision.features()
    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("feature", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("newest event", no_wrap=True)
    # Where the store did not answer, nothing is behind any of them.
    other = "made of the others" if any(behind for *_, behind in rows) else "not read"
    for name, value, behind in rows:
        shown = "null" if value is None else f"{value:.6g}"
        if behind is None:
            made = other if VIEW_SEPARATOR in name else "the request itself"
            table.add_row(name, shown, "", made)
        elif behind.age_ms is None:
            table.add_row(name, shown, "never", "none")
        else:
            table.add_row(name, shown, length(behind.age_ms), behind.place or "not in the lake")
    console.print()
    console.print(table)


def _clock(time_ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(" ", "milliseconds")[:-6] + " UTC"
