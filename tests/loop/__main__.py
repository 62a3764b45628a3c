"""`python -m tests.loop --runs 20`: streams whose drift is known, through the whole loop on a real broker.

The table of docs/drift.md; with `--json` one line a run and one a stream, and the table on stderr, where progress goes. Exit code 1
where a run lost an answer.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

# Before anything imports numpy, as in every worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import structlog

from tests.faults.harness import Rig
from tests.loop.crew import Crew
from tests.loop.known_case import STREAMS, KnownCase
from tests.loop.known_run import KnownRun
from tests.loop.story import Story
from tests.loop.summary import summary, table


def main() -> int:
    """The command."""
    arguments = _arguments()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    # SIGTERM ends a run as Ctrl-C does: through every `finally`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen = list(STREAMS) if arguments.stream == "all" else [arguments.stream]
    lines = []
    with ExitStack() as stack:
        folder = arguments.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-loop-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        rig = stack.enter_context(Rig(folder))
        crew = stack.enter_context(Crew(folder))
        for stream in chosen:
            runs: list[Story] = []
            for seed in range(arguments.first, arguments.first + arguments.runs):
                case = KnownCase(f"{stream}_{seed}", stream)
                runs.append(KnownRun(crew, rig.kafka, case, seed).play())
                _say(runs[-1], as_json=arguments.json)
            lines.append(summary(runs))
            if arguments.json:
                sys.stdout.write(json.dumps(lines[-1]) + "\n")
    (sys.stderr if arguments.json else sys.stdout).write(table(lines) + "\n")
    return int(any(line["lost"] for line in lines))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.loop", description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--stream", choices=[*STREAMS, "all"], default="all")
    parser.add_argument("--keep", type=Path, help="an empty folder for logs, which then stay")
    parser.add_argument("--json", action="store_true", help="JSON lines on standard output")
    return parser.parse_args()


def _say(story: Story, *, as_json: bool) -> None:
    sys.stderr.write(
        f"{story.stream} {story.seed}: {story.wall_s:.0f} s, found after {story.found_rows} rows, {story.orders} orders, "
        f"promoted after {story.promoted_rows}\n"
    )
    if as_json:
        sys.stdout.write(json.dumps(asdict(story)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
