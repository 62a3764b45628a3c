"""What a use case owes its users, signed off by somebody: `schemas/<case>.requirements.toml`.

Every part may be left out, but for who signed it off and when. What is there is checked by `headrace requirements check`;
the accuracy floor is enforced too (a champion below it is suspended).
"""

from __future__ import annotations

import tomllib
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas import usecase
from schemas.errors import HeadraceError

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
HIGHER_IS_BETTER = frozenset({"auc"})


class InvalidRequirements(HeadraceError):
    """A file of requirements that cannot be meant; it stops the start."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Latency(_Part):
    """From the broker's stamp of a request to that of its result, interactive lane, within the window."""

    p95_ms: Positive
    p99_ms: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Latency:
        if self.p99_ms < self.p95_ms:
            raise ValueError(f"p99_ms of {self.p99_ms:g} lies below p95_ms of {self.p95_ms:g}")
        return self


class Throughput(_Part):
    """The most that is asked in a second; for requests of a second beyond it the latency is not owed."""

    ceiling_rows_per_s: Positive


class Accuracy(_Part):
    """What the champion's scores must be worth on joined outcomes: a floor, or for a loss a ceiling."""

    metric: Literal["auc", "log_loss"]
    value: Positive
    rows_min: Annotated[int, Field(ge=1)]

    def met_by(self, value: float) -> bool:
        """Whether a measured value reaches it."""
        return value >= self.value if self.metric in HIGHER_IS_BETTER else value <= self.value


class Stale(StrEnum):
    """What becomes of a request while a view is older than its bound: its result says so, and who answers it."""

    MARK = "mark"
    FALLBACK = "fallback"


class Freshness(_Part):
    """How old the newest event that a view has seen may be, in seconds: of all views of windows, and of single ones.

    Results of requests beyond that are marked. `stale` says who answers them: the model all the same, or the use case's rule.
    """

    s: Positive | None = None
    views: dict[str, Positive] = Field(default_factory=dict)
    stale: Stale = Stale.MARK

    @model_validator(mode="after")
    def _says_something(self) -> Freshness:
        if self.s is None and not self.views:
            raise ValueError("neither s nor a view is given")
        return self


class Availability(_Part):
    """The share of requests that a model or the fallback answers, and not those that expire at their deadline.

    How soon they are answered is the latency's to say.
    """

    share: Share


class Requirements(_Part):
    """The whole file. `window_h` is what `requirements check` looks back on, by the broker's clock."""

    owner: Annotated[str, Field(min_length=1)]
    signed_off: date
    window_h: Positive = 24.0
    latency: Latency | None = None
    throughput: Throughput | None = None
    accuracy: Accuracy | None = None
    freshness: Freshness | None = None
    availability: Availability | None = None


def path_of(case: str) -> Path | None:
    """Where the use case keeps its file, beside its contracts; None where those are in no file."""
    file = getattr(usecase.load("schemas", case), "__file__", None)
    return Path(file).with_name(f"{case}.requirements.toml") if file else None


def load(case: str) -> Requirements | None:
    """The use case's requirements; None where it has signed off none.

    Raises:
        InvalidRequirements: The file is not what it should be.
    """
    path = path_of(case)
    return read(path) if path is not None and path.exists() else None


def read(path: Path) -> Requirements:
    """The requirements in a file.

    Raises:
        InvalidRequirements: It is not TOML, or says something that cannot be meant.
    """
    try:
        return Requirements.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequirements(str(path), wanted="TOML in UTF-8", came=str(error)) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        came = "it is missing" if first["type"] == "missing" else f"it is {first['input']!r}"
        said = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        raise InvalidRequirements(
            f"{path}: {key}",
            wanted="a value" if first["type"] == "missing" else said,
            came=came,
            mend="Correct the file; who signed it off should know.",
        ) from error
