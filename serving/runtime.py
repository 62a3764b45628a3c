"""An ONNX model in memory: its folder verified, loaded, asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from features.inputs import input_names
from schemas import usecase
from schemas.manifest import MODEL_FILE, contract_digest
from serving import manifest
from serving.manifest import Manifest, ModelRefused

if TYPE_CHECKING:
    from features.views import Plan

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]
Scores = np.ndarray[tuple[int], np.dtype[np.float64]]

_RETRAIN = "Train a version under the applied definitions, or apply those it was trained under."
# Sums of float32 leaves overshoot by an ulp or two; more than that is a wrong model.
OVERSHOOT = 1e-6
# Errors of converters and runtimes may carry whole graphs.
_DETAIL_CHARS_MAX = 200


class ModelFailed(Exception):
    """The model gave no usable answer for this matrix; `reason` goes into the result.

    Attributes:
        reason: model_error, output_shape, output_not_finite or output_out_of_range.
        detail: What came, shortened.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail[:_DETAIL_CHARS_MAX]
        super().__init__(f"{reason}: {self.detail}")


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
    """A loaded version. `load` makes them; safe to share between threads."""

    def __init__(self, described: Manifest, session: onnxruntime.InferenceSession) -> None:
        self.manifest = described
        self.version = described.version
        self.threshold = described.threshold
        self._session = session
        self._input = session.get_inputs()[0].name
        self._scores = session.get_outputs()[-1].name

    def predict(self, matrix: Matrix) -> Scores:
        """The probability of class 1 for each row.

        Args:
            matrix: float32 `[rows, inputs]` in the manifest's order; NaN is "no value".

        Raises:
            ModelFailed: The runtime failed, or the output breaks its contract: `[rows]`, finite, in [0, 1].
        """
        try:
            out = self._session.run([self._scores], {self._input: matrix})[0]
        except Exception as error:  # onnxruntime raises its own classes, which share no base
            raise ModelFailed("model_error", str(error)) from error
        return checked(np.asarray(out), matrix.shape[0])


def checked(output: np.ndarray[tuple[int, ...], np.dtype[np.float32]], rows: int) -> Scores:
    """The output contract: `[rows, 2]` class probabilities or `[rows]` scores, finite, in [0, 1].

    Raises:
        ModelFailed: It is broken by at least one row.
    """
    if output.shape not in {(rows, 2), (rows,), (rows, 1)}:
        raise ModelFailed("output_shape", f"{output.shape} for {rows} rows")
    scores: Scores = output.reshape(rows, -1)[:, -1].astype(np.float64)
    if not np.isfinite(scores).all():
        raise ModelFailed("output_not_finite", f"{int((~np.isfinite(scores)).sum())} of {rows}")
    if scores.min(initial=0.0) < -OVERSHOOT or scores.max(initial=1.0) > 1 + OVERSHOOT:
        raise ModelFailed("output_out_of_range", f"between {scores.min()} and {scores.max()}")
    return np.clip(scores, 0.0, 1.0)


def load(folder: str | Path, expected: Expected | None = None) -> Model:
    """Verify a version's folder, load its model on one thread, and try it on two rows.

    Args:
        folder: `<models_dir>/<model>/<version>`.
        expected: What the platform would feed it; None loads for offline comparison on stored vectors.

    Raises:
        ModelRefused: The folder is not what its manifest says, the model was made for other features or another
            contract, or it does not load and answer.
    """
    folder = Path(folder)
    described = manifest.read(folder)
    manifest.verify(folder, described)
    if expected is not None:
        _match(folder, described, expected)
    options = onnxruntime.SessionOptions()
    # Replicas share the machine with the broker: threads that wait for each other cost more than they give.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            str(folder / MODEL_FILE), options, providers=["CPUExecutionProvider"]
        )
        model = Model(described, session)
        # The first run allocates; better here than under a request.
        model.predict(np.zeros((2, len(described.inputs)), dtype=np.float32))
    except Exception as error:  # as above: onnxruntime's errors share no base
        raise ModelRefused(
            str(folder / MODEL_FILE),
            wanted=f"an ONNX model that answers [rows, {len(described.inputs)}]",
            came=str(error)[:_DETAIL_CHARS_MAX],
            mend="Train again.",
        ) from error
    return model


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
