"""Where a version runs: what the use case declares of each estimator, what the machine has, and what becomes of the two (pure).

| declared | ONNX Runtime is asked for | a replica reserves |
|---|---|---|
| `Tier("cpu")`, or nothing | the CPU | no GPU |
| `Tier("gpu")` | CUDA, then the CPU | one GPU |
| `Tier("gpu", share=0.25)` | the same | a quarter of one |

A share is what Ray Serve places replicas by. It does not hold a replica back: one that takes more of the memory than its share takes
it from those beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.errors import HeadraceError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
Gpu = Literal["prefer", "require"]


class GpuMissing(HeadraceError):
    """A tier needs a GPU, the settings do not let it do without, and there is none; it stops the start."""


class BadTier(HeadraceError):
    """A tier that cannot be meant."""


@dataclass(frozen=True)
class Tier:
    """Where the versions of an estimator run.

    Attributes:
        device: "cpu" or "gpu".
        share: Of one GPU, for each replica; in (0, 1].

    Raises:
        BadTier: There is no such device, or the share is none of a GPU's.
    """

    device: Literal["cpu", "gpu"]
    share: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.device not in ("cpu", "gpu"):
            raise BadTier("Tier, device", wanted="cpu or gpu", came=f"it is {self.device!r}")
        number = isinstance(self.share, int | float) and not isinstance(self.share, bool)
        if not number or not 0 < self.share <= 1 or (self.device == "cpu" and self.share != 1):
            raise BadTier(
                f"Tier({self.device!r}), share",
                wanted="a part of one GPU, above 0 and at most 1",
                came=f"it is {self.share!r}",
                mend="The processors of a replica are the setting `serving.num_cpus`.",
            )


ON_CPU = Tier("cpu")


@dataclass(frozen=True)
class Placing:
    """How a process places the versions that it loads.

    Attributes:
        tiers: Estimator → its tier; one that is not named runs on the CPU.
        available: What ONNX Runtime has here (`onnxruntime.get_available_providers()`).
        gpu: Whether a version whose GPU is missing may run on the CPU.
        rows_max: The largest batch that is coming; versions are warmed up to it.
    """

    tiers: Mapping[str, Tier]
    available: Sequence[str]
    gpu: Gpu = "prefer"
    rows_max: int = 2

    def tier(self, estimator: str) -> Tier:
        """Where versions of an estimator are to run."""
        return self.tiers.get(estimator, ON_CPU)

    def providers(self, estimator: str) -> list[str]:
        """What ONNX Runtime is asked for, the first that works first.

        Raises:
            GpuMissing: The tier is a GPU, there is none, and one is required.
        """
        if self.tier(estimator).device == "cpu":
            return [CPU]
        if CUDA in self.available:
            return [CUDA, CPU]
        self.lacks(estimator, f"ONNX Runtime offers {', '.join(self.available)}")
        return [CPU]

    def lacks(self, estimator: str, came: str) -> None:
        """Say that the GPU of an estimator is not to be had; harmless where it is only preferred.

        Raises:
            GpuMissing: One is required.
        """
        if self.gpu == "require":
            raise _missing(f"tier of {estimator}", came)

    def check(self) -> None:
        """Before anything is loaded.

        Raises:
            GpuMissing: Some tier is a GPU, there is none, and one is required.
        """
        for estimator in self.tiers:
            self.providers(estimator)


def gpus_of_replica(
    tiers: Mapping[str, Tier], setting: float | None, gpu: Gpu, in_cluster: float
) -> float:
    """What each replica reserves of a GPU.

    Any version of the use case may be released to any replica, so that it is the greatest share of all tiers. A reservation that
    no node can meet would keep replicas from ever starting.

    Args:
        tiers: What the use case declares.
        setting: `serving.num_gpus`; None to follow the tiers.
        gpu: Whether replicas may start without.
        in_cluster: How many GPUs Ray has.

    Raises:
        GpuMissing: A GPU is required, and Ray has none.
    """
    if setting is not None:
        return setting
    wanted = max((tier.share for tier in tiers.values() if tier.device == "gpu"), default=0.0)
    if wanted <= in_cluster:
        return wanted
    if gpu == "require":
        raise _missing("replicas", f"Ray has {in_cluster:g} GPUs")
    return 0.0


def _missing(where: str, came: str) -> GpuMissing:
    return GpuMissing(
        where,
        wanted="a GPU, which the use case declares and `serving.gpu` requires",
        came=came,
        mend='Install onnxruntime-gpu on a machine with CUDA, or set HEADRACE_SERVING__GPU="prefer".',
    )
