"""The keeper: the supervisor's parent, and the last to leave.

It does one thing: when the supervisor is gone, however that came, nothing of its stack stays behind. Should the keeper
itself be killed, the supervisor gets SIGTERM from the kernel and stops the stack in order.

Run as `python -m infra.local.keeper STACK COMMAND…`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from infra.local import process


def keep(stack: str, command: list[str], log: Path) -> int:
    """Run the supervisor to its end, then sweep; the supervisor's exit code."""
    marks = {process.STACK_MARK: stack, process.SERVICE_MARK: "supervisor"}
    child = process.spawn(
        command, log=log, environment={**os.environ, **marks}, parent_death=signal.SIGTERM
    )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: child.terminate())
    code = child.wait()
    process.sweep(stack)
    return code


def start(stack: str, command: list[str], log: Path) -> None:
    """Start a keeper that outlives its caller, terminal and all; it runs when this returns."""
    marks = {process.STACK_MARK: stack, process.SERVICE_MARK: "keeper"}
    keeper = [sys.executable, "-m", "infra.local.keeper", stack, str(log), *command]
    environment = {**os.environ, **marks}
    process.spawn(keeper, log=log, environment=environment, parent_death=None).wait()


if __name__ == "__main__":
    # The caller waits for the first half only: the second is nobody's child, so nobody has to reap it.
    if os.fork():
        os._exit(0)
    raise SystemExit(keep(sys.argv[1], sys.argv[3:], Path(sys.argv[2])))
