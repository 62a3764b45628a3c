"""The plan of the definitions as they are in the code now, compiled once and kept.

Compiling imports Feast, which takes six to ten seconds. What it depends on is the source of `features` and `schemas`: as
long as no byte of that changes, the plan that was kept is the plan.
"""

from __future__ import annotations

import hashlib
import warnings
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from features.views import Plan, PlanUnreadable
from schemas import usecase

ROOT = Path(__file__).parents[1]
SOURCES = ("features", "schemas")
FOLDER = "compiled"


def compiled_plan(case: str, plan_path: str | Path) -> Plan:
    """Compile a use case's definitions, or read what an unchanged source gave before.

    Args:
        case: The use case.
        plan_path: Where the applied plan lies; compiled ones are kept beside it.

    Raises:
        PlanRefused: Some definition cannot be run.
    """
    kept = Path(plan_path).parent / FOLDER / f"{case}.{_source_digest()}.json"
    try:
        return Plan.load(kept)
    except PlanUnreadable:
        plan = _compile(case)
    for older in kept.parent.glob(f"{case}.*.json"):
        older.unlink(missing_ok=True)
    plan.save(kept)
    # In the order of a plan that was saved, the first time as well.
    return Plan.load(kept)


def _compile(case: str) -> Plan:
    compiler = import_module("features.compiler")
    # Feast says of every stream feature view that it is experimental; that is why headrace runs them. Only now, for
    # Feast sets filters of its own when it is imported.
    warnings.filterwarnings("ignore", message="Stream feature views are experimental")
    plan: Plan = compiler.compile_repo(usecase.load("features", case)).plan
    return plan


def _source_digest() -> str:
    digest = hashlib.blake2b(version("feast").encode(), digest_size=8)
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
