"""`headrace models card`."""

from __future__ import annotations

import typer


def card(
    version: str = typer.Argument(help="The version."),
    case: str = typer.Option("", "--case", help="The use case; the settings' own if not given."),
    *,
    as_json: bool = typer.Option(False, "--json", help="The manifest, as JSON."),
) -> None:
    """What a person should know of a version: what it was trained on, what it is worth, what it leans on, what it is not for.

    Example: headrace models card v0002
    """
    from pathlib import Path

    from infra.json_print import print_json
    from infra.settings import Settings
    from schemas import usecase
    from schemas.manifest import CARD_FILE
    from serving.registry import Registry

    settings = Settings.of_case(case)
    model = str(usecase.load("schemas", settings.case).MODEL)
    made = Registry(Path(settings.serving.models_dir)).verify(model, version)
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    folder = Path(settings.serving.models_dir) / model
    # A variant was not trained: its card is its origin's.
    path = folder / (made.variant_of or version) / CARD_FILE
    typer.echo(path.read_text(encoding="utf-8") if path.exists() else f"{version} has no card")
