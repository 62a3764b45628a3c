"""Scorers that load what was signed and nothing else, as the platform's own do."""

from __future__ import annotations

from serving.registry import Registry
from serving.signer import Signer
from serving.signing_key import SigningKey
from serving.trust import Trust
from tests.faults import answers
from tests.faults.replicas import Replicas
from tests.faults.stage import Stage


def signed(stage: Stage) -> tuple[Replicas, Signer]:
    """The scorers, whose champion is signed, and who signed it."""
    keys = stage.folder / "keys"
    key = SigningKey(keys / "admission.pem", Trust(keys / "trusted"))
    signer = Signer(Registry(stage.folder / "models"), key)
    replicas = Replicas(stage, trust_dir=str(key.trust.folder))
    signer.sign(stage.case, answers.VERSION, by="fault", reason="the first champion")
    return replicas, signer
