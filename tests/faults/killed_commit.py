"""An archiver that is killed at its Nth commit: `python -m tests.faults.killed_commit POINT N CASE SECTION…`.

POINT is `before` (the data file is written, the catalog knows nothing of it) or `after` (the catalog has committed, and
the archiver has not heard of it). The signal is SIGKILL, from itself: nothing between it and the commit runs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from pyiceberg.catalog.sql import SqlCatalog

from tests.pipelines import worker_process


def main() -> None:
    """Become the archiver."""
    point, number, case, *sections = sys.argv[1:]
    commit: Callable[..., Any] = SqlCatalog.commit_table
    left = int(number)

    def killed(*given: Any) -> Any:
        nonlocal left
        left -= 1
        if not left and point == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        done = commit(*given)
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    SqlCatalog.commit_table = killed
    sys.argv[1:] = ["archiver", case, *sections]
    worker_process.main()


if __name__ == "__main__":
    main()
