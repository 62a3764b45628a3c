"""The plan that is read, and beside it the one that a hand-over is making true.

Readers look at `plan.json` alone, so they switch in one step, when it is replaced. The materializer follows both.
"""

from __future__ import annotations

from pathlib import Path

from features.views import Plan, PlanUnreadable, View

# What `followed` answers changes with it.
Stamp = tuple[int | None, int | None]


def next_path(plan_path: str | Path) -> Path:
    """Where the plan lies that is not true yet."""
    return Path(plan_path).with_suffix(".next.json")


def applied(plan_path: str | Path) -> Plan:
    """The plan that is read; an empty one where there is none, or where another version wrote it."""
    return _load(Path(plan_path)) or Plan()


def pending(plan_path: str | Path) -> Plan | None:
    """The plan of a hand-over that has not come to its end."""
    return _load(next_path(plan_path))


def followed(plan_path: str | Path) -> tuple[View, ...]:
    """The views whose rings must be kept: those that are read, and those that will be."""
    both = [applied(plan_path), pending(plan_path) or Plan()]
    return tuple({view.versioned: view for plan in both for view in plan.views}.values())


def stamp(plan_path: str | Path) -> Stamp:
    """Changes whenever one of the two files is written; looking costs microseconds."""
    return _written_ns(Path(plan_path)), _written_ns(next_path(plan_path))


def switch(plan: Plan, plan_path: str | Path) -> None:
    """Let everybody read this plan from now on."""
    plan.save(plan_path)
    next_path(plan_path).unlink(missing_ok=True)


def _load(path: Path) -> Plan | None:
    try:
        return Plan.load(path) if path.exists() else None
    except PlanUnreadable:
        return None


def _written_ns(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
