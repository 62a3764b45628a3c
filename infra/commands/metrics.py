"""`headrace metrics`."""

from __future__ import annotations

import threading

import typer

app = typer.Typer()


@app.command("metrics")
def metrics(
    port: int = typer.Option(
        0, min=0, max=65_535, help="Serve them on this port of 127.0.0.1 until interrupted."
    ),
) -> None:
    """Print the stack's Prometheus metrics, or serve them: services, workers' counters, Flink jobs."""
    from prometheus_client import CollectorRegistry, generate_latest, start_http_server

    from infra.commands.status import summary
    from infra.local import stack
    from infra.metrics import StackMetrics
    from infra.settings import Settings

    settings = Settings.load()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StackMetrics(lambda: summary(settings, stack.status(settings))))
    if not port:
        typer.echo(generate_latest(registry).decode(), nl=False)
        return
    server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    typer.echo(f"http://127.0.0.1:{port}/metrics", err=True)
    try:
        threading.Event().wait()
    finally:
        server.shutdown()
        thread.join()
