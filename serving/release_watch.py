"""Follows `control.releases` beside the scoring loop, so that a release costs the loop one attribute read a batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Self

import structlog
from confluent_kafka import Consumer, KafkaError, TopicPartition

from schemas import usecase
from schemas.control import Release, RoutingRule
from schemas.errors import HeadraceError
from schemas.settings import KafkaSettings
from serving.release_log import TOPIC, decoded
from serving.releases import ReleaseState
from serving.runtime import Model
from serving.scoring import Serving

log = structlog.get_logger()

POLL_S = 0.2
# A version that was refused may be mended on disk: look again, seldom enough not to load the disk.
RETRY_S = 5.0


class WrongRouting(HeadraceError):
    """A routing rule over something that a request does not have."""


def routing(case: str) -> tuple[RoutingRule, ...]:
    """The rules that a use case declares (`serving.<case>.ROUTING`); none where it says nothing.

    Raises:
        WrongRouting: A request has no such field.
    """
    rules: tuple[RoutingRule, ...] = getattr(usecase.load("serving", case), "ROUTING", ())
    for rule in rules:
        check_field(case, rule.field)
    return rules


def check_field(case: str, field: str) -> None:
    """A rule may look at this field of the use case's requests.

    Raises:
        WrongRouting: There is no such field.
    """
    known = sorted(usecase.load("schemas", case).REQUEST.model_fields)
    if field not in known:
        raise WrongRouting(
            f"routing of {case}",
            wanted=f"a field of its requests: {', '.join(known)}",
            came=field,
            mend="Correct the rule.",
        )


class ReleaseWatch:
    """The newest release whose champion is in memory, as `serving`.

    Models are loaded here, in the background, and appear in `serving` complete. The versions of the release before stay in
    memory, so that going back to them takes no load. A release whose champion is refused changes nothing; one whose
    canary or shadow is refused goes into force without it. Both are tried again every few seconds. As often it is asked
    whether a version in memory has come into doubt: unless it can be loaded anew it is dropped, as if it had been refused; a
    champion answers on, and that is told.

    Args:
        kafka: The cluster.
        case: Whose releases.
        load: `(model, version) -> Model`, raising `ModelRefused`.
        doubts: Whether a version that was loaded might be refused now; asked often, so it must be cheap.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        case: str,
        load: Callable[[str, str], Model],
        doubts: Callable[[Model], bool] = lambda _: False,
    ) -> None:
        self._kafka, self._load, self._doubts = kafka, load, doubts
        self._wanted = ReleaseState(case, rules=routing(case))
        self._models: dict[str, Model] = {}
        self._refused: dict[str, str] = {}
        # A champion that answers on, and why it should not.
        self._doubted: dict[str, str] = {}
        self._serving: Serving | None = None
        self._failed: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="releases", daemon=True)
        self.ignored = 0

    @property
    def serving(self) -> Serving | None:
        """What answers from now on; None while there is no release, or none whose champion can be loaded.

        Raises:
            Exception: What ended the thread; releases are no longer followed.
        """
        if self._failed is not None:
            raise self._failed
        return self._serving

    @property
    def refused(self) -> dict[str, str]:
        """Version of the newest release → why it is not in memory; or the champion, and why it should not be."""
        return {**self._refused, **self._doubted}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        consumer = Consumer(
            self._kafka.client_config(
                group_id=f"{TOPIC}.{self._wanted.case}",
                isolation_level="read_committed",
                enable_auto_commit=False,
                enable_partition_eof=True,
                fetch_wait_max_ms=50,
            )
        )
        try:
            consumer.assign([TopicPartition(TOPIC, 0, 0)])
            self._follow(consumer)
        except Exception as error:  # handed to the loop, which ends with it
            log.exception("releases.failed")
            self._failed = error
        finally:
            consumer.close()

    def _follow(self, consumer: Consumer) -> None:
        caught_up, tried_s, tried_epoch, looked_s = False, 0.0, 0, time.monotonic()
        while not self._stop.is_set():
            for message in consumer.consume(1, POLL_S):
                error = message.error()
                if error is None:
                    self._fold(decoded(message.value(), message.timestamp()[1]))
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's name
                    caught_up = True
                elif error.fatal():
                    raise HeadraceError(TOPIC, wanted="releases followed", came=str(error))
            behind = self._wanted.epoch > tried_epoch
            again = bool(self._refused) and time.monotonic() - tried_s > RETRY_S
            # Before the end is reached there may be a later release: do not load what no longer answers.
            if caught_up and (behind or again):
                self._apply()
                tried_s, tried_epoch = time.monotonic(), self._wanted.epoch
            if time.monotonic() - looked_s > RETRY_S:
                self._look_again()
                looked_s = time.monotonic()

    def _fold(self, event: object) -> None:
        if isinstance(event, Release):
            self._wanted = self._wanted.fold(event)
        else:
            self.ignored += 1
            log.warning("releases.ignored", refusal=str(event))

    def _apply(self) -> None:
        release = self._wanted.release
        if release is None:
            return
        refused: dict[str, str] = {}
        for version in self._wanted.versions:
            if version not in self._models:
                self._take(release.model, version, refused)
        self._refused = refused
        if release.champion in refused:
            return
        before = self._serving
        names = self._wanted.versions
        previous = _previous(before, release.champion)
        kept = (*names, previous)
        models = {v: self._models[v] for v in kept if v is not None and v in self._models}
        self._serving = Serving(self._wanted, models, refused, previous)
        if before is None or before.state.epoch != self._wanted.epoch:
            log.info("releases.applied", epoch=release.epoch, champion=release.champion)
            warm = (*before.state.versions, previous) if before else ()
            self._models = {v: m for v, m in self._models.items() if v in (*names, *warm)}

    def _look_again(self) -> None:
        """Load anew what has come into doubt. What is refused then is dropped, but for the champion: somebody must answer."""
        release, serving = self._wanted.release, self._serving
        doubted = [version for version, model in self._models.items() if self._doubts(model)]
        self._doubted = {v: why for v, why in self._doubted.items() if v in doubted}
        if release is None or serving is None or not doubted:
            return
        champion = serving.state.versions[0]
        refused: dict[str, str] = {}
        for version in doubted:
            model = self._models.pop(version)
            self._take(release.model, version, refused)
            if version == champion:
                self._models.setdefault(version, model)
        self._doubted = {v: why for v, why in refused.items() if v == champion}
        dropped = {v: why for v, why in refused.items() if v != champion}
        self._refused |= dropped
        models = {v: self._models[v] for v in serving.models if v in self._models}
        self._serving = replace(serving, models=models, refused={**serving.refused, **dropped})

    def _take(self, model: str, version: str, refused: dict[str, str]) -> None:
        try:
            self._models[version] = self._load(model, version)
        except HeadraceError as error:
            refused[version] = str(error)
            if self.refused.get(version) != str(error):
                log.warning("releases.refused", version=version, error=str(error))


def _previous(before: Serving | None, champion: str) -> str | None:
    """The champion that reigned before this one, as far as this process has seen; it stays in memory to help out."""
    if before is None:
        return None
    reigned = before.state.versions[0]
    return before.previous if reigned == champion else reigned
