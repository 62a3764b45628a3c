from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from features import certificate
from features.certificate import SEEDS_MIN, Certificate, Uncertified
from features.views import Plan
from tests.features.readings import PLAN, VIEW


def made(**changes: object) -> Certificate:
    good = Certificate(
        view=VIEW.name,
        fingerprint=VIEW.fingerprint,
        executors=("stream", "batch", "reference"),
        seeds=SEEDS_MIN,
        compared=1,
        differences=0,
        difference_max=0.0,
        tolerance=1e-9,
        seconds=1.0,
        code=certificate.code_digest(),
        versions=certificate.engine_versions(),
        at="2026-01-01T00:00:00+00:00",
    )
    return msgspec.structs.replace(good, **changes)


def test_a_certificate_stands_for_its_definition(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    assert certificate.certified(PLAN, plan) == {VIEW.name: "never certified"}
    path = certificate.save(made(), plan)
    assert path.parent == certificate.folder_of(plan)
    assert certificate.load(VIEW.name, plan) == made()
    assert certificate.certified(PLAN, plan) == {VIEW.name: ""}
    certificate.require(PLAN, plan)
    other = msgspec.structs.replace(VIEW, aggregates=VIEW.aggregates[:1])
    with pytest.raises(Uncertified, match="its definition has changed"):
        certificate.require(Plan((other,)), plan)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"code": "0" * 16}, "the executors have changed"),
        ({"versions": {"duckdb": "0"}}, "the executors have changed"),
        ({"differences": 3}, "3 values differ"),
        ({"executors": ("ring", "batch", "reference")}, "the stream executor was left out"),
        ({"seeds": SEEDS_MIN - 1}, f"{SEEDS_MIN - 1} seeds"),
    ],
)
def test_what_voids_it_is_said(changes: dict[str, object], why: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    certificate.save(made(**changes), plan)
    with pytest.raises(Uncertified, match=why) as refused:
        certificate.require(PLAN, plan)
    assert "features certify" in str(refused.value)


def test_a_broken_file_is_no_certificate(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    certificate.save(made(), plan).write_text("{")
    assert certificate.certified(PLAN, plan) == {VIEW.name: "never certified"}


def test_the_digest_covers_files_that_exist() -> None:
    for name in certificate.EXECUTORS:
        assert (certificate.ROOT / name).is_file(), name
    assert certificate.code_digest() != certificate.code_digest(certificate.EXECUTORS[1:])
