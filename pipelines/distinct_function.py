"""The one function of a feature job that SQL lacks: a bounded set of distinct values (`java/headrace/DistinctSet.java`).

Its jar is made by `make jars`, lies beside the connector's, and goes with the jobs that need it. Flink 2.2, user-defined
aggregate functions: https://nightlies.apache.org/flink/flink-docs-release-2.2/docs/dev/table/functions/udfs/
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from features.views import Layout, View

NAME = "distinct_set"
CLASS = "headrace.DistinctSet"
JAR = "headrace-functions.jar"
SOURCE_CODE = Path(__file__).parent / "java" / "headrace" / "DistinctSet.java"


def needed(layouts: tuple[Layout, ...]) -> bool:
    """Whether any of the tiles holds distinct values."""
    return any(partial.kind == "distinct" for layout in layouts for partial in layout.partials)


def statements(view: View) -> tuple[str, ...]:
    """What makes the function known to a view's job; nothing where it needs none."""
    if not needed(view.layouts):
        return ()
    return (f"CREATE TEMPORARY SYSTEM FUNCTION `{NAME}` AS '{CLASS}' LANGUAGE JAVA",)


def options(view: View) -> dict[str, str]:
    """Says which code the job runs, so that a job of other code is another job."""
    return {"pipeline.global-job-parameters": f"{NAME}:{_digest()}"} if statements(view) else {}


def jars(connector: Path, tables: tuple[str, ...]) -> list[Path]:
    """The jars of a job: the connector's, and this function's where its statements name it."""
    named = any(CLASS in statement for statement in tables)
    return [connector, connector.with_name(JAR)] if named else [connector]


@cache
def _digest() -> str:
    return hashlib.blake2b(SOURCE_CODE.read_bytes(), digest_size=6).hexdigest()
