"""What the stages of one batch took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

M = TypeVar("M")
US_PER_MS = 1_000
NS_PER_US = 1_000


@dataclass
class Took:
    """One batch's stages, written down as they pass.

    Attributes:
        taken_ms: Epoch ms at which the batch was taken up.
        queue_us: For each row that is scored, from the broker's stamp until then.
        read_us: Reading the features of the batch; None where they were not read.
        predict_us: Version → its whole time over the batch, halves and second tries included.
        commit_us: The transaction, from its beginning until it was committed.
    """

    taken_ms: int = 0
    queue_us: Sequence[int] = ()
    read_us: int | None = None
    predict_us: dict[str, int] = field(default_factory=dict)
    commit_us: int | None = None

    def waited_us(self, ingest_ms: int) -> int:
        """How long a record waited that the broker stamped then; never below 0, clocks being two."""
        return max(0, self.taken_ms - ingest_ms) * US_PER_MS

    def of(self, row: int, version: str) -> dict[str, int]:
        """What a row's result says: `queue`, `read`, and `predict` of the version that it names."""
        told: dict[str, int] = {"queue": self.queue_us[row]} if self.queue_us else {}
        if self.read_us is not None:
            told["read"] = self.read_us
        if version in self.predict_us:
            told["predict"] = self.predict_us[version]
        return told

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around the read of the features."""
        began_ns = time.perf_counter_ns()
        try:
            yield
        finally:
            self.read_us = (time.perf_counter_ns() - began_ns) // NS_PER_US

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Around the transaction."""
        began_ns = time.perf_counter_ns()
        try:
            yield
        finally:
            self.commit_us = (time.perf_counter_ns() - began_ns) // NS_PER_US

    def timed(self, models: Mapping[str, M]) -> dict[str, M]:
        """The models, such that the time of every call of theirs is added up here."""
        return {name: cast("M", _Timed(name, model, self)) for name, model in models.items()}


class _Timed:
    """Stands for a model; what it is asked, the model is asked."""

    def __init__(self, version: str, model: object, took: Took) -> None:
        self._version, self._model, self._took = version, model, took

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the model has
        found = getattr(self._model, name)
        return self._measured(found) if callable(found) else found

    def _measured(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*given: object, **named: object) -> Any:  # noqa: ANN401
            began_ns = time.perf_counter_ns()
            try:
                return call(*given, **named)
            finally:
                us = (time.perf_counter_ns() - began_ns) // NS_PER_US
                so_far = self._took.predict_us
                so_far[self._version] = so_far.get(self._version, 0) + us

        return measured
