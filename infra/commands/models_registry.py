"""`headrace models registry`, and `headrace models sbom`: what is on record of versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from infra.json_print import print_json
from infra.table_print import print_table

if TYPE_CHECKING:
    from pathlib import Path

    from schemas.manifest import Manifest

CASE = typer.Option("", "--case", help="The use case; the settings' own if not given.")
DIGEST_CHARS = 16


def registry(
    case: str = CASE, *, as_json: bool = typer.Option(False, "--json", help="As JSON.")
) -> None:
    """What MLflow shows: every version that was released or admitted, its stage and aliases, its digest and run.

    Admission writes it, from the control topics; what is in force is `headrace release list`. Reading takes seconds: MLflow is
    imported.

    Example: headrace models registry --json
    """
    from pathlib import Path

    from infra.settings import Settings
    from schemas import usecase
    from serving.mlflow_registry import MlflowRegistry
    from serving.registry import Registry

    settings = Settings.of_case(case)
    model = str(usecase.load("schemas", settings.case).MODEL)
    uri = settings.admission.registry_uri
    mlflow = MlflowRegistry(uri, Registry(Path(settings.serving.models_dir)))
    rows = mlflow.rows(model) if uri else []
    if as_json:
        print_json(rows)
    elif rows:
        _print(rows)
    else:
        typer.echo(f"no version of {model} is registered in {uri or 'any registry: none is kept'}")


def sbom(
    version: str = typer.Argument(help="The version."),
    case: str = CASE,
    *,
    as_json: bool = typer.Option(False, "--json", help="The bill itself, instead of its path."),
) -> None:
    """The bill of materials of the environment that a version was trained in: the path of its CycloneDX file.

    Example: headrace models sbom v0002 --json
    """
    from pathlib import Path

    from infra.settings import Settings
    from schemas import usecase
    from serving.registry import Registry

    settings = Settings.of_case(case)
    model = str(usecase.load("schemas", settings.case).MODEL)
    models_dir = Path(settings.serving.models_dir)
    path = _bill(models_dir, Registry(models_dir).manifest(model, version))
    typer.echo(path.read_text(encoding="utf-8").rstrip() if as_json else path)


def _bill(models_dir: Path, said: Manifest) -> Path:
    """The bill of the version's lock; written now where that is the lock of this checkout."""
    from pipelines import sbom as bills
    from schemas.errors import HeadraceError
    from schemas.manifest import file_digest

    path = bills.path_of(models_dir, said.lock)
    if not path.exists() and bills.LOCK.exists() and file_digest(bills.LOCK) == said.lock:
        path = bills.ensure(bills.LOCK, models_dir)
    if not path.exists():
        raise HeadraceError(
            f"{said.model} {said.version}",
            wanted=f"the bill of materials of its lock in {path}",
            came="its lock is not known"
            if said.lock == bills.UNKNOWN
            else "there is none, and the lock here is another",
            mend="It was trained elsewhere: copy the file from there.",
        )
    return path


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("version", "MLflow", "stage", "aliases", "digest", "run"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["version"],
            str(row["number"]),
            row["stage"],
            ", ".join(row["aliases"]),
            str(row["digest"])[:DIGEST_CHARS],
            row["run_id"],
        )
    print_table(table)
