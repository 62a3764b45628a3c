"""`python -m tests.faults --cases 10,12 --seeds 3`: one JSON line a case and seed, exit 1 if an invariant fails."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from importlib import import_module
from pathlib import Path

# Before anything imports numpy, as in every worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import structlog
from rich.console import Console
from rich.table import Table

from tests.faults.harness import Rig
from tests.faults.memory import MemoryWatch
from tests.faults.outcome import Outcome, Skipped
from tests.faults.stage import Stage

HERE = Path(__file__).parent
PREFIX = "case_"
# Cases that go together, by the name that stands for those of them that have a file.
GROUPS = {
    "scoring": (*range(1, 10), *range(19, 26), *range(28, 32)),
    "loop": (32, 33, 34, *range(37, 43)),
}


def known_cases() -> list[int]:
    """The cases that have a file."""
    return sorted(int(path.stem.removeprefix(PREFIX)) for path in HERE.glob(f"{PREFIX}*.py"))


def play(rig: Rig, number: int, seed: int) -> Outcome:
    """Run a case once. What it raises is an invariant that failed: it did not run to its end."""
    outcome = Outcome(number, seed)
    began = time.monotonic()
    try:
        with MemoryWatch(str(rig.folder), outcome), Stage(rig, outcome) as stage:
            import_module(f"tests.faults.{PREFIX}{number:02}").run(stage)
    except Skipped as reason:
        outcome.skipped = str(reason)
    except Exception as error:  # noqa: BLE001 - whatever it is, the line must say so
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        outcome.check("the case ran to its end", holds=False, came=said)
    outcome.wall_s = round(time.monotonic() - began, 1)
    return outcome


def main() -> int:
    """The command."""
    arguments = _arguments()
    # Standard output is the lines'.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    # SIGTERM ends a run as Ctrl-C does: through every `finally`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    outcomes: list[Outcome] = []
    try:
        with (
            tempfile.TemporaryDirectory(prefix="headrace-faults-") as folder,
            Rig(Path(folder)) as rig,
        ):
            for number in arguments.cases:
                for seed in range(arguments.seed, arguments.seed + arguments.seeds):
                    _say(arguments.json, f"case {number}, seed {seed} …")
                    outcomes.append(play(rig, number, seed))
                    sys.stdout.write(json.dumps(outcomes[-1].line(), ensure_ascii=False) + "\n")
                    sys.stdout.flush()
    except KeyboardInterrupt:
        _say(arguments.json, "stopped")
        return 130
    finally:
        if not arguments.json and outcomes:
            Console(stderr=True).print(_table(outcomes))
    return 0 if all(o.held or o.skipped is not None for o in outcomes) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    here = known_cases()
    named = f"of {here}, or of {sorted(GROUPS)}; all of them"
    parser.add_argument("--cases", type=_numbers, default=here, help=named)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds each case gets")
    parser.add_argument("--seed", type=int, default=1, help="the first of them")
    parser.add_argument("--json", action="store_true", help="nothing but the JSON lines")
    arguments = parser.parse_args()
    if missing := sorted(set(arguments.cases) - set(here)):
        parser.error(f"no case {missing}; there are {here}")
    return arguments


def _numbers(text: str) -> list[int]:
    """`12,scoring`: numbers, and names of groups."""
    numbers: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        here = set(known_cases())
        numbers += sorted(here.intersection(GROUPS[part])) if part in GROUPS else [int(part)]
    return list(dict.fromkeys(numbers))


def _say(quiet: bool, line: str) -> None:  # noqa: FBT001
    if not quiet:
        sys.stderr.write(line + "\n")


def _table(outcomes: list[Outcome]) -> Table:
    table = Table("case", "seed", "verdict", "s", "invariants", "recovery s", "counts")
    for one in outcomes:
        broken = [name for name, held in one.invariants.items() if not held]
        held = f"{len(one.invariants) - len(broken)} of {len(one.invariants)}"
        said = one.skipped or "; ".join([held, *broken])
        recovery = f"{max(one.recovery_s.values()):.1f}" if one.recovery_s else ""
        counts = ", ".join(f"{value} {name}" for name, value in one.counts.items())
        row = (str(one.case), str(one.seed), one.verdict, f"{one.wall_s:.0f}")
        table.add_row(*row, said, recovery, counts)
    return table


if __name__ == "__main__":
    sys.exit(main())
