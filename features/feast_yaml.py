"""`feature_store.yaml` beside the plan, so that Feast's own command line and pages find our registry and stores.

JSON, which is YAML. Secrets are left out: `feast ui` and the listings read the registry alone; whoever needs values from
a Redis with a password uses `features.feast_store.feature_store`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from features.settings import StoreSettings

NAME = "feature_store.yaml"
ENTITY_KEY_VERSION = 3


def configuration(stores: StoreSettings) -> dict[str, Any]:
    """What Feast's `RepoConfig` is made from, without secrets."""
    told = stores.model_dump(mode="json", exclude={"redis_password"})
    return {
        "project": stores.project,
        "provider": "local",
        "registry": {"registry_type": "sql", "path": stores.registry_uri},
        "online_store": {"type": "features.online_store.HeadraceOnlineStore", "stores": told},
        "offline_store": {"type": "features.offline_store.HeadraceOfflineStore", "stores": told},
        "entity_key_serialization_version": ENTITY_KEY_VERSION,
    }


def write(stores: StoreSettings) -> Path:
    """Write it whole or not at all; the same settings give the same bytes."""
    target = Path(stores.plan_path).absolute().parent / NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=NAME)
    text = msgspec.json.encode(configuration(stores), order="deterministic")
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.format(text, indent=2) + b"\n")
    Path(temporary).replace(target)
    return target
