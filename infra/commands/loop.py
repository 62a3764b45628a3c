"""`headrace loop status | approve | refuse | pause | resume`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from infra.by_option import BY
from infra.json_print import print_json

if TYPE_CHECKING:
    from monitoring.loop_status import LoopStatus, OrderStatus
    from schemas.control import BrakeKind

app = typer.Typer(name="loop", no_args_is_help=True)

DAY_MS = 86_400_000
ORDERED = ("paused", "proposed", "retraining")
AS_JSON = typer.Option(False, "--json", help="As JSON.")
ORDER = typer.Argument(help="As `headrace loop status` shows it.")


@app.command("status")
def status(
    *,
    alerts: int = typer.Option(5, min=0, help="How many of the last alerts."),
    as_json: bool = AS_JSON,
) -> None:
    """Whether the loop would act now, the open order and how far it is, what was done about the last alerts.

    All times are the stream's clock, UTC.

    Example: headrace loop status --alerts 10
    """
    import dataclasses

    from infra import loop_words
    from infra.settings import Settings
    from infra.stderr_log import log_to_stderr
    from monitoring import brake
    from monitoring.loop_status import loop_status
    from schemas.control_log import ControlLog

    log_to_stderr()
    settings = Settings.load()
    with ControlLog(settings.kafka, settings.case, brake.TOPICS) as control:
        entries = control.read_all()
    now_ms = brake.clock_ms(entries, loop_words.clock_ms(settings))
    told = loop_status(settings.case, entries, loop_words.policy_of(settings), now_ms, alerts)
    doing = loop_words.training(settings)
    if as_json:
        print_json({**dataclasses.asdict(told), "training": doing or None})
        return
    typer.echo("\n".join(_lines(told)))
    if doing:
        typer.echo(f"the trainer is at: {doing}")


@app.command("approve")
def approve(
    order: str = ORDER,
    *,
    reason: str = typer.Option("by command", help="Kept with the word."),
    by: str = BY,
    as_json: bool = AS_JSON,
) -> None:
    """Let a proposed order be trained. Exit code 1 where it waits for nobody, or no longer.

    Example: headrace loop approve order-alert-payments-v0001-1371081600000
    """
    from schemas.control import BrakeKind

    _pull(BrakeKind.APPROVE, reason, by, order=order, as_json=as_json)


@app.command("refuse")
def refuse(
    order: str = ORDER,
    *,
    reason: str = typer.Option(..., help="Kept with the word."),
    by: str = BY,
    as_json: bool = AS_JSON,
) -> None:
    """Close an order that has no candidate yet; it is not trained, or what is being trained is thrown away.

    Example: headrace loop refuse order-alert-payments-v0001-1371081600000 --reason "a sale, not drift"
    """
    from schemas.control import BrakeKind

    _pull(BrakeKind.REFUSE, reason, by, order=order, as_json=as_json)


@app.command("pause")
def pause(
    *,
    reason: str = typer.Option(..., help="Kept with the word."),
    until: str = typer.Option(
        "", help="When it ends by itself, by the stream's clock: ISO, or 12h from now."
    ),
    by: str = BY,
    as_json: bool = AS_JSON,
) -> None:
    """Order nothing from now on. Windows are judged and alerts published all the same; an open order goes on.

    Example: headrace loop pause --reason "labels are late" --until 2d
    """
    from schemas.control import BrakeKind

    _pull(BrakeKind.PAUSE, reason, by, until=until, as_json=as_json)


@app.command("resume")
def resume(
    *,
    reason: str = typer.Option("by command", help="Kept with the word."),
    by: str = BY,
    as_json: bool = AS_JSON,
) -> None:
    """End a pause. What was held back meanwhile is not made up for: the next drifted window is.

    Example: headrace loop resume
    """
    from schemas.control import BrakeKind

    _pull(BrakeKind.RESUME, reason, by, as_json=as_json)


def _pull(
    kind: BrakeKind,
    reason: str,
    by: str,
    *,
    order: str | None = None,
    until: str = "",
    as_json: bool,
) -> None:
    from infra import loop_words
    from infra.settings import Settings
    from infra.stderr_log import log_to_stderr

    log_to_stderr()
    word = loop_words.pull(Settings.load(), kind, reason=reason, by=by, order=order, until=until)
    if as_json:
        print_json(word.model_dump(mode="json"))
    else:
        typer.echo(loop_words.said(word))


def _lines(told: LoopStatus) -> list[str]:
    from monitoring.loop import day

    # What is open has a line of its own.
    why = f": {told.held_back_by}" if told.held_back_by and told.state not in ORDERED else ""
    lines = [f"{told.case}: {told.state}{why}; the stream's clock is {day(told.clock_ms)}"]
    if told.paused_by:
        until = f" until {day(told.paused_until_ms)}" if told.paused_until_ms else ""
        lines.append(f"paused{until} by {told.paused_by}")
    lines += _order_lines(told.order) if told.order else ["no order yet"]
    lines.append(
        f"{told.budget_left} of {told.budget} orders left in {told.budget_per_ms / DAY_MS:g} days"
        + (f", cool-down until {day(told.cool_down_until_ms)}" if told.cool_down_until_ms else "")
        + (", an order needs approval" if told.approval else "")
    )
    for alert in told.alerts:
        kinds, columns = ", ".join(alert.kinds), ", ".join(alert.columns)
        of = f" ({columns})" if columns else ""
        lines.append(f"alert {day(alert.at_ms)} {kinds} of {alert.version}{of}: {alert.done}")
    return lines if told.alerts else [*lines, "no alert yet"]


def _order_lines(order: OrderStatus) -> list[str]:
    from monitoring.loop import day

    state = "open" if order.is_open else "closed"
    lines = [f"{state} order {order.order_id}, {day(order.opened_ms)}: {order.reason}"]
    if order.is_open and order.approve_by_ms and not order.steps:
        lines.append(f"  waits for approval until {day(order.approve_by_ms)}")
    return lines + [f"  {step}" for step in order.steps]
