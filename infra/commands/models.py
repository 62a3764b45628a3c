"""`headrace models train | list | card | quantize | sign | verify | keys | registry | sbom`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from infra.commands.models_access import listens, recorded
from infra.commands.models_card import card
from infra.commands.models_keys import keys, sign
from infra.commands.models_quantize import quantize
from infra.commands.models_registry import registry, sbom
from infra.commands.models_verify import verify
from infra.json_print import print_json
from infra.table_print import print_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.settings import Settings
    from pipelines.train_process import Job
    from schemas.control import Release
    from schemas.manifest import Manifest

app = typer.Typer(name="models", no_args_is_help=True)
app.command("card")(card)
app.command("quantize")(quantize)
app.command("sign")(sign)
app.command("verify")(verify)
app.command("registry")(registry)
app.command("sbom")(sbom)
app.add_typer(keys)

CASE = typer.Option("", "--case", help="The use case; the settings' own if not given.")


@app.command("train")
def train(
    case: str = CASE,
    estimator: str = typer.Option(
        "", "--estimator", help="One of the use case's; its `train` if not given."
    ),
    since: str = typer.Option("", "--since", help="From this event time on: ISO, or 30d ago."),
    until: str = typer.Option("", "--until", help="Up to this event time: the same."),
    *,
    accept_data: bool = typer.Option(
        False, "--accept-data", help="Even where rows are unlike those of the champion."
    ),
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Fit a version on what the lake knows, as a retraining would. It is not released: that is `headrace release`.

    "Ago" counts back from the newest event in the lake. The last week of requests is held out, and measures the version.

    Example: headrace models train --case payments --estimator neural --since 60d
    """
    import time
    from pathlib import Path

    from infra.settings import Settings
    from schemas import usecase
    from schemas.manifest import Manifest

    settings = Settings.of_case(case)
    job = _job(settings, estimator, since, until)
    like = None if accept_data else _champion(settings)
    job = job.model_copy(update={"accept_data": accept_data, "like": like})
    began_s = time.monotonic()
    version = _trained(settings, job)
    took_s = time.monotonic() - began_s
    model = str(usecase.load("schemas", settings.case).MODEL)
    made = Manifest.read(Path(settings.serving.models_dir) / model / version)
    if as_json:
        print_json({**_row(made), "metrics": made.metrics, "took_s": round(took_s, 1)})
        return
    metrics = ", ".join(
        f"{name} {value:.4f}" for name, value in made.metrics.items() if name != "rows"
    )
    typer.echo(
        f"{model} {version}: {made.estimator}, on {made.trained.rows:,} rows in {took_s:.0f} s"
    )
    typer.echo(f"held out {made.metrics['rows']:,.0f} rows: {metrics}")
    typer.echo(
        f"Nothing is released. Next: headrace models sign {version} --reason TEXT, then"
        f" headrace release canary {version} --share 5"
    )


@app.command("list")
def list_versions(
    case: str = CASE, *, as_json: bool = typer.Option(False, "--json", help="As JSON.")
) -> None:
    """The versions on disk: what each was made of, how it measured, and what it is released as.

    Example: headrace models list --case payments
    """
    from pathlib import Path

    from infra.settings import Settings
    from schemas import usecase
    from serving.manifest import ModelRefused
    from serving.registry import Registry

    settings = Settings.of_case(case)
    model = str(usecase.load("schemas", settings.case).MODEL)
    registry = Registry(Path(settings.serving.models_dir))
    versions = registry.versions(model)
    release = release_in_force(settings) if versions else None
    rows = []
    for version in versions:
        try:
            made = registry.manifest(model, version)
        except ModelRefused as error:
            typer.echo(f"left out: {error}", err=True)
            continue
        rows.append({**_row(made), "released_as": released_as(release, version)})
    if as_json:
        print_json(rows)
    elif rows:
        _print(rows)
    else:
        typer.echo(f"no version of {model} under {settings.serving.models_dir}")


def _job(settings: Settings, estimator: str, since: str, until: str) -> Job:
    from infra.time_option import time_option
    from pipelines import estimators
    from pipelines.train_process import Job
    from pipelines.training_set import TrainingRefused, span_ms

    if estimator:
        # A misspelt one is told before the lake is read for it.
        estimators.estimator(settings.case, estimator)
    span = span_ms(settings.case, settings.stores)
    if span is None:
        raise TrainingRefused(
            f"the lake of {settings.case}",
            wanted="requests to train on",
            came="there are none",
            mend="The archiver brings them there: `headrace status`.",
        )
    first_ms, end_ms = span
    return Job(
        case=settings.case,
        # As the trainer does: a training reads no Redis, and its job is no place for a password.
        stores=settings.stores.model_copy(update={"redis_password": None}),
        models_dir=settings.serving.models_dir,
        since_ms=time_option("--since", since, end_ms) if since else first_ms,
        until_ms=time_option("--until", until, end_ms) if until else end_ms,
        estimator=estimator or None,
    )


def _champion(settings: Settings) -> str | None:
    """Whose rows those of a training by hand are compared with; None where no release is known to be in force."""
    from pathlib import Path

    from schemas import manifest, usecase

    model = str(usecase.load("schemas", settings.case).MODEL)
    trained = manifest.versions(Path(settings.serving.models_dir), model)
    release = release_in_force(settings) if trained else None
    return release.champion if release else None


def _trained(settings: Settings, job: Job) -> str:
    """Run the training process; its progress goes to standard error, each step once."""
    import logging
    import sys
    import threading

    import structlog

    from pipelines import trainer
    from pipelines.training_set import TrainingRefused
    from schemas.worker import WorkerContext

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    said = [""]

    def report(counters: Mapping[str, float | int | str]) -> None:
        if (doing := str(counters["training"])) != said[-1]:
            said.append(doing)
            typer.echo(f"{doing} …", err=True)

    context = WorkerContext(settings.case, threading.Event(), report)
    reading = recorded(settings, job)
    version, error = trainer.train(job, settings.pipelines, context, reading)
    if version is None:
        raise TrainingRefused(
            f"training of {settings.case}", wanted="a version", came=f"there is none: {error}"
        )
    return version


def _row(made: Manifest) -> dict[str, Any]:
    return {
        "model": made.model,
        "version": made.version,
        "estimator": made.estimator,
        "precision": made.precision,
        "variant_of": made.variant_of,
        "rows": made.trained.rows,
        "auc": made.metrics.get("auc"),
        "created_ms": made.created_ms,
    }


def release_in_force(settings: Settings) -> Release | None:
    """What is in force. What is on disk can be listed without Kafka, and without the ten seconds that its client tries."""
    from serving import release_log

    servers = settings.kafka.bootstrap_servers
    if not listens(servers):
        typer.echo(f"what is released is not known: nobody listens on {servers}", err=True)
        return None
    try:
        return release_log.current(settings.kafka, settings.case)
    except release_log.ReleaseRefused as error:
        typer.echo(f"what is released is not known: {error}", err=True)
        return None


def released_as(release: Release | None, version: str) -> str:
    """What a version is in a release, in words."""
    if release is None:
        return ""
    pins = sum(pinned == version for pinned in release.pins.values())
    roles = {
        "champion": release.champion == version,
        f"canary {release.canary_share * 100:.4g} %": release.canary == version,
        "shadow": release.shadow == version,
        f"{pins} pinned": pins > 0,
    }
    return ", ".join(role for role, holds in roles.items() if holds)


def _print(rows: list[dict[str, Any]]) -> None:
    from datetime import UTC, datetime

    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("version", "estimator", "precision", "rows", "auc", "created", "released as"):
        table.add_column(column, justify="right" if column in ("rows", "auc") else "left")
    for row in rows:
        of = f" of {row['variant_of']}" if row["variant_of"] else ""
        table.add_row(
            row["version"],
            row["estimator"],
            f"{row['precision']}{of}",
            f"{row['rows']:,}",
            "" if row["auc"] is None else f"{row['auc']:.4f}",
            datetime.fromtimestamp(row["created_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
            row["released_as"],
        )
    print_table(table)
