"""`headrace worker` with a worker in its table that fails while a thread of its own hangs: `python -m tests.infra.failing_worker`."""

from __future__ import annotations

import os
import sys
import threading

from infra import cli, workers
from schemas.errors import HeadraceError
from schemas.worker import WorkerContext


class Broken(HeadraceError):
    """It cannot go on."""


def run(_: WorkerContext) -> None:
    threading.Thread(target=threading.Event().wait).start()
    if os.environ["FAILS_WITH"] == "headrace":
        raise Broken("the failing worker", wanted="to go on", came="it cannot")
    raise ValueError("nobody expected this")


if __name__ == "__main__":
    workers.WORKERS += (workers.Entry("failing", "tests.infra.failing_worker:run", (), ()),)
    sys.argv = ["headrace", "worker", "failing"]
    cli.main()
