"""`headrace reports serve`: the pages of the drift worker, and Evidently's own beside them, on loopback."""

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
) -> None:
    """Serve the index and the pages on 127.0.0.1 until Ctrl-C, and Evidently's workspace of the same windows.

    Whoever has an account on this machine can read them; nobody can change them. Evidently's pages ask for a token to write,
    `EVIDENTLY_SECRET`, or one that nobody knows. Exit code 130 after Ctrl-C, 1 where the port is taken.

    Example: headrace reports serve --port 8090
    """
    import signal

    from infra.commands.reports import folder_of
    from infra.local import process
    from infra.report_server import LOOPBACK, report_server
    from infra.settings import Settings

    folder = folder_of(Settings.load())
    workspace = folder / "evidently"
    beside = process.free_port() if evidently and workspace.exists() else None
    server = report_server(folder, port, beside)
    child = None
    # SIGTERM ends it as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        typer.echo(f"http://{LOOPBACK}:{server.server_port}/  the windows, newest first")
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
