"""The state that a feature job left behind, and where a later job of the same definition finds it.

Every job writes its checkpoints into a folder of its own definition and leaves the newest one there when it ends, whether
it was cancelled, the stack went down, or a process died. A job submitted later starts from it. Folders are named by
what is computed, not by where Kafka answers: ports change between two starts, state does not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pipelines.flink_sql import Job

RESTORED_FROM = "execution.state-recovery.path"
FOLDER = "features"
# Written last, so a checkpoint that has it is whole.
WHOLE = "_metadata"
# Of a table's statement, the lines that tell how Kafka is reached.
CLIENT_OPTION = "  'properties."


@dataclass(frozen=True)
class Recovery:
    """The checkpoint folders of one cluster.

    Attributes:
        folder: The cluster's `execution.checkpointing.dir`, seen from here.
    """

    folder: Path

    @classmethod
    def of(cls, checkpoints_uri: str | None) -> Recovery | None:
        """For a cluster's checkpoint folder; None where it is not on this machine, or not set."""
        parts = urlsplit(checkpoints_uri or "")
        path = Path(url2pathname(parts.path))
        return cls(path) if parts.scheme == "file" and path.is_dir() else None

    def options(self, job: Job) -> dict[str, str]:
        """What makes a job leave its state, and start from the state that is there."""
        options = {
            "execution.checkpointing.dir": self._home(job).as_uri(),
            "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        }
        if found := self.newest(job):
            options[RESTORED_FROM] = found.as_uri()
            # Nothing that the new job writes may need the old files, because they are pruned.
            options["execution.state-recovery.claim-mode"] = "NO_CLAIM"
        return options

    def newest(self, job: Job) -> Path | None:
        """The newest whole checkpoint of this definition; None where there is none."""
        whole = [path.parent for path in self._home(job).glob(f"*/chk-*/{WHOLE}")]
        return max(whole, key=lambda path: (path / WHOLE).stat().st_mtime_ns, default=None)

    def forget(self, jobs: Sequence[Job]) -> None:
        """Let these definitions start from the beginning. Only while none of them runs."""
        for job in jobs:
            shutil.rmtree(self._home(job), ignore_errors=True)

    def drop(self, view: str) -> None:
        """Remove the state of all definitions of a view's version. Only while none of them runs."""
        for home in (self.folder / FOLDER).glob(f"{view}-*"):
            shutil.rmtree(home)

    def prune(self, job: Job) -> None:
        """Keep the newest checkpoint alone, and no other definition of the version. Only while none of them runs."""
        kept = self.newest(job)
        for home in (self.folder / FOLDER).glob(f"{job.view}-*"):
            if home != self._home(job) or kept is None:
                shutil.rmtree(home)
                continue
            for run in home.iterdir():
                if run != kept.parent:
                    shutil.rmtree(run)

    def _home(self, job: Job) -> Path:
        return self.folder / FOLDER / f"{job.view}-{meaning(job)}"


def meaning(job: Job) -> str:
    """12 hex digits over what a job computes and how it keeps it, wherever Kafka is."""
    tables = [
        [line for line in table.splitlines() if not line.startswith(CLIENT_OPTION)]
        for table in job.tables
    ]
    parts = [sorted(job.options.items()), tables, job.inserts]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=6).hexdigest()
