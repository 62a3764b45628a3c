"""`headrace features rebuild`."""

from __future__ import annotations

import typer


def rebuild(
    *,
    view: list[str] = typer.Option([], "--view", help="Only this view; may be repeated."),
    yes: bool = typer.Option(False, "--yes", help="Do not ask first."),
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Fill the online store from the lake alone: for a Redis that lost what it held.

    Nothing newer is overwritten. Stop the materializer first and start it afterwards: it keeps rings in memory.

    Example: headrace features rebuild --view origin_departures --yes
    """
    import json
    import sys
    from importlib import import_module

    import structlog

    from features.views import Plan
    from infra.settings import Settings

    stores = Settings.load().stores
    plan = Plan.load(stores.plan_path)
    for name in view:
        _known(plan, name)
    if not yes:
        what = ", ".join(view) or "every view"
        typer.confirm(
            f"Rebuild {what} of {stores.redis_shown} from the lake?", abort=True, err=True
        )
    # Its log must not mix with the answer.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

    def told(name: str, done: int, of: int) -> None:
        typer.echo(f"{name}: {done:,} of {of:,}", err=True)

    # By name: it imports Feast.
    rebuilder = import_module("features.rebuild")
    written: dict[str, int] = rebuilder.rebuild(plan, stores, view or None, told)
    if as_json:
        typer.echo(json.dumps(written, indent=1))
        return
    for name, rings in written.items():
        typer.echo(f"{name}: {f'{rings:,} rings' if rings >= 0 else 'materialized'}")


def _known(plan: object, name: str) -> None:
    """A view of either kind; a misspelt one must not pass as nothing to do."""
    from features.views import UnknownDefinition

    views = [one.name for kind in ("views", "row_views") for one in getattr(plan, kind, ())]
    if name not in views:
        raise UnknownDefinition("--view", wanted=f"one of {sorted(views)}", came=f"{name!r}")
