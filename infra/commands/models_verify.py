"""`headrace models verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from infra.json_print import print_json

if TYPE_CHECKING:
    from pathlib import Path

    from serving.signer import Signer

REFUSED = 1


def verify(
    version: str = typer.Argument(help="The version."),
    case: str = typer.Option("", "--case", help="The use case; the settings' own if not given."),
    *,
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Whether a replica would load a version: its files, its signature, and what was signed under this name before.

    Before you sign what a revoked key had signed, compare the digest: with the record here, with the candidate that training
    published, with the registry. Exit code 1 where it would be refused. Whether it fits the definitions is checked on release.

    Example: headrace models verify v0002
    """
    from infra.settings import Settings
    from schemas import usecase
    from serving.signer import Signer

    settings = Settings.of_case(case)
    model = str(usecase.load("schemas", settings.case).MODEL)
    signer = Signer.of(settings.serving, settings.admission)
    told = _told(signer, model, version)
    if as_json:
        print_json(told)
    else:
        _print(told)
    raise typer.Exit(REFUSED if told["refused"] else 0)


def _told(signer: Signer, model: str, version: str) -> dict[str, Any]:
    from serving import signature
    from serving.manifest import ModelRefused

    folder: Path = signer.registry.path(model, version)
    key_id, refused = None, None
    try:
        key_id = signature.verify_whole(folder, signer.key.trust)
    except ModelRefused as error:
        refused = str(error)
    return {
        "model": model,
        "version": version,
        "digest": signer.registry.digest(model, version),
        "signed_by": key_id or signature.signer(folder),
        "refused": refused,
        "record": signer.record(model, version),
    }


def _print(told: dict[str, Any]) -> None:
    from datetime import UTC, datetime

    name = f"{told['model']} {told['version']}"
    if told["refused"]:
        typer.echo(f"{name} would be refused: {told['refused']}")
    else:
        typer.echo(f"{name} is as it was signed, by {told['signed_by']}, which is trusted")
    typer.echo(f"its digest now: {told['digest']}")
    for one in told["record"]:
        at = datetime.fromtimestamp(one["signed_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        same = "the same" if one["digest"] == told["digest"] else f"ANOTHER, {one['digest']}"
        typer.echo(f"{at} {one['by']} signed {same}, with {one['key_id']}: {one['reason']}")
    if not told["record"]:
        typer.echo("nothing is on record here of who signed it")
