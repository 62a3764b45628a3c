"""What the fault cases 21 to 23 do to a scorer with a broker, here to one batch with ONNX Runtime alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from features.vectors import Vectors
from features.views import Plan, Service
from schemas import usecase
from schemas.decoding import Refusal
from schemas.results import Result, Route, Status
from schemas.timed_calls import TimedCalls
from serving import runtime, scoring
from serving.asking import Asking
from serving.breaker import Circuit
from serving.declared import declared
from serving.output_contract import Output
from serving.releases import ReleaseState
from serving.runtime import Expected
from serving.scoring import Answer, Batch, Rules, Serving
from tests.faults import hurt_model
from tests.faults.case_22 import REASONS
from tests.faults.stage import SERVICE
from tests.pipelines import toy
from tests.serving import model_folders
from tests.serving.test_releases import release

CASE = "hurt_here"
WITHIN_S = 0.3
NOW_MS = 1_790_000_000_000


@dataclass
class Hurt:
    """A scorer's batch without its loop."""

    model: runtime.Model
    rules: Rules
    asking: Asking

    def answer(self, stations: Sequence[str]) -> list[Result | Refusal]:
        """One batch."""
        rows, columns = len(stations), len(self.rules.features)
        asked = [
            toy.Question(event_time_ms=toy.START_MS, request_id=f"q{n}", station=station)
            for n, station in enumerate(stations)
        ]
        vectors = Vectors(
            names=self.rules.features,
            views=("levels",),
            values=np.full((rows, columns), np.nan),
            age_ms=np.full((rows, 1), -1, dtype=np.int64),
            ahead=np.zeros((rows, 1), dtype=np.bool_),
            read_at_ms=NOW_MS,
            discarded=0,
        )
        batch = Batch(asked, [None] * rows, vectors, NOW_MS)
        state = ReleaseState(CASE, release(1, case=CASE, champion="v1"))
        serving = Serving(state, {"v1": self.model})
        answers = scoring.answer(batch, serving, self.rules, lambda: NOW_MS, self.asking)
        return [
            Result.model_validate_json(a.value) if isinstance(a, Answer) else a for a in answers
        ]


@pytest.fixture
def hurt(tmp_path: Path) -> Iterator[Hurt]:
    hurt_model.register(CASE)
    contracts, view = usecase.load("schemas", CASE), toy.view(CASE)
    service = Service(SERVICE, tuple((view.name, a.name) for a in view.aggregates))
    plan = Plan((view,), (service,))
    expected = Expected.of(CASE, plan)
    made = hurt_model.graph(len(expected.inputs))
    folder = model_folders.write(tmp_path, "v1", of=CASE, given=plan, model=made)
    declares = declared(CASE, expected.inputs)
    calls: TimedCalls[Output] = TimedCalls(WITHIN_S)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(onnxruntime, "InferenceSession", hurt_model.Stuck)
        model = runtime.load(folder, expected, calls)
    features = expected.inputs[len(contracts.INPUTS) :]
    rules = Rules(
        inputs=contracts.INPUTS,
        features=features,
        fallback=declares.rule,
        threshold=declares.threshold,
        fallbacks=declares.fallbacks,
    )
    yield Hurt(model, rules, Asking(declares.contract, declares.breaker, retry=True))
    calls.close()


def test_rows_that_hurt_fall_back_alone_and_say_why(hurt: Hurt) -> None:
    stations = [*(hurt_model.WELL * 10), *REASONS]
    for station, result in zip(stations, hurt.answer(stations), strict=True):
        assert isinstance(result, Result)
        if station in hurt_model.WELL:
            assert (result.status, result.score) == (Status.SCORED, 0.25)
        else:
            assert (result.status, result.route) == (Status.FALLBACK, Route.RULE)
            assert result.failed == ("v1",)
            assert result.reasons[0].startswith(REASONS[station])


def test_what_has_no_memory_is_halved_and_the_culprit_alone_is_refused(hurt: Hurt) -> None:
    stations = [*(hurt_model.WELL * 40), hurt_model.MEMORY]
    *others, culprit = hurt.answer(stations)
    assert {r.status for r in others if isinstance(r, Result)} == {Status.SCORED}
    assert len(others) == 160
    assert isinstance(culprit, Refusal)
    assert "Failed to allocate memo" in culprit.detail
    assert hurt.asking.counts["batch_halved"] >= 10


def test_a_loop_without_an_end_is_ended_and_the_model_answers_again(hurt: Hurt) -> None:
    began_s = time.monotonic()
    results = hurt.answer([*hurt_model.WELL, hurt_model.HANGS])
    assert time.monotonic() - began_s < 10 * WITHIN_S
    assert {r.reasons for r in results if isinstance(r, Result)} == {
        ("model_timeout: more than 300 ms",)
    }
    [again] = hurt.answer(hurt_model.WELL[:1])
    assert isinstance(again, Result)
    assert again.status is Status.SCORED


def test_a_call_that_cannot_be_ended_is_left_behind_and_the_rule_answers(hurt: Hurt) -> None:
    said = []
    for station in (hurt_model.STUCK, *[hurt_model.WELL[0]] * 3):
        [result] = hurt.answer([station])
        assert isinstance(result, Result)
        assert result.status is Status.FALLBACK
        said.append(result.reasons[0])
    assert said[0].endswith("it could not be ended")
    assert said[1:3] == ["model_hangs: v1 has not come back from an earlier batch"] * 2
    assert said[3].startswith("circuit_open: v1, since 0 s")
    assert hurt.asking.circuits() == {"v1": Circuit.OPEN}
