"""A replica that asks for signatures, on a real broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving import release_log
from serving.registry import Registry
from serving.release_log import ReleaseRefused
from serving.release_orders import Orders
from serving.signer import Signer
from serving.signing_key import SigningKey
from serving.trust import Trust
from tests.serving import model_folders
from tests.serving.conftest import CASE, Bench, until
from tests.serving.test_scorer import requests


@pytest.fixture
def signer(bench: Bench, tmp_path: Path) -> Signer:
    """The bench's versions need a signature from now on; v0002 lies beside v0001, and nothing is signed."""
    keys = tmp_path / "keys"
    made = Signer(
        Registry(bench.models), SigningKey(keys / "admission.pem", Trust(keys / "trusted"))
    )
    made.key.ready()
    model_folders.write(bench.models, "v0002")
    bench.serving = bench.serving.model_copy(update={"trust_dir": str(keys / "trusted")})
    return made


def test_an_unsigned_version_answers_nobody_until_somebody_vouches(
    bench: Bench, signer: Signer
) -> None:
    signer.sign(CASE, "v0001", by="test", reason="the first")
    bench.release_first("v0001")
    orders = Orders(bench.kafka, bench.stores, bench.serving, CASE, decided_by="test")
    with pytest.raises(ReleaseRefused, match="there is none") as refused:
        orders.canary("v0002", 1.0, "?")
    assert "headrace models sign v0002" in refused.value.mend
    with bench.scorer() as scorer:
        bench.release_second("v0002")
        until(lambda: "v0002" in scorer.refused())
        assert "wanted a signature" in scorer.refused()["v0002"]
        bench.produce(requests(20))
        bench.await_count(f"{CASE}.results", 20)
        assert {result.version for result in bench.results()} == {"v0001"}
        signer.sign(CASE, "v0002", by="test", reason="seen")
        until(lambda: not scorer.refused())
        bench.produce(requests(20, first=20))
        bench.await_count(f"{CASE}.results", 40)
        assert {result.version for result in bench.results()} == {"v0001", "v0002"}
    now = release_log.current(bench.kafka, CASE)
    assert now is not None
    assert now.champion == "v0002"


def test_a_canary_whose_signer_was_revoked_is_not_promoted(bench: Bench, signer: Signer) -> None:
    for version in ("v0001", "v0002"):
        signer.sign(CASE, version, by="test", reason="seen")
    bench.release_first("v0001")
    orders = Orders(bench.kafka, bench.stores, bench.serving, CASE, decided_by="test")
    orders.canary("v0002", 0.1, "try")
    lost = signer.key.current()
    assert lost
    signer.key.revoke(lost, by="test", reason="a laptop was lost")
    with pytest.raises(ReleaseRefused, match="revoked by test: a laptop was lost"):
        orders.promote("?")
    signer.sign(CASE, "v0002", by="test", reason="seen anew")
    assert orders.promote("better").champion == "v0002"
