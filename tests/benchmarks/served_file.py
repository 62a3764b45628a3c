"""What row h's peer deploys: a model's file behind Ray Serve, over HTTP, as Ray's documentation has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1)
class Scored:
    """The model in a file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._session = InferenceSession(Path(path).read_bytes())

    async def __call__(self, request: Request) -> dict[str, object]:
        """Which model scores a row, and how."""
        row = np.array([await request.json()], dtype=np.float32)
        scores = self._session.run(["probabilities"], {"input": row})[0]
        return {"model": self._path, "score": float(np.asarray(scores)[0, 1])}


def app(args: dict[str, str]) -> serve.Application:
    """What `serve deploy` builds."""
    return Scored.bind(args["model"])  # type: ignore[attr-defined] # the decorator's type says less
