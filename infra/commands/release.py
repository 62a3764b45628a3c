"""`headrace release list | canary | promote | rollback | resume | shadow | pin | rule`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from infra.by_option import BY, said_by
from infra.json_print import print_json

if TYPE_CHECKING:
    from schemas.control import Release, Verdict
    from schemas.control_log import Entry
    from serving.release_orders import Orders

app = typer.Typer(name="release", no_args_is_help=True)

REASON = typer.Option("by command", "--reason", help="Kept with the release, for who asks later.")
AS_JSON = typer.Option(False, "--json", help="As JSON.")
OFF = typer.Option(False, "--off", help="End it.")
RULES = ("never", "only", "split")
PINS_SHOWN = 10


@app.command("list")
def list_releases(
    *,
    history: int = typer.Option(0, min=0, help="Also the newest N releases and verdicts."),
    as_json: bool = AS_JSON,
) -> None:
    """The release in force: champion, canary and its share, shadow, pins, rules, who decided and why.

    The topic of releases is compacted: of its history there is what Kafka has not yet cleaned away. Verdicts of the gate and
    of the guard are kept.

    Example: headrace release list --history 20
    """
    import json

    from infra.settings import Settings
    from serving import release_log

    settings = Settings.load()
    now = release_log.current(settings.kafka, settings.case)
    past = release_log.history(settings.kafka, settings.case, history) if history else []
    if as_json:
        told = now.model_dump(mode="json") if now else None
        if history:
            events = [entry.event.model_dump(mode="json") for entry in past]
            typer.echo(json.dumps({"in_force": told, "history": events}, indent=1))
        else:
            typer.echo(json.dumps(told, indent=1))
        return
    for entry in past:
        typer.echo(_past(entry))
    typer.echo(_said(now) if now else f"no release of {settings.case} yet")


@app.command("canary")
def canary(
    version: str = typer.Argument(help="The version to try."),
    *,
    share: float = typer.Option(..., min=0, max=100, help="Per cent of the keys that it answers."),
    reason: str = REASON,
    by: str = BY,
    as_json: bool = AS_JSON,
) -> None:
    """Let a version answer a share of the keys; again with another share to widen or narrow it.

    Which keys is a hash of key and version, the same on every replica. From then on the guard compares it with the champion, and
    promotes it or rolls it back.

    Example: headrace release canary v0007 --share 5 --reason "the new device features"
    """
    _tell(_orders(by).canary(version, share / 100, reason), as_json=as_json)


@app.command("promote")
def promote(*, reason: str = REASON, by: str = BY, as_json: bool = AS_JSON) -> None:
    """Make the canary in force the champion, without waiting for the guard.

    Example: headrace release promote --reason "enough seen"
    """
    _tell(_orders(by).promote(reason), as_json=as_json)


@app.command("rollback")
def rollback(*, reason: str = REASON, by: str = BY, as_json: bool = AS_JSON) -> None:
    """End the canary in force, and the pins to it. The champion is warm: it takes milliseconds.

    Example: headrace release rollback --reason "complaints" --by ann
    """
    from infra.settings import Settings
    from serving import release_log

    settings = Settings.load()
    who = said_by(by)
    ended = release_log.rollback(settings.kafka, settings.case, reason=reason, decided_by=who)
    _tell(ended, as_json=as_json)


@app.command("resume")
def resume(*, reason: str = REASON, by: str = BY, as_json: bool = AS_JSON) -> None:
    """Ask the champion again that an incident has suspended. Another incident of it, of a later window, suspends it again.

    Example: headrace release resume --reason "the labels were wrong"
    """
    from infra.settings import Settings
    from serving import release_log

    settings = Settings.load()
    who = said_by(by)
    resumed = release_log.resume(settings.kafka, settings.case, reason=reason, decided_by=who)
    _tell(resumed, as_json=as_json)


@app.command("shadow")
def shadow(
    version: str = typer.Argument("", help="The version."),
    *,
    off: bool = OFF,
    reason: str = REASON,
    by: str = BY,
    as_json: bool = AS_JSON,
) -> None:
    """Let a version score beside those that answer; its scores go to `<case>.shadow` and to nobody else.

    Example: headrace release shadow v0007
    """
    _one_of("VERSION", version, off=off)
    _tell(_orders(by).shadow(None if off else version, reason), as_json=as_json)


@app.command("pin")
def pin(
    version: str = typer.Argument("", help="The version."),
    *,
    key: str = typer.Option(..., help="The key of the requests: a card, an aircraft."),
    off: bool = OFF,
    reason: str = REASON,
    by: str = BY,
    as_json: bool = AS_JSON,
) -> None:
    """Let a version answer one key, whatever the split and the rules say. Pinned answers are not the guard's to judge.

    Example: headrace release pin --key card17 v0007
    """
    _one_of("VERSION", version, off=off)
    _tell(_orders(by).pin(key, None if off else version, reason), as_json=as_json)


@app.command("rule")
def rule(
    where: str = typer.Argument(help="FIELD=VALUE of a request."),
    canary: str = typer.Argument("", help="never, only, or split."),
    *,
    off: bool = OFF,
    reason: str = REASON,
    by: str = BY,
    as_json: bool = AS_JSON,
) -> None:
    """Whom a canary may answer: a rule that goes before those that the use case declares.

    `never` keeps the requests it fits with the champion; `only` keeps all others there; `split` lifts the use case's rule.

    Example: headrace release rule tenant=bank0 only
    """
    from schemas.control import CanaryRule

    field, equals, value = where.partition("=")
    if not (field and equals and value):
        raise typer.BadParameter(f"{where!r} is not FIELD=VALUE")
    _one_of("never, only or split", canary, off=off)
    if canary and canary not in RULES:
        raise typer.BadParameter(f"{canary!r} is none of never, only, split")
    chosen = None if off else CanaryRule(canary)
    _tell(_orders(by).rule(field, value, chosen, reason), as_json=as_json)


def _orders(by: str) -> Orders:
    from infra.settings import Settings
    from serving.release_orders import Orders

    settings = Settings.load()
    return Orders(
        settings.kafka, settings.stores, settings.serving, settings.case, decided_by=said_by(by)
    )


def _one_of(name: str, given: str, *, off: bool) -> None:
    if bool(given) == off:
        raise typer.BadParameter(f"either {name} or --off")


def _tell(published: Release, *, as_json: bool) -> None:
    if as_json:
        print_json(published.model_dump(mode="json"))
    else:
        typer.echo(_said(published))


def _said(release: Release) -> str:
    share = f"{release.canary_share * 100:.4g} %"
    canary = f", canary {release.canary} at {share}" if release.canary else ""
    shadow = f", shadow {release.shadow}" if release.shadow else ""
    who = f"{release.decided_by}: {release.reason}"
    suspended = " suspended" if release.suspended else ""
    lines = [
        f"epoch {release.epoch}: champion {release.champion}{suspended}{canary}{shadow} ({who})"
    ]
    lines += [f"  {key} is pinned to {to}" for key, to in list(release.pins.items())[:PINS_SHOWN]]
    if len(release.pins) > PINS_SHOWN:
        lines.append(f"  and {len(release.pins) - PINS_SHOWN} more pins (--json)")
    lines += [f"  {r.field}={r.value}: {r.canary}" for r in release.rules]
    return "\n".join(lines)


def _past(entry: Entry) -> str:
    from datetime import UTC, datetime

    from schemas.control import Release, Verdict

    at = datetime.fromtimestamp(entry.ingest_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    event = entry.event
    if isinstance(event, Release):
        return f"{at} {_said(event)}"
    assert isinstance(event, Verdict), event
    return f"{at} {_judged(event)}"


def _judged(verdict: Verdict) -> str:
    return f"verdict {verdict.verdict} on {verdict.candidate}: {verdict.reason}"
