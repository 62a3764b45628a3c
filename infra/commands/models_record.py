"""`headrace models keys record`, and how `sign`, `rotate` and `revoke` come to be on record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from infra.commands.models_access import listens
from infra.json_print import print_json

if TYPE_CHECKING:
    from infra.settings import Settings
    from schemas.control import KeyAct
    from serving.signer import Signer


def record(*, as_json: bool = typer.Option(False, "--json", help="As JSON.")) -> None:
    """Put on record what was signed, rotated and revoked while no broker was there. Harmless where nothing is missing.

    The next of these commands does the same by itself.

    Example: headrace models keys record
    """
    from infra.settings import Settings
    from infra.stderr_log import log_to_stderr
    from serving.key_record import KeyRecord

    log_to_stderr()
    settings = Settings.load()
    noted = KeyRecord.beside(Path(settings.admission.signing_key))
    acts, servers = len(noted.acts()), settings.kafka.bootstrap_servers
    if acts and not listens(servers):
        typer.echo(f"nothing put on record: nobody listens on {servers}", err=True)
        raise typer.Exit(1)
    sent = noted.send(settings.kafka)
    if as_json:
        print_json({"noted": acts, "sent": sent})
    else:
        typer.echo(f"{sent} put on record; all {acts} of {noted.path} are there")


def on_record(settings: Settings, signer: Signer, act: KeyAct) -> bool:
    """Note what was done, and put it on record with what was left from before; where that fails, say how to later."""
    from schemas.control_log import ControlLogUnavailable
    from serving.key_record import KeyRecord

    noted = KeyRecord.beside(signer.key.path)
    noted.note(act)
    servers = settings.kafka.bootstrap_servers
    why = f"nobody listens on {servers}"
    if listens(servers):
        try:
            noted.send(settings.kafka)
        except ControlLogUnavailable as error:
            why = str(error)
        else:
            return True
    typer.echo(
        f"not on record yet: {why}\nIt is kept in {noted.path}: once the broker is there,"
        " `headrace models keys record` puts it on record, as does the next sign, rotate or revoke.",
        err=True,
    )
    return False
