"""`headrace requirements check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from infra.json_print import print_json

if TYPE_CHECKING:
    from monitoring.requirement_check import Finding
    from schemas.requirements import Requirements

app = typer.Typer(name="requirements", no_args_is_help=True)

HOUR_MS = 3_600_000


@app.callback()
def requirements() -> None:
    """What the use case has signed off (`schemas/CASE.requirements.toml`), and whether it is met."""


@app.command("check")
def check(
    since: str = typer.Option(
        "",
        help="What the broker received from then on: ISO, or 2h ago; the file's window if not given.",
    ),
    *,
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Each requirement met or not, with what was measured and on how much. From the lake, by the broker's clock.

    Exit code 0 where all are met, 1 where one is not, 2 where there is not enough to say.

    Example: headrace requirements check --since 2h
    """
    import time

    from infra.requirement_evidence import evidence
    from infra.settings import Settings
    from infra.stderr_log import log_to_stderr
    from infra.time_option import time_option
    from monitoring.requirement_check import check as checked
    from monitoring.requirement_check import exit_code
    from schemas.requirements import InvalidRequirements, load, path_of

    log_to_stderr()
    settings = Settings.load()
    signed = load(settings.case)
    if signed is None:
        raise InvalidRequirements(
            f"requirements of {settings.case}",
            wanted=f"a file {path_of(settings.case)}",
            came="there is none",
            mend="Write one; owner and signed_off are all it must have.",
        )
    now_ms = time.time_ns() // 1_000_000
    since_ms = time_option("--since", since, now_ms) if since else now_ms - _window_ms(signed)
    findings = checked(signed, evidence(settings, since_ms))
    if as_json:
        told = {"owner": signed.owner, "signed_off": signed.signed_off.isoformat()}
        print_json({**told, "since_ms": since_ms, "requirements": findings})
    else:
        _print(signed, findings)
    raise typer.Exit(exit_code(findings))


def _window_ms(signed: Requirements) -> int:
    return int(signed.window_h * HOUR_MS)


def _print(signed: Requirements, findings: tuple[Finding, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    typer.echo(f"signed off by {signed.owner} on {signed.signed_off.isoformat()}")
    table = Table(box=None, pad_edge=False)
    for column in ("requirement", "", "signed off", "measured", "evidence"):
        numeric = column in ("signed off", "measured")
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for one in findings:
        value = "-" if one.value is None else f"{one.value:,.5g}"
        table.add_row(one.requirement, one.verdict, f"{one.bound:,.5g}", value, one.evidence)
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, 140)
    console.print(table)
