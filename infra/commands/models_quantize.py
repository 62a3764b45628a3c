"""`headrace models quantize`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from infra.json_print import print_json
from infra.table_print import print_table

if TYPE_CHECKING:
    from schemas.manifest import Precision
    from serving.comparison import Comparison, Measured
    from serving.variants import Quantized

REFUSED = 2


def quantize(
    version: str = typer.Argument(help="The version, as it was trained."),
    to: str = typer.Option("int8,fp16", "--to", help="int8, fp16, or both with a comma."),
    case: str = typer.Option("", "--case", help="The use case; the settings' own if not given."),
    *,
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Make smaller variants of a version, as versions of their own, and compare each with it on the held-out rows.

    Nothing is released. A variant that is there already is compared again. Exit code 2 where there is nothing to make smaller:
    trees have no weights.

    Example: headrace models quantize v0002 --to int8
    """
    import dataclasses
    from pathlib import Path

    from infra.settings import Settings
    from schemas import usecase
    from serving.precision import NotQuantizable
    from serving.registry import Registry
    from serving.variants import quantize as made

    precisions = _precisions(to)
    settings = Settings.of_case(case)
    model = str(usecase.load("schemas", settings.case).MODEL)
    registry = Registry(Path(settings.serving.models_dir))
    try:
        found = made(registry, model, version, precisions)
    except NotQuantizable as error:
        typer.echo(f"headrace: {error}", err=True)
        raise typer.Exit(REFUSED) from None
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        _print(found)


def _precisions(to: str) -> list[Precision]:
    from serving.variants import PRECISIONS

    asked = [one.strip() for one in to.split(",") if one.strip()]
    if not asked or set(asked) - set(PRECISIONS):
        raise typer.BadParameter(f"--to {to!r} is not some of {', '.join(PRECISIONS)}")
    return [one for one in PRECISIONS if one in asked]


def _print(found: Quantized) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("version")
    for column in ("bytes", "µs alone", "µs a row of 256", "auc", "log_loss", "brier"):
        table.add_column(column, justify="right")
    table.add_row(*_origin(found.origin))
    for one in found.variants:
        table.add_row(*_variant(found.origin, one))
    print_table(table)
    for one in found.variants:
        typer.echo(
            f"{one.variant.version}: {one.flipped} of {one.rows:,} decisions flipped, scores differ by"
            f" {one.greatest:.2g} at most; a row's moves by {one.variant.company:.2g} with its batch"
        )
    best = min(found.variants, key=lambda one: (one.flipped, one.greatest)).variant.version
    typer.echo(
        f"made {', '.join(found.made) or 'nothing new'}; nothing is released."
        f" Next: headrace models sign {best} --reason TEXT, then headrace release canary {best} --share 5"
    )


def _origin(one: Measured) -> list[str]:
    return [
        f"{one.version} {one.precision}",
        f"{one.bytes:,}",
        *(f"{us:.3g}" for us in one.us_per_row.values()),
        *(f"{value:.4f}" for value in one.metrics.values()),
    ]


def _variant(origin: Measured, compared: Comparison) -> list[str]:
    """Size and times in per cent of the origin's, metrics with their change."""
    one = compared.variant
    return [
        f"{one.version} {one.precision}",
        f"{one.bytes:,} ({one.bytes / origin.bytes:.0%})",
        *(f"{us:.3g} ({us / origin.us_per_row[rows]:.0%})" for rows, us in one.us_per_row.items()),
        *(_changed(value, origin.metrics[name]) for name, value in one.metrics.items()),
    ]


def _changed(value: float, before: float) -> str:
    change = f"{value - before:+.4f}"
    return f"{value:.4f} ({'same' if float(change) == 0 else change})"
