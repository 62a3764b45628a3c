from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from schemas import requirements, usecase
from schemas.requirements import Accuracy, InvalidRequirements, Requirements

SIGNED = 'owner = "ann"\nsigned_off = 2026-11-22\n'


@pytest.mark.parametrize("case", ["flights", "payments"])
def test_what_ships_has_every_part_and_an_owner(case: str) -> None:
    signed = requirements.load(case)
    assert signed is not None
    assert signed.owner
    assert isinstance(signed.signed_off, date)
    parts = set(Requirements.model_fields) - {"owner", "signed_off", "window_h"}
    assert not [part for part in parts if getattr(signed, part) is None]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("owner = ", "TOML in UTF-8"),
        ("signed_off = 2026-11-22", "owner: wanted a value, but it is missing"),
        ('owner = "ann"', "signed_off: wanted a value, but it is missing"),
        ('owner = ""\nsigned_off = 2026-11-22', "owner"),
        (SIGNED + "uptime = 1", "uptime"),
        (SIGNED + "[latency]\np95_ms = 50\np99_ms = 40", "p99_ms of 40 lies below p95_ms of 50"),
        (SIGNED + "[latency]\np95_ms = -1\np99_ms = 40", "latency.p95_ms: wanted greater than 0"),
        (SIGNED + '[accuracy]\nmetric = "f1"\nvalue = 1\nrows_min = 1', "accuracy.metric"),
        (SIGNED + "[availability]\nshare = 99.9", "availability.share"),
        (SIGNED + "[freshness]", "neither s nor a view is given"),
        (SIGNED + '[freshness]\ns = 60\nstale = "guess"', "freshness.stale"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_by_its_key(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "requirements.toml"
    path.write_text(text)
    with pytest.raises(InvalidRequirements, match=r"requirements\.toml") as refused:
        requirements.read(path)
    assert said in str(refused.value)


def test_a_use_case_has_its_file_beside_its_contracts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = usecase.load("schemas", "flights")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "flights.py"))
    assert requirements.load("flights") is None
    (tmp_path / "flights.requirements.toml").write_text(SIGNED)
    signed = requirements.load("flights")
    assert signed is not None
    assert (signed.owner, signed.window_h, signed.accuracy) == ("ann", 24, None)


def test_a_floor_of_a_loss_is_a_ceiling() -> None:
    auc = Accuracy(metric="auc", value=0.7, rows_min=1)
    loss = Accuracy(metric="log_loss", value=0.5, rows_min=1)
    assert (auc.met_by(0.7), auc.met_by(0.69)) == (True, False)
    assert (loss.met_by(0.5), loss.met_by(0.51)) == (True, False)
