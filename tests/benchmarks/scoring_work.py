"""The work of row f by hand: a flight's request to a row of the model, a score to a result. What the limit and the peers do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec
import numpy as np
import onnxruntime

from schemas.flights import CARRIERS, ORIGINS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving.output_contract import Matrix

_ORIGIN = {name: code for code, name in enumerate(ORIGINS)}
_CARRIER = {name: code for code, name in enumerate(CARRIERS)}


class Asked(msgspec.Struct):
    """A request, checked for no more than that its fields are there and of their type."""

    request_id: str
    carrier: str
    origin: str
    distance_miles: float
    scheduled_hour: int
    scheduled_weekday: int


class Scored(msgspec.Struct):
    """A result, as short as it is of use."""

    request_id: str
    score: float
    status: str = "scored"


class Work(NamedTuple):
    """What a process must be told: the model's file, and the features, which are the same for every request.

    They are spared to the limit and to the peers; ours reads them from Redis, a ring for each aircraft and each origin.
    """

    model: str
    features: tuple[float, ...]

    @classmethod
    def told(cls, text: str) -> Self:
        """From a command line."""
        model, features = json.loads(text)
        return cls(model, tuple(features))


class ByHand:
    """Decode, predict, encode: a batch at a time, without a framework."""

    def __init__(self, work: Work) -> None:
        options = onnxruntime.SessionOptions()
        # As the scorer's own.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(work.model, options)
        self._features = work.features
        self._decode = msgspec.json.Decoder(Asked).decode
        self._encode = msgspec.json.Encoder().encode

    def answers(self, values: Sequence[bytes]) -> list[bytes]:
        """The results of requests, in their order."""
        asked = [self._decode(value) for value in values]
        scores = self.scores(matrix(asked, self._features)).tolist()
        return [
            self._encode(Scored(one.request_id, score))
            for one, score in zip(asked, scores, strict=True)
        ]

    def scores(self, matrix: Matrix) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """What the model says, `[rows]`."""
        found: np.ndarray[tuple[int, int], np.dtype[np.float32]]
        found = self._session.run(["probabilities"], {"input": matrix})[0]
        return found[:, 1]


def matrix(asked: Sequence[Asked], features: Sequence[float]) -> Matrix:
    """The model's input, `[rows, inputs]`, in the order of `features.inputs`."""
    rows = [
        (
            one.scheduled_hour,
            one.scheduled_weekday,
            one.distance_miles,
            _ORIGIN[one.origin],
            _CARRIER[one.carrier],
            *features,
        )
        for one in asked
    ]
    return np.array(rows, dtype=np.float32)
