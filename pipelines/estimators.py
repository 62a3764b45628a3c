"""What a use case can be fitted with, by name: `ESTIMATORS` of `pipelines/<case>.py`, or its `train` alone.

`train` is fitted where nobody chose another. A retraining fits what the champion was fitted with. A use case that declares `ESTIMATORS` has it among them, so that every
version has the name of what made it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pydantic import ValidationError

from schemas import usecase
from schemas.errors import HeadraceError
from schemas.manifest import DEFAULT_ESTIMATOR, Manifest

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.onnx_model import Classifier, Matrix
    from pipelines.training_set import Labels

    Fit = Callable[[Matrix, Labels], Classifier]


class BadEstimators(HeadraceError):
    """A use case declares estimators that cannot be meant."""


class UnknownEstimator(HeadraceError):
    """The use case has no estimator of this name."""


def estimators(case: str) -> Mapping[str, Fit]:
    """Name → the function that fits it.

    Raises:
        BadEstimators: `ESTIMATORS` is no table of functions, or `train` is not in it.
    """
    module = usecase.load("pipelines", case)
    declared: Mapping[str, Fit] | None = getattr(module, "ESTIMATORS", None)
    if declared is None:
        return {DEFAULT_ESTIMATOR: module.train}
    sound = isinstance(declared, Mapping) and all(
        isinstance(name, str) and name and callable(fit) for name, fit in declared.items()
    )
    if not sound or module.train not in declared.values():
        raise BadEstimators(
            f"pipelines/{case}.py, ESTIMATORS",
            wanted="a mapping of names to functions (matrix, labels) -> classifier, `train` among them",
            came=f"it is {declared!r}",
        )
    return declared


def default(case: str) -> str:
    """The name of `train`.

    Raises:
        BadEstimators: As `estimators`.
    """
    train = usecase.load("pipelines", case).train
    return next(name for name, fit in estimators(case).items() if fit is train)


def estimator(case: str, name: str | None) -> tuple[str, Fit]:
    """An estimator by name, `train` for None.

    Raises:
        UnknownEstimator: There is none of this name.
        BadEstimators: As `estimators`.
    """
    known = estimators(case)
    chosen = default(case) if name is None else name
    if chosen not in known:
        raise UnknownEstimator(
            f"estimators of {case}",
            wanted=f"one of {', '.join(known)}",
            came=repr(chosen),
            mend=f"pipelines/{case}.py declares them.",
        )
    return chosen, known[chosen]


def as_champion(case: str, models_dir: Path, version: str) -> tuple[str, str]:
    """What to fit in a champion's place: its estimator, by name, and for the card why.

    A variant in another precision is fitted as its origin was, in fp32. Where the folder does not say, or names what the use
    case does not have any more, it is `train`: somebody must follow a champion that drifted.

    Raises:
        BadEstimators: As `estimators`.
    """
    usual = default(case)
    try:
        said = Manifest.read(models_dir / str(usecase.load("schemas", case).MODEL) / version)
    except (OSError, ValidationError):
        return usual, f"fitted as `{usual}`, since the manifest of {version} cannot be read"
    if said.estimator not in estimators(case):
        why = f"{version} was fitted as `{said.estimator}`, which pipelines/{case}.py does not declare"
        return usual, f"fitted as `{usual}`: {why}"
    told = f"fitted as `{said.estimator}`, as {version} was, which drifted"
    if said.variant_of is None:
        return said.estimator, told
    variant = f"{version} is {said.variant_of} in {said.precision}; this one is fp32"
    return said.estimator, f"{told}. {variant}, and `headrace models quantize` makes its variants"
