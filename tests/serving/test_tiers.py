"""Tiers on machines as they may be, and on this one as it is; no engine but ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from features.settings import StoreSettings
from schemas.errors import HeadraceError
from schemas.settings import KafkaSettings
from serving import flights, payments, runtime
from serving.runtime import Expected, load
from serving.scorer import Scorer
from serving.settings import ServingSettings
from serving.tiers import CPU, CUDA, BadTier, GpuMissing, Placing, Tier, gpus_of_replica
from tests.conftest import stores_at
from tests.serving import model_folders

TIERS = {"trees": Tier("cpu"), "neural": Tier("gpu", share=0.25)}
shares = st.floats(0.01, 1.0)
tiers = st.dictionaries(
    st.sampled_from("abc"), st.one_of(st.just(Tier("cpu")), shares.map(lambda s: Tier("gpu", s)))
)


@pytest.mark.parametrize(
    "given", [("tpu", 1.0), ("gpu", 0), ("gpu", 1.5), ("gpu", True), ("gpu", "half"), ("cpu", 0.5)]
)
def test_a_tier_that_cannot_be_meant_is_refused(given: tuple[Any, Any]) -> None:
    with pytest.raises(BadTier, match="wanted"):
        Tier(*given)


def test_a_gpu_is_asked_for_first_where_there_is_one() -> None:
    placing = Placing(TIERS, [CUDA, CPU], "require")
    placing.check()
    assert placing.providers("neural") == [CUDA, CPU]
    assert placing.providers("trees") == placing.providers("unheard-of") == [CPU]


def test_without_one_the_cpu_serves_unless_that_is_forbidden() -> None:
    assert Placing(TIERS, [CPU]).providers("neural") == [CPU]
    with pytest.raises(GpuMissing, match=r"tier of neural: .* ONNX Runtime offers CPU"):
        Placing(TIERS, [CPU], "require").check()
    Placing({"trees": Tier("cpu")}, [CPU], "require").check()


@given(tiers, st.none() | shares, st.integers(0, 4))
def test_a_replica_reserves_what_there_is_or_what_it_was_told(
    declared: dict[str, Tier], setting: float | None, there: int
) -> None:
    found = gpus_of_replica(declared, setting, "prefer", there)
    most = max((t.share for t in declared.values() if t.device == "gpu"), default=0.0)
    assert found == (setting if setting is not None else most if there else 0.0)
    if setting is None and most and not there:
        with pytest.raises(GpuMissing, match="Ray has 0 GPUs"):
            gpus_of_replica(declared, setting, "require", there)
    else:
        assert gpus_of_replica(declared, setting, "require", there) == found


def test_what_payments_declares_is_a_quarter_of_a_gpu() -> None:
    assert gpus_of_replica(payments.TIERS, None, "prefer", 1) == 0.25


@pytest.fixture
def expected() -> Expected:
    return Expected.of("flights", model_folders.plan())


needs_no_gpu = pytest.mark.skipif(CUDA in runtime.available(), reason="this machine has CUDA")


@needs_no_gpu
def test_this_machine_runs_a_gpu_tier_on_its_cpu_and_says_so(
    tmp_path: Path, expected: Expected
) -> None:
    folder = model_folders.write(tmp_path, "v0001", estimator="neural")
    placing = Placing(TIERS, runtime.available(), rows_max=16)
    with capture_logs() as logs:
        model = load(folder, expected, placing=placing)
    assert model.device == "cpu"
    [said] = [line for line in logs if line["event"] == "runtime.gpu_missing"]
    assert (said["log_level"], said["estimator"], said["runs_on"]) == ("warning", "neural", CPU)
    with capture_logs() as logs:
        load(model_folders.write(tmp_path, "v0002", estimator="trees"), expected, placing=placing)
    assert [line["event"] for line in logs] == ["runtime.placed"]


@needs_no_gpu
def test_a_version_whose_gpu_is_required_is_not_loaded(tmp_path: Path, expected: Expected) -> None:
    folder = model_folders.write(tmp_path, "v0001", estimator="neural")
    with pytest.raises(GpuMissing, match="wanted a GPU"):
        load(folder, expected, placing=Placing(TIERS, runtime.available(), "require"))


@needs_no_gpu
def test_cuda_that_is_built_in_and_does_not_start_is_missed_too(
    tmp_path: Path, expected: Expected
) -> None:
    """ONNX Runtime takes the CPU without a word; who looks only at what it was built with would not notice."""
    folder = model_folders.write(tmp_path, "v0001", estimator="neural")
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        capture_logs() as logs,
    ):
        model = load(folder, expected, placing=Placing(TIERS, [CUDA, CPU]))
    assert model.device == "cpu"
    assert "runtime.gpu_missing" in [line["event"] for line in logs]
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(GpuMissing, match="CUDA did not start"),
    ):
        load(folder, expected, placing=Placing(TIERS, [CUDA, CPU], "require"))


@pytest.fixture
def stores(tmp_path: Path) -> StoreSettings:
    made = stores_at(tmp_path, "redis://127.0.0.1:1/0")
    model_folders.plan().save(made.plan_path)
    return made


@needs_no_gpu
def test_a_scorer_counts_what_should_have_a_gpu_and_does_not_start_where_it_must(
    tmp_path: Path, stores: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flights, "TIERS", TIERS, raising=False)
    serving = ServingSettings(models_dir=str(tmp_path / "models"))
    for version, estimator in (("v0001", "neural"), ("v0002", "trees")):
        model_folders.write(tmp_path / "models", version, estimator=estimator)
    scorer = Scorer("flights", KafkaSettings(), stores, serving)
    for version in ("v0001", "v0002"):
        scorer._load("flights", version)
    counted = scorer.counters()
    assert (counted["gpu_missing"], counted["placed_on_cpu"]) == (1, 2)
    strict = serving.model_copy(update={"gpu": "require"})
    with pytest.raises(HeadraceError, match=r"`serving\.gpu` requires"):
        Scorer("flights", KafkaSettings(), stores, strict)
