from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.control import Release, Verdict, VerdictKind
from schemas.control_log import Entry
from serving.catalogue import Alias, Catalogue, Picture

CASE = "flights"
CLOCK_MS = 1_370_000_000_000


def release(epoch: int, champion: str, **fields: Any) -> Entry:
    event = Release(
        event_id=f"release-{epoch}",
        event_time_ms=CLOCK_MS,
        decided_at_ms=epoch,
        case=CASE,
        epoch=epoch,
        model="late",
        champion=champion,
        salt="s",
        reason="?",
        decided_by="test",
        **fields,
    )
    return Entry(event, epoch)


def verdict(kind: VerdictKind, champion: str, candidate: str) -> Entry:
    event = Verdict(
        event_id=f"{kind}-{candidate}",
        event_time_ms=CLOCK_MS,
        decided_at_ms=1,
        case=CASE,
        verdict=kind,
        order_id=None,
        model="late",
        champion=champion,
        candidate=candidate,
        champion_metrics={},
        candidate_metrics={"auc": 0.8},
        rows=10,
        reason="?",
    )
    return Entry(event, 1)


STORY = [
    release(1, "v0001"),
    verdict(VerdictKind.ADMIT, "v0001", "v0002"),
    release(2, "v0001", canary="v0002", canary_share=0.05),
    verdict(VerdictKind.PROMOTE, "v0001", "v0002"),
    release(3, "v0002"),
    verdict(VerdictKind.REFUSE, "v0002", "v0003"),
    release(4, "v0002", shadow="v0004"),
    verdict(VerdictKind.ADMIT, "v0002", "v0005"),
    release(5, "v0002", shadow="v0004", canary="v0005", pins={"N1": "v0001"}),
]


def picture(entries: list[Entry]) -> Picture | None:
    catalogue = Catalogue(CASE)
    catalogue.fold(entries)
    return catalogue.picture()


def test_before_the_first_release_there_is_nothing_to_show() -> None:
    assert picture([]) is None
    assert picture([verdict(VerdictKind.ADMIT, "v0001", "v0002")]) is None


def test_a_story_is_told_by_stages_and_aliases() -> None:
    shown = picture(STORY)
    assert shown is not None
    assert (shown.model, shown.epoch) == ("late", 5)
    assert shown.stages == {
        "v0001": "pinned",
        "v0002": "champion",
        "v0004": "shadow",
        "v0005": "challenger",
    }
    assert shown.aliases == {
        Alias.CHAMPION: "v0002",
        Alias.CHALLENGER: "v0005",
        Alias.ARCHIVED: "v0001",
    }
    assert shown.gate == {"v0002": {"auc": 0.8}, "v0005": {"auc": 0.8}}


def test_a_canary_that_was_rolled_back_is_archived() -> None:
    shown = picture([*STORY, release(6, "v0002")])
    assert shown is not None
    assert shown.stages["v0005"] == "archived"
    assert Alias.CHALLENGER not in shown.aliases


def test_what_compaction_forgot_the_verdicts_remember() -> None:
    left = [entry for entry in STORY if not isinstance(entry.event, Release)] + [STORY[-1]]
    shown = picture(left)
    assert shown is not None
    assert shown.aliases == getattr(picture(STORY), "aliases")  # noqa: B009 - of a picture or nothing
    assert shown.stages == getattr(picture(STORY), "stages")  # noqa: B009


@given(seed=st.integers(0, 2**32), times=st.integers(1, 3))
def test_order_and_repetition_change_nothing(seed: int, times: int) -> None:
    shuffled = STORY * times
    random.Random(seed).shuffle(shuffled)
    assert picture(shuffled) == picture(STORY)


VERSIONS = [f"v{n:04d}" for n in range(1, 5)]
CANARIES = st.none() | st.sampled_from(VERSIONS)


@given(told=st.lists(st.tuples(st.sampled_from(VERSIONS), CANARIES, CANARIES), min_size=1))
def test_whatever_was_released_the_picture_is_of_the_newest(
    told: list[tuple[str, str | None, str | None]],
) -> None:
    entries = [
        release(epoch, champion, canary=canary if canary != champion else None, shadow=shadow)
        for epoch, (champion, canary, shadow) in enumerate(told, 1)
    ]
    shown = picture(entries)
    assert shown is not None
    now = entries[-1].event
    assert isinstance(now, Release)
    assert shown.aliases[Alias.CHAMPION] == now.champion
    assert shown.aliases.get(Alias.CHALLENGER) == now.canary
    assert shown.aliases.get(Alias.ARCHIVED) != now.champion
    assert set(shown.aliases.values()) <= shown.stages.keys()
    assert [v for v, stage in shown.stages.items() if stage == "champion"] == [now.champion]
    assert [v for v, stage in shown.stages.items() if stage == "challenger"] == (
        [now.canary] if now.canary else []
    )
