"""The `headrace` command line: which verbs there are, and what becomes of their errors.

Exit codes: 0 done, 1 failed (one sentence on stderr), 2 wrong usage, 130 Ctrl-C. A verb's module is imported only when
that verb is called, so that `headrace --help` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import NoReturn

import typer
from rich.console import Console

from schemas.errors import HeadraceError

# Verb → its line in the help; an empty line hides it. The module is `infra.commands.<verb>`.
VERBS = {
    "up": "Start the local stack, or join the one that runs.",
    "down": "Stop the local stack; leaves no process.",
    "status": "Engines, workers, ports, Flink jobs.",
    "doctor": "What this machine lacks for headrace, and how to mend it.",
    "metrics": "The stack's Prometheus metrics: printed, or served on a port.",
    "logs": "Show or follow the log of a service.",
    "demo": "New York flights, end to end, on the real engines.",
    "features": "Test, plan, certify and apply feature definitions; parity; what they hold.",
    "topics": "The one table of topics: list it, create what is missing.",
    "schemas": "Export contracts as JSON Schema; check that changes are compatible.",
    "models": "Versions: train one, list them, make smaller variants, sign; whose signatures count.",
    "release": "Who answers: list, canary, promote, roll back, resume, shadow, pin, rules.",
    "loop": "Drift to retraining: status, approve, refuse, pause, resume.",
    "requirements": "What the use case has signed off, and whether it is met.",
    "explain": "One decision, whole: request, features, who answered and why, timings, outcome.",
    "reports": "Drift windows, newest first: what moved, what was done, the pages; serve them.",
    "accuracy": "What answers turned out to be worth, by version, route, segment, week.",
    "replay": "Score past decisions again from their logged vectors; print what differs.",
    "audit": "Was every request answered exactly once? And is the record of decisions whole?",
    "worker": "Run one of headrace's workers in the foreground.",
    "step": "",
    "supervise": "",
}
INTERRUPTED = 130


def command_line(arguments: list[str]) -> typer.Typer:
    """The parser, with only the verb that `arguments` begin with imported; the others show their help line."""
    app = typer.Typer(
        name="headrace",
        help="Feast definitions in, exactly-once scored events out.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    wanted = arguments[0] if arguments else ""
    for verb, line in VERBS.items():
        if verb == wanted:
            verbs = import_module(f"infra.commands.{verb}").app
            if verbs.registered_callback:  # a group that does something by itself, and says what
                app.add_typer(verbs)
            else:
                app.add_typer(verbs, help=line or None)
        else:
            app.command(verb, help=line, hidden=not line)(_elsewhere)

    @app.callback()
    def root() -> None:
        """Keeps typer from turning a single verb into the whole program."""

    return app


def main() -> None:
    """Entry point of `headrace`."""
    try:
        command_line(sys.argv[1:])(prog_name="headrace")
    except HeadraceError as error:
        _show(error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def fail(error: Exception) -> NoReturn:
    """Show an error as `main` would, and end the process without waiting for anything."""
    if isinstance(error, HeadraceError):
        _show(error)
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _show(error: HeadraceError) -> None:
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    errors.print(f"[bold red]headrace:[/] {_plain(str(error))}")


def _elsewhere() -> None:
    """Stands for a verb that was not called."""


def _plain(text: str) -> str:
    from rich.markup import escape  # noqa: PLC0415 - only for a failure

    return escape(text)


if __name__ == "__main__":
    main()
