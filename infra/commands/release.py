"""`headrace release list | promote | rollback`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from schemas.control import Release

app = typer.Typer(name="release", no_args_is_help=True)

REASON = typer.Option(..., "--reason", help="Kept with the release, for those who ask later.")


@app.command("list")
def list_releases(*, as_json: bool = typer.Option(False, "--json", help="As JSON.")) -> None:
    """The release in force: champion, canary and its share, shadow, who decided and why."""
    from infra.settings import Settings
    from serving import release_log

    settings = Settings.load()
    now = release_log.current(settings.kafka, settings.case)
    if as_json:
        typer.echo(now.model_dump_json(indent=1) if now else "null")
    else:
        typer.echo(_line(now) if now else f"no release of {settings.case} yet")


@app.command("promote")
def promote(reason: str = REASON) -> None:
    """Make the canary in force the champion."""
    from infra.settings import Settings
    from serving import release_log

    settings = Settings.load()
    typer.echo(_line(release_log.promote(settings.kafka, settings.case, reason=reason)))


@app.command("rollback")
def rollback(reason: str = REASON) -> None:
    """End the canary in force."""
    from infra.settings import Settings
    from serving import release_log

    settings = Settings.load()
    typer.echo(_line(release_log.rollback(settings.kafka, settings.case, reason=reason)))


def _line(release: Release) -> str:
    canary = f", canary {release.canary} at {release.canary_share:.0%}" if release.canary else ""
    shadow = f", shadow {release.shadow}" if release.shadow else ""
    who = f"{release.decided_by}: {release.reason}"
    return f"epoch {release.epoch}: champion {release.champion}{canary}{shadow} ({who})"
