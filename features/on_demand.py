"""On-demand views: features that a function makes of other features and of the request itself. What executors need, without Feast."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

Mode = Literal["pandas", "python"]
Kind = Literal["number", "string"]


class Input(msgspec.Struct, frozen=True):
    """One feature that the function reads."""

    view: str
    feature: str
    kind: Kind

    @property
    def full(self) -> str:
        """Its full name as Feast writes it."""
        return f"{self.view}__{self.feature}"


class OnDemandView(msgspec.Struct, frozen=True):
    """A Feast `OnDemandFeatureView`, compiled.

    Attributes:
        module: Where its function lies, e.g. `features.payments`.
        digest: Of the function and of what it uses of its module (`features.on_demand_source`).
        inputs: The features it reads, in order.
        request: The request's fields that it reads, and their kinds.
        features: What it makes, one float64 each.
    """

    name: str
    module: str
    function: str
    digest: str
    mode: Mode
    inputs: tuple[Input, ...]
    request: dict[str, Kind]
    features: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all that changes the meaning of a value, but that of its inputs."""
        parts = [self.digest, self.mode, self.inputs, sorted(self.request.items()), self.features]
        encoded = msgspec.json.encode(parts)
        return hashlib.blake2b(encoded, digest_size=8).hexdigest()
