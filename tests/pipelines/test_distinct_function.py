"""The jobs' own function: the same blocks as Python's, and with the jobs that need it only."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import msgspec

from features.distinct import EMPTY, block_of, parse, text_of
from features.views import Aggregate, Handover
from infra.local.flink import flink_home
from pipelines import distinct_function
from pipelines.flink_sql import job
from pipelines.settings import FlinkSettings
from schemas.settings import KafkaSettings
from tests.features.readings import VIEW

KAFKA, FLINK = KafkaSettings(), FlinkSettings()
COUNTED = msgspec.structs.replace(
    VIEW, aggregates=(Aggregate("ids_5m", "event_id", "count_distinct", 300, 60),)
)


def _merged(folders: Path, lines: list[str]) -> list[str]:
    """What the Java function makes of each line of texts."""
    jars = [str(folders / "flink" / distinct_function.JAR), f"{flink_home()}/lib/*"]
    harness = Path(__file__).with_name("DistinctSetLines.java")
    done = subprocess.run(
        ["java", "--class-path", ":".join(jars), str(harness)],  # noqa: S607 - the one on PATH
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.splitlines()


def test_java_and_python_hold_the_same_of_single_values_and_of_tiles(jars: Path) -> None:
    """Sets and registers, alone and together, in any order, on both sides of the bound."""
    dice = random.Random(12)
    groups = [
        [
            {
                dice.choice((dice.getrandbits(64), dice.randrange(100)))
                for _ in range(dice.choice(sizes))
            }
            for _ in range(dice.randint(1, 6))
        ]
        for sizes in ((1,), (1, 30), (1, 64, 65), (200, 1), (500,))
        for _ in range(60)
    ]
    lines = [" ".join(filter(None, (text_of(block_of(g)) for g in group))) for group in groups]
    lines += [" ".join(f"s{h:016x}" for h in dice.sample(range(2**40), n)) for n in (63, 64, 65)]
    groups += [[{int(text[1:], 16) for text in line.split()}] for line in lines[-3:]]
    for said, group in zip(_merged(jars, lines), groups, strict=True):
        assert parse(said) == block_of(set().union(*group))
    assert {line[0] for line in _merged(jars, lines)} == {"r", "s"}


def test_the_text_of_nothing_is_null(jars: Path) -> None:
    assert _merged(jars, [""]) == ["null"]
    assert text_of(EMPTY) is None


def test_a_job_knows_the_function_only_where_it_needs_it() -> None:
    plain, counted = job(VIEW, KAFKA, FLINK), job(COUNTED, KAFKA, FLINK)
    connector = Path("/jars/connector.jar")
    assert distinct_function.jars(connector, plain.tables) == [connector]
    assert distinct_function.jars(connector, counted.tables) == [
        connector,
        Path("/jars/headrace-functions.jar"),
    ]
    assert not any("distinct" in text for text in (*plain.tables, *plain.inserts, *plain.options))
    assert "pipeline.global-job-parameters" in counted.options


def test_a_change_of_the_code_is_another_job() -> None:
    now = job(COUNTED, KAFKA, FLINK)
    other = {**now.options, "pipeline.global-job-parameters": "distinct_set:000000000000"}
    assert type(now)(now.view, other, now.tables, now.inserts).fingerprint != now.fingerprint


def test_tiles_of_a_snapshot_go_into_the_same_function() -> None:
    handed_over = job(COUNTED, KAFKA, FLINK, Handover(7, (3,), "features.base"))
    (insert,) = handed_over.inserts
    assert "distinct_set(`distinct__event_id`) AS `distinct__event_id`" in insert
    assert "CONCAT('s', SUBSTRING(MD5(CAST(`event_id` AS STRING)), 1, 16))" in insert
