"""What a replica keeps in memory when signers are revoked: releases folded by hand, without a broker."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from schemas.control import Release
from schemas.settings import KafkaSettings
from serving import release_log, runtime
from serving.registry import Registry
from serving.release_watch import ReleaseWatch
from serving.releases import with_canary
from serving.scoring import Serving
from serving.signer import Signer
from serving.signing_key import SigningKey
from serving.trust import Trust
from tests.serving import model_folders

CASE = "flights"
CLOCK_MS = 1_370_000_000_000
FIRST = release_log.first(CASE, CASE, "v0001", event_time_ms=CLOCK_MS, decided_by="test")
CANARY = with_canary(FIRST, candidate="v0002", share=1.0, salt="v0002", event_id="release-2")


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    """v0001 signed by one key, v0002 and v0003 by the next, which is the one that signs."""
    keys = tmp_path / "keys"
    made = Signer(
        Registry(tmp_path / "models"), SigningKey(keys / "admission.pem", Trust(keys / "trusted"))
    )
    for version in ("v0001", "v0002", "v0003"):
        model_folders.write(tmp_path / "models", version)
        made.sign(CASE, version, by="test", reason="a test")
        if version == "v0001":
            made.key.rotate()
    return made


def watch(signer: Signer, *releases: Release) -> ReleaseWatch:
    trust = signer.key.trust

    def load(model: str, version: str) -> runtime.Model:
        return runtime.load(signer.registry.path(model, version), trust=trust)

    made = ReleaseWatch(
        KafkaSettings(), CASE, load, lambda model: not trust.trusts(str(model.signed_by))
    )
    for release in releases:
        made._fold(release)
        made._apply()
    return made


def in_force(made: ReleaseWatch) -> Serving:
    assert made.serving is not None
    return made.serving


def revoke(signer: Signer, version: str) -> None:
    key = runtime.load(signer.registry.path(CASE, version), trust=signer.key.trust).signed_by
    signer.key.revoke(str(key), by="test", reason="it was lost")


def test_without_a_doubt_nothing_changes(signer: Signer) -> None:
    made = watch(signer, FIRST, CANARY)
    before = made.serving
    made._look_again()
    assert made.serving is before
    assert made.refused == {}


def test_a_canary_whose_signer_is_revoked_answers_nobody_until_somebody_else_vouches(
    signer: Signer,
) -> None:
    made = watch(signer, FIRST, CANARY)
    assert set(in_force(made).models) == {"v0001", "v0002"}
    revoke(signer, "v0002")
    made._look_again()
    assert set(in_force(made).models) == {"v0001"}
    assert "it was lost" in in_force(made).refused["v0002"]
    assert "it was lost" in made.refused["v0002"]
    signer.sign(CASE, "v0002", by="test", reason="looked at it")
    made._apply()
    assert set(in_force(made).models) == {"v0001", "v0002"}
    assert (in_force(made).refused, made.refused) == ({}, {})


def test_a_champion_whose_signer_is_revoked_answers_on_and_that_is_told(signer: Signer) -> None:
    made = watch(signer, FIRST, CANARY)
    revoke(signer, "v0001")
    for _ in range(2):
        made._look_again()
        made._apply()
        assert set(in_force(made).models) == {"v0001", "v0002"}
        assert "it was lost" in made.refused["v0001"]
    signer.sign(CASE, "v0001", by="test", reason="looked at it")
    made._look_again()
    assert made.refused == {}
    assert in_force(made).models["v0001"] is made._models["v0001"]


def test_the_champion_before_is_dropped_as_well(signer: Signer) -> None:
    """It stays in memory to help out; not if nobody vouches for it any more."""
    after: Any = partial(FIRST.model_copy, deep=True)
    made = watch(
        signer,
        FIRST.model_copy(update={"champion": "v0002"}),
        after(update={"epoch": 2, "champion": "v0001"}),
    )
    assert in_force(made).other("v0001") == "v0002"
    revoke(signer, "v0002")
    made._look_again()
    assert in_force(made).other("v0001") is None
    made._apply()
    assert in_force(made).other("v0001") is None
    assert "v0002" not in made.refused, "the release in force does not name it"
