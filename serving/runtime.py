"""An ONNX model in memory: its folder verified, loaded, asked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import structlog

from features.inputs import input_names
from schemas import usecase
from schemas.manifest import MODEL_FILE, contract_digest
from schemas.timed_calls import Overran, StillHanging, TimedCalls
from serving import manifest, signature
from serving.asking import HANGS, TIMEOUT
from serving.manifest import Manifest, ModelRefused
from serving.output_contract import Matrix, ModelFailed, Output, OutputContract, Scores
from serving.tiers import CPU, CUDA, GpuMissing, Placing
from serving.trust import Trust
from serving.warm_up import warm_up

if TYPE_CHECKING:
    from features.views import Plan

__all__ = ["Expected", "Matrix", "Model", "ModelFailed", "Scores", "checked", "load"]

_RETRAIN = "Train a version under the applied definitions, or apply those it was trained under."
# For the first rows of a version, which allocate, and then for all of its warm-up.
TRIAL_S = 10.0
# Errors of converters and runtimes may carry whole graphs.
_DETAIL_CHARS_MAX = 200

log = structlog.get_logger()


@dataclass(frozen=True)
class Expected:
    """What the running platform feeds a model, which must be what the model was trained on."""

    case: str
    service: str
    inputs: tuple[str, ...]
    definitions: dict[str, str]
    contract: str

    @classmethod
    def of(cls, case: str, plan: Plan) -> Expected:
        """What `plan` and the use case's contract give."""
        module = usecase.load("schemas", case)
        return cls(
            case=case,
            service=module.SERVICE,
            inputs=input_names(module.INPUTS, plan.service(module.SERVICE).names),
            definitions=plan.definitions(module.SERVICE),
            contract=contract_digest(case),
        )


class Model:
    """A loaded version. `load` makes them; without `calls` safe to share between threads."""

    def __init__(
        self,
        described: Manifest,
        session: onnxruntime.InferenceSession,
        calls: TimedCalls[Output] | None = None,
        signed_by: str | None = None,
    ) -> None:
        self.manifest = described
        # The id of the key; None where nobody asked for a signature.
        self.signed_by = signed_by
        self.version = described.version
        self.threshold = described.threshold
        # Where it runs, which may not be where it was meant to.
        self.device = "gpu" if CUDA in session.get_providers() else "cpu"
        self._session, self._calls = session, calls
        self._input = session.get_inputs()[0].name
        self._scores = session.get_outputs()[-1].name

    def predict(self, matrix: Matrix) -> Scores:
        """The probability of class 1 for each row.

        Args:
            matrix: float32 `[rows, inputs]` in the manifest's order; NaN is "no value".

        Raises:
            ModelFailed: The runtime failed, or the output breaks its contract: `[rows]`, finite, in [0, 1].
        """
        return checked(self.outputs(matrix), matrix.shape[0])

    def outputs(self, matrix: Matrix) -> Output:
        """What the model says to these rows, unjudged.

        Raises:
            ModelFailed: The runtime failed, or took longer than `calls` allow.
        """
        options = onnxruntime.RunOptions()

        def run() -> Output:
            found = self._session.run([self._scores], {self._input: matrix}, options)
            return np.asarray(found[0])

        def end() -> None:
            options.terminate = True

        try:
            return self._calls(self.version, run, end) if self._calls else run()
        except Overran as error:
            left = "; it could not be ended" if error.left else ""
            raise ModelFailed(TIMEOUT, f"{error}{left}") from error
        except StillHanging as error:
            raise ModelFailed(
                HANGS, f"{self.version} has not come back from an earlier batch"
            ) from error
        except Exception as error:  # onnxruntime raises its own classes, which share no base
            raise ModelFailed("model_error", str(error)) from error


def checked(output: Output, rows: int) -> Scores:
    """The output contract of any model, for a batch as a whole: float scores of `[rows]`, finite, in [0, 1].

    Raises:
        ModelFailed: It is broken by at least one row.
    """
    judged = OutputContract().judge(output, np.empty((rows, 0), dtype=np.float32))
    for first in judged.failed.values():
        raise ModelFailed(first.reason, f"{len(judged.failed)} of {rows}, the first {first.detail}")
    return judged.scores


def available() -> list[str]:
    """What ONNX Runtime can run models on here, as it was built."""
    return list(onnxruntime.get_available_providers())


def load(
    folder: str | Path,
    expected: Expected | None = None,
    calls: TimedCalls[Output] | None = None,
    placing: Placing | None = None,
    trust: Trust | None = None,
) -> Model:
    """Verify a version's folder, load its model on one thread, and try it on two rows.

    Args:
        folder: `<models_dir>/<model>/<version>`.
        expected: What the platform would feed it; None loads for offline comparison on stored vectors.
        calls: Who makes its calls and ends those that take too long; None lets them take their time.
        placing: Where it runs, and how large the batches are that it is warmed up for; None takes the CPU, cold.
        trust: Whose signature it must bear; None asks for none, before it is admitted and for comparison.

    Raises:
        ModelRefused: The folder is not what its manifest says, nobody trusted signed it, the model was made for other
            features or another contract, or it does not load and answer.
        GpuMissing: It belongs on a GPU, one is required, and there is none.
    """
    folder = Path(folder)
    described = manifest.read(folder)
    manifest.verify(folder, described)
    signed_by = signature.verify(folder, described, trust) if trust is not None else None
    if expected is not None:
        _match(folder, described, expected)
    try:
        session = _session(folder, described, placing)
        # The first run allocates; better here than under a request. Whoever loads follows releases, and must not hang.
        trial: TimedCalls[Output] = TimedCalls(TRIAL_S)
        tried = Model(described, session, trial)
        tried.predict(np.zeros((2, len(described.inputs)), dtype=np.float32))
        if placing is not None:
            warm_up(tried, folder, placing.rows_max, TRIAL_S)
        trial.close()
    except GpuMissing:
        raise
    except Exception as error:  # as above: onnxruntime's errors share no base
        raise ModelRefused(
            str(folder / MODEL_FILE),
            wanted=f"an ONNX model that answers [rows, {len(described.inputs)}]",
            came=str(error)[:_DETAIL_CHARS_MAX],
            mend="Train again.",
        ) from error
    return Model(described, session, calls, signed_by)


def _session(
    folder: Path, described: Manifest, placing: Placing | None
) -> onnxruntime.InferenceSession:
    """The model on its device. What then runs is told, for ONNX Runtime itself takes the CPU without a word.

    https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
    """
    options = onnxruntime.SessionOptions()
    # Replicas share the machine with the broker: threads that wait for each other cost more than they give.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    providers = [CPU] if placing is None else placing.providers(described.estimator)
    if CUDA in providers:
        # CUDA's libraries where they came as Python packages; found by the loader where they did not.
        onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(_graph(folder, described), options, providers=providers)
    if placing is not None:
        if CUDA in providers and CUDA not in session.get_providers():
            placing.lacks(described.estimator, "CUDA did not start for this model")
        _say_where(described, placing, session)
    return session


def _graph(folder: Path, described: Manifest) -> bytes | str:
    """The very bytes that were verified, so that a file swapped since is not loaded.

    A graph with weights beside it is loaded by its path: ONNX Runtime looks for them from there.
    """
    path = folder / MODEL_FILE
    if any(Path(name).suffix == ".data" for name in described.files):
        return str(path)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != described.files[MODEL_FILE]:
        raise ValueError("another file than a moment ago, when it was verified")
    return content


def _say_where(
    described: Manifest, placing: Placing, session: onnxruntime.InferenceSession
) -> None:
    tier = placing.tier(described.estimator).device
    ran = session.get_providers()[0]
    told = {"version": described.version, "estimator": described.estimator, "tier": tier}
    if tier == "gpu" and ran != CUDA:
        log.warning("runtime.gpu_missing", **told, runs_on=ran, available=list(placing.available))
    else:
        log.info("runtime.placed", **told, runs_on=ran)


def _match(folder: Path, came: Manifest, wanted: Expected) -> None:
    for name in ("case", "service", "contract", "inputs", "definitions"):
        mine, theirs = getattr(wanted, name), getattr(came, name)
        if mine != theirs:
            raise ModelRefused(
                f"model folder {folder}",
                wanted=f"{name} as the platform has it: {_brief(mine, theirs)}",
                came=f"the model was made for {_brief(theirs, mine)}",
                mend=_RETRAIN,
            )


def _brief(one: object, other: object) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        return str({k: v for k, v in one.items() if other.get(k) != v})
    if isinstance(one, tuple) and isinstance(other, tuple):
        return f"{len(one)} columns, {[v for v in one if v not in other] or 'in another order'}"
    return repr(one)
