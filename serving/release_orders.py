"""What an operator may order of releases: each order checked before it is published, so that no replica has to refuse it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from serving import release_log, runtime
from serving.manifest import ModelRefused
from serving.registry import Registry, UnknownVersion
from serving.release_log import ReleaseRefused, stamp
from serving.release_watch import check_field
from serving.releases import promoted, with_canary, with_pin, with_rule, with_shadow
from serving.trust import Trust

if TYPE_CHECKING:
    from features.settings import StoreSettings
    from schemas.control import CanaryRule, Release
    from schemas.settings import KafkaSettings
    from serving.settings import ServingSettings

LIST = "`headrace release list` shows what is in force."


class Orders:
    """An operator's orders to one use case. Every one returns the release that it published.

    Args:
        kafka: The cluster.
        stores: Where the plan is, which a version must have been trained under.
        serving: Where the versions are.
        case: The use case.
        decided_by: Kept with the release.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        stores: StoreSettings,
        serving: ServingSettings,
        case: str,
        *,
        decided_by: str,
    ) -> None:
        self._kafka, self._stores, self._case = kafka, stores, case
        self._registry = Registry(Path(serving.models_dir))
        self._trust = Trust(Path(serving.trust_dir)) if serving.trust_dir else None
        self._decided_by = decided_by

    def canary(self, version: str, share: float, reason: str) -> Release:
        """Let a version answer `share` (in [0, 1]) of the keys; again with another share to widen or narrow it.

        A version that is tried already keeps its salt, so that a wider share only adds keys.

        Raises:
            ReleaseRefused: It is the champion, another canary is in force, or the version cannot serve.
        """
        now = self._now()
        if version == now.champion:
            raise self._refused("another version than the champion", f"{version} is the champion")
        if now.canary not in (None, version):
            raise ReleaseRefused(
                f"releases of {self._case}",
                wanted="no canary in force: one at a time can be judged",
                came=f"{now.canary} answers {now.canary_share:.1%}",
                mend="Promote it or roll it back first.",
            )
        self._check_serves(now, version)
        salt = now.salt if now.canary == version else version
        return self._publish(
            with_canary(now, candidate=version, share=share, salt=salt, **self._stamp(now, reason))
        )

    def promote(self, reason: str) -> Release:
        """Make the canary in force the champion.

        Trap: a canary may have answered and not be loaded any more, because its key was revoked or its folder changed.

        Raises:
            ReleaseRefused: There is no canary, or it cannot serve.
        """
        now = self._now()
        if now.canary is None:
            raise self._refused("a canary in force", f"{now.champion} answers alone")
        self._check_serves(now, now.canary)
        return self._publish(promoted(now, **self._stamp(now, reason)))

    def shadow(self, version: str | None, reason: str) -> Release:
        """Let a version score beside those that answer, into `<case>.shadow`; None ends it.

        Raises:
            ReleaseRefused: The version cannot serve, or there is no shadow to end.
        """
        now = self._now()
        if version is None and now.shadow is None:
            raise self._refused("a shadow in force", "there is none")
        if version is not None:
            self._check_serves(now, version)
        return self._publish(with_shadow(now, version, **self._stamp(now, reason)))

    def pin(self, key: str, version: str | None, reason: str) -> Release:
        """Let a version answer one key, whatever the split and the rules say; None gives the key back.

        Raises:
            ReleaseRefused: The version cannot serve, or the key is not pinned.
        """
        now = self._now()
        if version is None and key not in now.pins:
            raise self._refused(f"a pin of {key}", f"pinned are {sorted(now.pins) or 'none'}")
        if version is not None:
            self._check_serves(now, version)
        return self._publish(with_pin(now, key, version, **self._stamp(now, reason)))

    def rule(self, field: str, value: str, canary: CanaryRule | None, reason: str) -> Release:
        """Set a routing rule that goes before the use case's; None takes it back.

        Raises:
            ReleaseRefused: There is no such rule to take back.
            WrongRouting: Requests have no such field.
        """
        now = self._now()
        check_field(self._case, field)
        if canary is None and (field, value) not in {(r.field, r.value) for r in now.rules}:
            raise self._refused(f"a rule of this release for {field}={value}", "there is none")
        return self._publish(with_rule(now, field, value, canary, **self._stamp(now, reason)))

    def _now(self) -> Release:
        now = release_log.current(self._kafka, self._case)
        if now is None:
            raise ReleaseRefused(
                f"releases of {self._case}",
                wanted="a champion in force",
                came="there is no release yet",
                mend="The first champion is released when the first model is trained.",
            )
        return now

    def _check_serves(self, now: Release, version: str) -> None:
        """As a replica would, so that what is published can be loaded."""
        from features.views import Plan  # noqa: PLC0415 - only where a version is named

        expected = runtime.Expected.of(self._case, Plan.load(self._stores.plan_path))
        try:
            runtime.load(self._registry.path(now.model, version), expected, trust=self._trust)
        except (UnknownVersion, ModelRefused) as error:
            raise ReleaseRefused(
                f"{now.model} {version}",
                wanted=error.wanted,
                came=error.came,
                mend=f"Nothing was published. {error.mend or LIST}",
            ) from error

    def _stamp(self, now: Release, reason: str) -> dict[str, str | int]:
        return stamp(now, reason, self._decided_by)

    def _publish(self, release: Release) -> Release:
        release_log.publish(self._kafka, release)
        return release

    def _refused(self, wanted: str, came: str) -> ReleaseRefused:
        return ReleaseRefused(f"releases of {self._case}", wanted=wanted, came=came, mend=LIST)
