"""What admission signs, and when: on decisions made by hand, without a broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.control import Candidate, Release, Verdict, VerdictKind
from schemas.control_log import Entry
from schemas.manifest import folder_digest
from serving import admission, release_log, signature
from serving.docket import Docket, verdict_id
from serving.manifest import ModelRefused
from serving.releases import with_canary
from serving.settings import AdmissionSettings, ServingSettings
from serving.signer import Signer
from serving.signing_key import KeyRefused
from tests.serving import model_folders
from tests.serving.tampering import flip

CASE = "flights"
CLOCK_MS = 1_370_000_000_000
FIRST = release_log.first(CASE, CASE, "v0001", event_time_ms=CLOCK_MS, decided_by="test")


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    for version in ("v0001", "v0002"):
        model_folders.write(tmp_path / "models", version)
    return Signer.of(
        ServingSettings(models_dir=str(tmp_path / "models")),
        AdmissionSettings(signing_key=str(tmp_path / "keys" / "admission.pem")),
    )


def folder(signer: Signer) -> Path:
    return signer.registry.path(CASE, "v0002")


def docket(signer: Signer) -> tuple[Docket, Candidate]:
    """A champion, and v0002 that waits."""
    candidate = Candidate(
        event_id="candidate-1",
        event_time_ms=CLOCK_MS,
        case=CASE,
        decided_at_ms=1,
        order_id="order-1",
        model=CASE,
        version="v0002",
        folder=str(folder(signer)),
        digest=folder_digest(folder(signer)),
    )
    made = Docket(CASE)
    made.fold([Entry(FIRST, 1), Entry(candidate, 2)])
    return made, candidate


def decision(candidate: Candidate, kind: VerdictKind) -> tuple[Verdict, Release]:
    verdict = Verdict(
        event_id=verdict_id(candidate),
        event_time_ms=CLOCK_MS,
        decided_at_ms=1,
        case=CASE,
        verdict=kind,
        order_id=candidate.order_id,
        model=CASE,
        champion="v0001",
        candidate="v0002",
        champion_metrics={},
        candidate_metrics={},
        rows=1,
        reason="better on all",
    )
    release = with_canary(FIRST, candidate="v0002", share=0.1, salt="v0002", event_id="release-2")
    return verdict, release


def test_what_is_admitted_is_signed(signer: Signer) -> None:
    made, candidate = docket(signer)
    admission.endorse(signer, made, decision(candidate, VerdictKind.ADMIT))
    assert signature.verify_whole(folder(signer), signer.key.trust) == signer.key.current()
    # As after a crash in between: once more, and it is as it was.
    admission.endorse(signer, made, decision(candidate, VerdictKind.ADMIT))
    assert signature.verify_whole(folder(signer), signer.key.trust) == signer.key.current()


def test_what_is_refused_is_not_signed(signer: Signer) -> None:
    made, candidate = docket(signer)
    admission.endorse(signer, made, decision(candidate, VerdictKind.REFUSE))
    assert signature.signer(folder(signer)) is None


def test_what_changed_since_it_was_judged_is_not_signed(signer: Signer) -> None:
    """Manifest and files agree with each other, and not with what was tried."""
    made, candidate = docket(signer)
    flip(folder(signer) / "manifest.json", -2)
    with pytest.raises(ModelRefused, match="the digest"):
        admission.endorse(signer, made, decision(candidate, VerdictKind.ADMIT))
    assert signature.signer(folder(signer)) is None


def test_admission_without_a_key_says_so_where_signatures_are_asked_for(tmp_path: Path) -> None:
    serving = ServingSettings(trust_dir=str(tmp_path))
    with pytest.raises(KeyRefused, match=r"admission\.signing_key"):
        admission._signer(serving, None)
    assert admission._signer(ServingSettings(), None) is None
    made = admission._signer(serving, AdmissionSettings(signing_key=str(tmp_path / "key.pem")))
    assert made is not None
    assert (tmp_path / "key.pem").exists()
    assert [one.key_id for one in made.key.trust.all_keys()] == [made.key.current()]
