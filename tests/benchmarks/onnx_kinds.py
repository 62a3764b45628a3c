"""The three models of row f, as ONNX: what they cost is what matters, not what they know."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipelines import onnx_model
from pipelines import payments as training

if TYPE_CHECKING:
    from serving.output_contract import Matrix

WIDTH, HEADS, LAYERS = 32, 4, 2
_OPSET, _IR = 17, 9


def trees(matrix: Matrix) -> Any:
    """Payments' own estimator: 150 trees of 15 leaves."""
    return onnx_model.convert(training.train(matrix, _labels(matrix)), matrix.shape[1])


def mlp(matrix: Matrix) -> Any:
    """Standardised inputs, then layers of 64 and 32."""
    estimator = make_pipeline(
        StandardScaler(), MLPClassifier((64, 32), max_iter=3, random_state=1, batch_size=256)
    )
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        estimator.fit(matrix, _labels(matrix))
    return onnx_model.convert(estimator, matrix.shape[1])


def transformer(matrix: Matrix) -> Any:
    """Each input a token (a feature tokenizer, arXiv:2106.11959), two layers of attention of four heads, their mean, two classes."""
    graph = _Graph(matrix.shape[1])
    at = graph.tokens(matrix)
    for layer in range(LAYERS):
        at = graph.attention(f"a{layer}", at)
        at = graph.feed_forward(f"f{layer}", at)
    return graph.classes(graph.norm("last", at))


def _labels(matrix: Matrix) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    product = matrix[:, 0] * matrix[:, 2]
    labels: np.ndarray[tuple[int], np.dtype[np.bool_]] = product > np.quantile(product, 0.8)
    return labels


class _Graph:
    """Nodes and weights as they come; a method adds a part behind `at` and names its output."""

    def __init__(self, inputs: int) -> None:
        self._inputs = inputs
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._dice = np.random.default_rng(1)

    def tokens(self, matrix: Matrix) -> str:
        """`[rows, inputs]` → `[rows, inputs, WIDTH]`: a direction and a place for each input."""
        spread = matrix.std(axis=0)
        self._floats("centre", matrix.mean(axis=0))
        self._floats("spread", np.where(spread > 0, spread, 1.0))
        self._random("direction", self._inputs, WIDTH)
        self._random("place", self._inputs, WIDTH)
        self._integers("last_axis", [2])
        centred = self._node("Sub", "input", "centre")
        scaled = self._node("Div", centred, "spread")
        column = self._node("Unsqueeze", scaled, "last_axis")
        return self._node("Add", self._node("Mul", column, "direction"), "place")

    def attention(self, name: str, at: str) -> str:
        """Every token looks at all; added to what was."""
        self._integers("heads", [0, 0, HEADS, WIDTH // HEADS])
        self._integers("whole", [0, 0, WIDTH])
        self._floats("scale", np.array((WIDTH // HEADS) ** -0.5))
        normed = self.norm(name, at)
        query = self._headed(name + "q", normed, [0, 2, 1, 3])
        key = self._headed(name + "k", normed, [0, 2, 3, 1])
        value = self._headed(name + "v", normed, [0, 2, 1, 3])
        fit = self._node("Mul", self._node("MatMul", query, key), "scale")
        looked = self._node("MatMul", self._node("Softmax", fit, axis=-1), value)
        joined = self._node("Transpose", looked, perm=[0, 2, 1, 3])
        mixed = self._linear(name + "o", self._node("Reshape", joined, "whole"), WIDTH, WIDTH)
        return self._node("Add", at, mixed)

    def feed_forward(self, name: str, at: str) -> str:
        """Two layers for each token alone; added to what was."""
        wide = self._linear(name + "i", self.norm(name, at), WIDTH, 4 * WIDTH)
        narrow = self._linear(name + "o", self._node("Relu", wide), 4 * WIDTH, WIDTH)
        return self._node("Add", at, narrow)

    def norm(self, name: str, at: str) -> str:
        """LayerNormalization over a token."""
        self._floats(name + "_gain", np.ones(WIDTH))
        self._floats(name + "_shift", np.zeros(WIDTH))
        return self._node("LayerNormalization", at, name + "_gain", name + "_shift", axis=-1)

    def classes(self, at: str) -> Any:
        """The finished model: `input` → `label`, `probabilities`."""
        mean = self._node("ReduceMean", at, axes=[1], keepdims=0)
        logits = self._linear("classes", mean, WIDTH, 2)
        self._nodes += [
            helper.make_node("Softmax", [logits], ["probabilities"], axis=-1),
            helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
        ]
        graph = helper.make_graph(
            self._nodes,
            "transformer",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, self._inputs])],
            [
                helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
                helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2]),
            ],
            self._weights,
        )
        opset = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=_IR)

    def _headed(self, name: str, at: str, order: list[int]) -> str:
        split = self._node("Reshape", self._linear(name, at, WIDTH, WIDTH), "heads")
        return self._node("Transpose", split, perm=order)

    def _linear(self, name: str, at: str, inputs: int, outputs: int) -> str:
        self._random(name + "_w", inputs, outputs)
        self._floats(name + "_b", np.zeros(outputs))
        return self._node("Add", self._node("MatMul", at, name + "_w"), name + "_b")

    def _node(self, kind: str, *given: str, **named: Any) -> str:
        output = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(given), [output], **named))
        return output

    def _random(self, name: str, inputs: int, outputs: int) -> None:
        self._floats(name, self._dice.normal(size=(inputs, outputs)) / np.sqrt(inputs))

    def _floats(self, name: str, values: Any) -> None:
        self._held(name, np.asarray(values, dtype=np.float32))

    def _integers(self, name: str, values: list[int]) -> None:
        self._held(name, np.array(values, dtype=np.int64))

    def _held(self, name: str, values: Any) -> None:
        if all(one.name != name for one in self._weights):
            self._weights.append(numpy_helper.from_array(values, name))


KINDS = {"trees": trees, "mlp": mlp, "transformer": transformer}
