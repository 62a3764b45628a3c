"""`headrace reports serve`: the pages of the drift worker, the loop, and Evidently's own pages beside them, on loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

GRACE_S = 10.0


def serve(
    port: int = typer.Option(0, min=0, max=65_535, help="Of the pages; a free one by default."),
    *,
    evidently: bool = typer.Option(
        True, help="Serve Evidently's workspace too, on a port of its own; it comes up in 10 s."
    ),
    read_only: bool = typer.Option(
        False, "--read-only", help="Show the loop without the forms that speak to it."
    ),
) -> None:
    """Serve the index, the pages and the loop on 127.0.0.1 until Ctrl-C, and Evidently's workspace of the same windows.

    Whoever has an account on this machine can read them, and can say to the loop what its page offers, with the rights that
    you have in Kafka; `--read-only` offers nothing. Pages from elsewhere can do neither. Evidently's pages ask for a token to
    write, `EVIDENTLY_SECRET`, or one that nobody knows. Exit code 130 after Ctrl-C, 1 where the port is taken.

    Example: headrace reports serve --port 8090
    """
    import getpass
    import signal

    from infra.commands.reports import folder_of
    from infra.local import process
    from infra.loop_desk import Desk
    from infra.report_server import LOOP, LOOPBACK, report_server
    from infra.settings import Settings
    from infra.stderr_log import log_to_stderr

    log_to_stderr()
    settings = Settings.load()
    folder = folder_of(settings)
    workspace = folder / "evidently"
    beside = process.free_port() if evidently and workspace.exists() else None
    user = None if read_only else getpass.getuser()
    server = report_server(folder, port, beside, desk=Desk(settings, folder), user=user)
    child = None
    # SIGTERM ends it as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        own = f"http://{LOOPBACK}:{server.server_port}"
        typer.echo(f"{own}/  the windows, newest first")
        typer.echo(f"{own}{LOOP}  the loop, as it is when you look")
        if beside is not None:
            child = _evidently(workspace, beside)
            typer.echo(f"http://{LOOPBACK}:{beside}/  Evidently's pages, in some seconds")
        elif evidently:
            typer.echo(f"no Evidently workspace yet: {workspace}")
        server.serve_forever()
    finally:
        server.server_close()
        if child is not None:
            process.end(child, grace_s=GRACE_S)


def _evidently(workspace: Path, port: int) -> subprocess.Popen[bytes]:
    import os
    import sys

    from infra.local import process

    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "monitoring.reports",
        str(workspace.resolve()),
        str(port),
    ]
    log = workspace.parent / "evidently.log"
    return process.spawn(command, log=log, environment=os.environ)
