"""`headrace models keys list | rotate | revoke | record`, and `headrace models sign`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from infra.by_option import said_by
from infra.commands.models_record import on_record, record
from infra.json_print import print_json
from infra.table_print import print_table

if TYPE_CHECKING:
    from infra.settings import Settings
    from serving.signer import Signer

keys = typer.Typer(
    name="keys",
    no_args_is_help=True,
    help="Whose signatures count: list, rotate, revoke; record what was done.",
)

keys.command("record")(record)

JSON = typer.Option(False, "--json", help="As JSON.")


@keys.command("list")
def list_keys(*, as_json: bool = JSON) -> None:
    """The keys whose signatures count or did once, the newest first: which one signs, and which versions each signed.

    Example: headrace models keys list --json
    """
    from infra.settings import Settings

    rows = _rows(_signer(Settings.load()))
    if as_json:
        print_json(rows)
    elif rows:
        _print(rows)
    else:
        typer.echo("no key yet: admission makes one at its first start")


@keys.command("rotate")
def rotate(
    *,
    reason: str = typer.Option("", "--reason", help="Kept on the record."),
    as_json: bool = JSON,
) -> None:
    """Sign with a new key from now on. What older keys signed stays signed; the old private key is deleted.

    Example: headrace models keys rotate
    """
    from infra.settings import Settings
    from schemas.control import KeyActKind
    from serving.key_record import key_act

    settings = Settings.load()
    signer = _signer(settings)
    before, now = signer.key.current(), signer.key.rotate()
    kind, by = KeyActKind.ROTATE, said_by()
    act = key_act(settings.case, kind, before, by=by, reason=reason, signs=now)
    recorded = on_record(settings, signer, act)
    if as_json:
        print_json({"signed_until_now": before, "signs": now, "on_record": recorded})
        return
    typer.echo(f"{now} signs from now on; its private key is {signer.key.path}. Keep a copy safe.")
    if before:
        typer.echo(f"{before} stays trusted, and what it signed is loaded as before.")


@keys.command("revoke")
def revoke(
    key_id: str = typer.Argument(help="The key, as `headrace models keys list` shows it."),
    *,
    reason: str = typer.Option(..., "--reason", help="Kept with the key, and told on refusal."),
    as_json: bool = JSON,
) -> None:
    """Let no signature of a key count from now on, also of before. A key that signs is replaced by a new one.

    Replicas let go of canaries, shadows and pinned versions within seconds; a champion answers on until its replica starts
    anew. The versions concerned are listed: make sure of each, and sign it anew.

    Example: headrace models keys revoke 8c845f87a91e9df8 --reason "a backup was lost"
    """
    from infra.settings import Settings

    settings = Settings.load()
    signer = _signer(settings)
    instead, recorded = _revoked(settings, signer, key_id, reason)
    concerned = _released_as(settings, signer.signed_by(key_id))
    if as_json:
        told = {"revoked": key_id, "signs": instead, "versions": concerned}
        print_json({**told, "on_record": recorded})
        return
    typer.echo(f"{key_id} is revoked: {reason}")
    if instead:
        typer.echo(f"{instead} signs from now on; its private key is {signer.key.path}.")
    if not concerned:
        typer.echo("It signed no version that is here.")
        return
    typer.echo(
        "No replica loads these any more. Of those in memory a champion answers on, others stop within seconds:"
    )
    for one in concerned:
        role = f"  {one['released_as']}" if one["released_as"] else ""
        typer.echo(f"  {one['model']} {one['version']}{role}")
    typer.echo(
        "Make sure that each is what was trained, those that are released first, then sign it:\n"
        "  headrace models verify VERSION\n"
        "  headrace models sign VERSION --reason TEXT"
    )


def sign(
    version: str = typer.Argument(help="The version that you vouch for."),
    case: str = typer.Option("", "--case", help="The use case; the settings' own if not given."),
    *,
    reason: str = typer.Option(..., "--reason", help="Why; kept with your name in signed.jsonl."),
    as_json: bool = JSON,
) -> None:
    """Vouch for a version in person: every byte is verified against its manifest, then signed with admission's key.

    Admission signs by itself what passes its gate. This is for what it did not judge – a version that you trained, a variant – and
    for what a revoked key signed. Only where the private key is.

    Example: headrace models sign v0003 --reason "compared on the held-out rows"
    """
    from infra.settings import Settings
    from schemas import usecase
    from schemas.control import KeyActKind
    from serving.key_record import key_act

    settings = Settings.of_case(case)
    model = str(usecase.load("schemas", settings.case).MODEL)
    signer = _signer(settings)
    first = not signer.key.path.exists()
    key_id, said, digest = signer.sign(model, version, by=said_by(), reason=reason)
    if first:
        made = f"made the key that signs: {signer.key.path}. Keep a copy where nobody else reads it"
        typer.echo(f"{made}; there is no other.", err=True)
    kind, by, signed = KeyActKind.SIGN, said_by(), (model, version, digest)
    act = key_act(settings.case, kind, key_id, by=by, reason=reason, signed=signed)
    recorded = on_record(settings, signer, act)
    if as_json:
        told = {"model": model, "version": version, "digest": digest, "key_id": key_id}
        print_json({**told, "by": by, "reason": reason, "on_record": recorded})
        return
    metrics = ", ".join(f"{k} {v:.4f}" for k, v in said.metrics.items() if k != "rows")
    typer.echo(f"{model} {version} is signed by {key_id}: {len(said.files) + 1} files, {digest}")
    typer.echo(f"{said.estimator}, {said.precision}, on {said.trained.rows:,} rows: {metrics}")


def _revoked(
    settings: Settings, signer: Signer, key_id: str, reason: str
) -> tuple[str | None, bool]:
    """The key that signs instead, if another does; and whether it is on record."""
    from schemas.control import KeyActKind
    from serving.key_record import key_act

    trust, instead = signer.key.trust, None
    before, recorded = trust.key(key_id).revoked, True
    try:
        instead = signer.key.revoke(key_id, by=said_by(), reason=reason)
    finally:
        # It may be revoked though what followed failed.
        if instead or (before is None and trust.key(key_id).revoked is not None):
            kind, by = KeyActKind.REVOKE, said_by()
            act = key_act(settings.case, kind, key_id, by=by, reason=reason, signs=instead)
            recorded = on_record(settings, signer, act)
    return instead, recorded


def _signer(settings: Settings) -> Signer:
    import logging
    import sys

    import structlog

    from serving.signer import Signer

    # What it logs is said in sentences here.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    return Signer.of(settings.serving, settings.admission)


def _rows(signer: Signer) -> list[dict[str, Any]]:
    from serving.signing_key import KeyRefused

    try:
        signs = signer.key.current()
    except KeyRefused as error:
        # Whose signatures count is everybody's to see; which key signs, only of who may read it.
        typer.echo(f"which key signs is not known: {error}", err=True)
        signs = None
    return [
        {
            "key_id": one.key_id,
            "signs": one.key_id == signs,
            "added_ms": one.added_ms,
            "revoked": one.revoked.model_dump() if one.revoked else None,
            "versions": signer.signed_by(one.key_id),
        }
        for one in signer.key.trust.all_keys()
    ]


def _released_as(settings: Settings, versions: list[dict[str, str]]) -> list[dict[str, str]]:
    """The versions, each with what it is in the release in force; of other use cases that is not known here."""
    from infra.commands import models
    from schemas import usecase

    mine = str(usecase.load("schemas", settings.case).MODEL)
    known = any(one["model"] == mine for one in versions)
    release = models.release_in_force(settings) if known else None
    return [
        {
            **one,
            "released_as": models.released_as(release, one["version"])
            if one["model"] == mine
            else "",
        }
        for one in versions
    ]


def _print(rows: list[dict[str, Any]]) -> None:
    from datetime import UTC, datetime

    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("key", "since", "state", "signed"):
        table.add_column(column)
    for row in rows:
        revoked = row["revoked"]
        state = "signs" if row["signs"] else "trusted"
        since = datetime.fromtimestamp(row["added_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M")
        table.add_row(
            row["key_id"],
            since,
            Text(f"revoked by {revoked['by']}: {revoked['reason']}" if revoked else state),
            ", ".join(f"{one['model']} {one['version']}" for one in row["versions"]),
        )
    print_table(table)
