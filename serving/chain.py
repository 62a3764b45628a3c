"""Who answers each row: the version of its arm, else the other model; the rule is `serving.scoring`'s."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from typing import TYPE_CHECKING, TypeVar

from schemas.results import Route
from serving.declared import Fallback

if TYPE_CHECKING:
    from serving.asking import Asking
    from serving.output_contract import Matrix, ModelFailed
    from serving.releases import Arm
    from serving.scoring import Serving

K = TypeVar("K")
# The reason of an answer that the champion was not asked for.
SUSPENDED = "suspended"


@dataclass
class Reply:
    """What models said to one row, and who.

    Attributes:
        version: Who answered; the arm's version while nobody has.
        route: Of that.
        reasons: What happened on the way.
        score: NaN while nobody has answered.
        failed: The versions that were asked and gave no usable answer, in order.
        fell: The reason why the arm's own version did not answer; "" where it did.
    """

    version: str
    route: Route
    reasons: list[str] = field(default_factory=list)
    score: float = nan
    failed: list[str] = field(default_factory=list)
    fell: str = ""

    @property
    def answered(self) -> bool:
        """Whether a model has."""
        return not isnan(self.score)


def unasked(arms: Sequence[Arm], serving: Serving, reason: str, detail: str) -> list[Reply]:
    """Nobody can be asked, for one and the same reason."""
    replies = [answering(arm, serving) for arm in arms]
    for reply in replies:
        reply.fell = reason
        reply.reasons.append(f"{reason}: {detail}" if detail else reason)
    return replies


def withheld(arm: Arm, serving: Serving, reason: str) -> Reply:
    """A model's answer is not to be used; who withholds it says why."""
    reply = answering(arm, serving)
    reply.fell = reason
    return reply


def replies(
    rows: Matrix,
    arms: Sequence[Arm],
    serving: Serving,
    asking: Asking,
    fallbacks: Sequence[Fallback],
) -> list[Reply]:
    """Ask each row's version, and another one about the rows for which it has no answer."""
    out = [answering(arm, serving) for arm in arms]
    for version, mine in _by(range(len(out)), lambda row: out[row].version).items():
        if serving.suspended and version == serving.state.versions[0]:
            _suspend([out[row] for row in mine], serving)
            continue
        part = rows if len(mine) == len(out) else rows[mine]
        asked = asking.ask(serving.models[version], part)
        for place, (row, score) in enumerate(zip(mine, asked.scores.tolist(), strict=True)):
            reply, why = out[row], asked.failed.get(place)
            reply.score = score
            if why is not None:
                reply.failed.append(version)
                reply.fell = why.reason
                reply.reasons.append(said(why))
            elif place in asked.retried:
                reply.reasons.append(f"retried: {said(asked.retried[place])}")
    left = [row for row, reply in enumerate(out) if not reply.answered]
    if left and Fallback.OTHER_MODEL in fallbacks:
        _ask_others(rows, out, left, serving, asking)
    return out


def answering(arm: Arm, serving: Serving) -> Reply:
    """Who is to answer for an arm: itself, or the champion where the arm's version was refused."""
    if arm.version in serving.models:
        return Reply(arm.version, arm.route, [arm.why] if arm.why else [])
    champion = serving.state.versions[0]
    return Reply(champion, Route.CHAMPION, [f"{arm.route}_refused: {arm.version}"])


def said(why: ModelFailed) -> str:
    """As a reason in a result."""
    return f"{why.reason}: {why.detail}" if why.detail else why.reason


def _suspend(replies: Iterable[Reply], serving: Serving) -> None:
    release = serving.state.release
    for reply in replies:
        reply.fell = SUSPENDED
        reply.reasons.append(f"{SUSPENDED}: {release.incident if release else None}")


def _ask_others(
    rows: Matrix, out: list[Reply], left: list[int], serving: Serving, asking: Asking
) -> None:
    for other, mine in _by(left, lambda row: serving.other(out[row].version)).items():
        if other is None:
            continue
        asked = asking.ask(serving.models[other], rows[mine])
        for place, (row, score) in enumerate(zip(mine, asked.scores.tolist(), strict=True)):
            reply, why = out[row], asked.failed.get(place)
            if why is not None:
                reply.failed.append(other)
                reply.reasons.append(f"{other}: {said(why)}")
                continue
            reply.score, reply.version, reply.route = score, other, Route.CHAMPION
            reply.reasons.append(f"other_model: {other}")


def _by(rows: Iterable[int], key: Callable[[int], K]) -> dict[K, list[int]]:
    out: dict[K, list[int]] = {}
    for row in rows:
        out.setdefault(key(row), []).append(row)
    return out
