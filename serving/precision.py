"""An ONNX graph in another precision: INT8 by dynamic quantisation, FP16 by conversion; in and out it stays float32.

Both change weights that are multiplied. Trees have none: their thresholds decide, and a rounded threshold is another tree.
Sources: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html and `…/float16.html`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from schemas.errors import HeadraceError
from schemas.manifest import Precision

# Operators whose second input is a weight that both ways can make smaller.
WEIGHTED = frozenset({"MatMul", "Gemm", "Conv"})
_DETAIL_CHARS_MAX = 200


class NotQuantizable(HeadraceError):
    """A model that has no variant in another precision."""


def refuse_without_weights(path: Path) -> None:
    """Hold a model to what a variant is made from.

    Raises:
        NotQuantizable: It multiplies by no weights of float32; trees, for example.
    """
    graph = onnx.load(path).graph
    constants = {c.name for c in graph.initializer if c.data_type == onnx.TensorProto.FLOAT}
    if not any(n.op_type in WEIGHTED and constants & set(n.input) for n in graph.node):
        kinds = sorted({n.op_type for n in graph.node})
        raise NotQuantizable(
            str(path),
            wanted=f"weights to make smaller: {', '.join(sorted(WEIGHTED))} with float32 constants",
            came=f"the model is made of {', '.join(kinds)}",
            mend="Trees have nothing to quantize; a network has: `headrace models train --estimator`.",
        )


def write_variant(origin: Path, target: Path, precision: Precision) -> None:
    """Write the model at `origin` to `target` in another precision.

    Raises:
        NotQuantizable: It has no weights, or the conversion fails.
    """
    refuse_without_weights(origin)
    make = {"int8": _int8, "fp16": _fp16}.get(precision)
    if make is None:
        raise ValueError(f"{precision} is what models are trained in")
    try:
        make(origin, target)
    except Exception as error:
        raise NotQuantizable(
            str(origin),
            wanted=f"a model that can be made {precision}",
            came=f"{type(error).__name__}: {str(error)[:_DETAIL_CHARS_MAX]}",
            mend="Leave this precision out: `--to`.",
        ) from error


def _int8(origin: Path, target: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic  # noqa: PLC0415 - takes a second

    with _quiet():
        # Of what operators outside ONNX itself give, it knows no type; here all is float32.
        given = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        quantize_dynamic(origin, target, extra_options=given)


def _fp16(origin: Path, target: Path) -> None:
    from onnxruntime.transformers import float16  # noqa: PLC0415 - the same

    made = float16.convert_float_to_float16(str(origin), keep_io_types=True)
    _take_inputs_as_they_are(made.graph)
    onnx.save(made, target)


def _take_inputs_as_they_are(graph: Any) -> None:  # noqa: ANN401 - protobuf's classes are untyped
    """Let operators that stay in float32 read what they are given, instead of what is left of it after a trip through float16.

    The converter makes every input float16 and back again for each operator that stays, under one and the same name: a
    model that does not load, and one to which an amount above 65,504 would be infinite.
    """
    casts = {n.output[0]: n for n in graph.node if n.op_type == "Cast"}
    around = {
        name: casts[node.input[0]].input[0]
        for name, node in casts.items()
        if _to(node) == onnx.TensorProto.FLOAT
        and node.input[0] in casts
        and _to(casts[node.input[0]]) == onnx.TensorProto.FLOAT16
    }
    outputs = {output.name for output in graph.output}
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = around.get(name, name)
    used = {name for node in graph.node for name in node.input} | outputs
    kept = [n for n in graph.node if n.op_type != "Cast" or n.output[0] in used]
    del graph.node[:]
    graph.node.extend(kept)
    # What the converter believed of the types in between; the runtime infers them itself.
    del graph.value_info[:]


def _to(cast: Any) -> int:  # noqa: ANN401 - as above
    return next(int(a.i) for a in cast.attribute if a.name == "to")


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser advises, on the root logger, a preparation that only models of images gain from."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
