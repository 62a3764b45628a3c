"""Feast's own `FeatureStore` over headrace's stores, and the one way to apply a use case's definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from feast import Entity, FeatureStore, FeatureView
from feast.feature_service import FeatureService
from feast.repo_config import RepoConfig

from features import feast_yaml, plan_files
from features.compiler import compile_repo
from features.lake import Lake
from features.lake_schema import lake_schema
from features.settings import StoreSettings
from features.views import Plan
from schemas import usecase
from schemas.topics import table_of

ENTITY_KEY_VERSION = 3
SQLITE = "sqlite:///"


class Diff(NamedTuple):
    """What applying changed, as `view <name>` and `service <name>`; `tables` are lake tables made."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


def feature_store(stores: StoreSettings) -> FeatureStore:
    """Feast over these stores: `get_online_features`, `get_historical_features`, the registry.

    Importing this module takes Feast's six to ten seconds; a worker that only reads vectors uses
    `features.vectors.VectorReader` instead.
    """
    if stores.registry_uri.startswith("sqlite:///"):
        Path(stores.registry_uri.removeprefix("sqlite:///")).parent.mkdir(
            parents=True, exist_ok=True
        )
    config = RepoConfig(
        project=stores.project,
        provider="local",
        registry={"registry_type": "sql", "path": stores.registry_uri},
        online_store={"type": "features.online_store.HeadraceOnlineStore", "stores": stores},
        offline_store={"type": "features.offline_store.HeadraceOfflineStore", "stores": stores},
        entity_key_serialization_version=ENTITY_KEY_VERSION,
    )
    return FeatureStore(config=config)


def plan(case: str, stores: StoreSettings) -> tuple[Plan, Diff]:
    """Compile a use case's definitions and compare with what is applied; changes nothing.

    Raises:
        PlanRefused: some definition cannot be run.
    """
    wanted = compile_repo(usecase.load("features", case)).plan
    return wanted, diff(plan_files.applied(stores.plan_path), wanted)


def create_tables(case: str, stores: StoreSettings) -> tuple[str, ...]:
    """Make the lake tables of a use case's topics that are missing; their names.

    Raises:
        LakeSchemaChanged: a lake table has other columns than its contract.
    """
    lake = Lake(stores)
    tables = {t.table: t.contract for t in table_of(case).values() if t.contract}
    made = [name for name, contract in tables.items() if lake.create(name, lake_schema(contract))]
    return tuple(sorted(made))


def apply(case: str, stores: StoreSettings, switch_to: Plan | None = None) -> Diff:
    """Make lake tables, register with Feast, write `plan.json`. Repeating it changes nothing.

    The plan is written last: whoever reads it finds tables and registry in place.

    Args:
        case: The use case.
        stores: Where to.
        switch_to: The plan with what is known of how its jobs began; by default just the definitions.

    Raises:
        PlanRefused: some definition cannot be run; nothing was changed.
        LakeSchemaChanged: a lake table has other columns than its contract; nothing was registered.
    """
    compiled = compile_repo(usecase.load("features", case))
    changes = diff(plan_files.applied(stores.plan_path), compiled.plan)
    made = create_tables(case, stores)
    store = feature_store(stores)
    store.apply(compiled.objects, objects_to_delete=_gone(store, compiled.objects), partial=False)
    feast_yaml.write(stores)
    plan_files.switch(switch_to or compiled.plan, stores.plan_path)
    return changes._replace(tables=made)


def diff(applied: Plan, wanted: Plan) -> Diff:
    """What differs by meaning: a view by its fingerprint, a service by its features'."""
    before, after = _fingerprints(applied), _fingerprints(wanted)
    both = sorted(before.keys() & after.keys())
    return Diff(
        added=tuple(sorted(after.keys() - before.keys())),
        changed=tuple(name for name in both if before[name] != after[name]),
        unchanged=tuple(name for name in both if before[name] == after[name]),
        removed=tuple(sorted(before.keys() - after.keys())),
    )


def _fingerprints(of: Plan) -> dict[str, str]:
    views = {f"view {v.name}": v.fingerprint for v in of.views}
    views |= {f"view {v.name}": v.fingerprint for v in of.row_views}
    return views | {f"service {s.name}": of.service_fingerprint(s.name) for s in of.services}


def _gone(store: FeatureStore, objects: list[Any]) -> list[Any]:
    """What the registry has and the definitions no longer do; data sources are shared and stay."""
    kept = {(kind, o.name) for o in objects for kind in _kinds(o)}
    held = [
        *store.list_feature_services(),
        *store.list_stream_feature_views(),
        *store.list_batch_feature_views(),
        *(e for e in store.list_entities() if e.name != "__dummy"),
    ]
    return [o for o in held if not any((kind, o.name) in kept for kind in _kinds(o))]


def _kinds(definition: object) -> tuple[str, ...]:
    for kind, name in ((FeatureService, "service"), (FeatureView, "view"), (Entity, "entity")):
        if isinstance(definition, kind):
            return (name,)
    return ()


def missing_tables(case: str, stores: StoreSettings) -> tuple[str, ...]:
    """The lake tables that applying would make; makes nothing, not even an empty catalog."""
    wanted = sorted({t.table for t in table_of(case).values() if t.contract})
    uri = stores.catalog_uri
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE).partition("?")[0]).exists():
        return tuple(wanted)
    held = set(Lake(stores).tables())
    return tuple(table for table in wanted if table not in held)
