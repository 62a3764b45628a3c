"""The verbs of the `headrace` command line, one file a verb; `infra.cli.VERBS` lists them.

Each module exposes `app`: for a verb of its own `app = typer.Typer()` with `@app.command("up")`, for a verb with
sub-verbs `app = typer.Typer(name="topics")` with `@app.command("list")` and so on. A module is imported only when its
verb is used; heavy imports (engines, settings) still stand inside the functions. A failure is a `HeadraceError`,
raised: `infra.cli` turns it into one sentence and exit code 1. Settings come from `Settings.load()`.
"""
