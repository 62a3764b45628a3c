"""`headrace accuracy`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from infra.json_print import print_json
from infra.table_print import print_table

if TYPE_CHECKING:
    import pyarrow as pa

    from monitoring.scorecard import Answers, Score

app = typer.Typer()

METRICS = ("auc", "log_loss", "precision", "recall", "calibration_error", "mean_score", "rate")
WEEK = "week"


@app.command("accuracy")
def accuracy(
    since: str = typer.Option("", "--since", help="Requests from this time on: ISO, or 14d ago."),
    until: str = typer.Option("", "--until", help="Up to this time: the same."),
    by: str = typer.Option(
        "version,route",
        help="What tells groups apart: version, route, status, week, or any field of the request.",
    ),
    *,
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """What answers turned out to be worth, group by group: the accuracy of record, from the lake alone.

    Answers whose outcome never came are counted and judged by nothing. Of several outcomes of a request the first that was
    received counts. Weeks begin on Monday, in UTC. "Ago" counts back from
    the newest outcome in the lake.

    Example: headrace accuracy --since 60d --by week,version
    """
    import dataclasses

    from features.answers import answers, contradicted
    from features.lake import Lake
    from features.served import newest_ms
    from infra.patience import patient
    from infra.settings import Settings
    from infra.time_option import time_option
    from monitoring.scorecard import scorecard

    settings = Settings.load()
    names = tuple(dict.fromkeys(name.strip() for name in by.split(",") if name.strip()))
    fields = _fields(settings.case, names)
    lake = Lake(settings.stores)
    progress = patient()
    newest = newest_ms(lake, settings.case, "outcomes") if since or until else None
    progress("reading answers and outcomes")
    since_ms = time_option("--since", since, newest) if since else None
    rows = answers(
        lake,
        settings.case,
        since_ms=since_ms,
        until_ms=time_option("--until", until, newest) if until else None,
        fields=fields,
    )
    progress(f"judging {rows.num_rows:,} answers")
    changed = contradicted(lake, settings.case, since_ms=since_ms, among=rows)
    if changed and not as_json:
        typer.echo(
            f"{changed:,} requests have outcomes that contradict each other: the first received counts",
            err=True,
        )
    scores = scorecard(_told_apart(rows, names)) if rows.num_rows else ()
    if as_json:
        groups = [dataclasses.asdict(score) for score in scores]
        print_json({"contradicted": changed, "groups": groups})
    elif scores:
        _print(names, scores)
    else:
        typer.echo(f"no answers of {settings.case} in the lake of that time")


def _fields(case: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the names that are fields of the request."""
    from features.answers import RESULT_COLUMNS
    from schemas import usecase
    from schemas.errors import HeadraceError

    known = tuple(usecase.load("schemas", case).REQUEST.model_fields)
    own = (*(name for name in RESULT_COLUMNS if name in ("version", "route", "status")), WEEK)
    strange = [name for name in names if name not in (*own, *known)]
    if strange or not names:
        raise HeadraceError(
            "--by",
            wanted=f"some of {', '.join((*own, *known))}",
            came=", ".join(strange) or "nothing",
        )
    return tuple(name for name in names if name not in own)


def _told_apart(rows: pa.Table, names: tuple[str, ...]) -> Answers:
    import numpy as np

    from monitoring.scorecard import Answers

    def numbers(name: str) -> np.ndarray:
        values = rows[name].to_pylist()
        return np.array([np.nan if value is None else float(value) for value in values])

    groups = {
        name: np.array(_weeks(rows) if name == WEEK else rows[name].to_pylist(), dtype=object)
        for name in names
    }
    return Answers(groups, numbers("score"), numbers("label"), numbers("outcome"))


def _weeks(rows: pa.Table) -> list[str]:
    """The Monday of each request."""
    from datetime import UTC, datetime, timedelta

    days = [datetime.fromtimestamp(ms / 1000, UTC) for ms in rows["event_time_ms"].to_pylist()]
    return [f"{day - timedelta(days=day.weekday()):%Y-%m-%d}" for day in days]


def _print(names: tuple[str, ...], scores: tuple[Score, ...]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name)
    for name in ("answers", "unlabelled", *METRICS):
        table.add_column(name.replace("_", " "), justify="right")
    for score in scores:
        metrics = (getattr(score, name) for name in METRICS)
        table.add_row(
            *score.group.values(),
            f"{score.answers:,}",
            f"{score.unlabelled:,}",
            *("" if value is None else f"{value:.4f}" for value in metrics),
        )
    print_table(table)
