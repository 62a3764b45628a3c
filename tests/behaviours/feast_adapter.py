"""Lets Feast's own universal tests run against our stores: what they call creators, over our lake and our Redis.

They are not ours and not in this repository; `docs/feast_tests.md` says how to run them. Feast finds this module by the
variable FULL_REPO_CONFIGS_MODULE. `HEADRACE_AS` names the stores that ours stand in for, where a test asks for some by name.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
from feast.saved_dataset import _DATA_SOURCE_TO_SAVED_DATASET_STORAGE

from features.feature_log import LakeLoggingDestination
from features.lake import Lake
from features.lake_source import LakeSource
from features.offline_store import HeadraceOfflineStoreConfig
from features.retrieval import SavedDatasetLakeStorage, in_microseconds
from features.settings import StoreSettings

# Feast's tests, on their own path.

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    import pandas as pd
    from feast import FileSource
    from feast.repo_config import RegistryConfig


def stores_of(project: str) -> StoreSettings:
    """Stores of one test: a lake of its own, keys of its own in the Redis that is named."""
    folder = Path(tempfile.gettempdir()) / "feast_tests" / project
    (folder / "lake").mkdir(parents=True, exist_ok=True)
    return StoreSettings(
        project=project,
        redis_url=os.environ["HEADRACE_REDIS_URL"],
        catalog_uri=f"sqlite:///{folder}/lake/catalog.db",
        warehouse=f"file://{folder}/lake/warehouse",
        registry_uri=f"sqlite:///{folder}/registry.db",
        plan_path=str(folder / "plan.json"),
    )


def in_doubles(rows: pa.Table) -> pa.Table:
    """Fractions in 64 bits, the lake's own kind: a test writes 0.1 later on, and wants it back to the last bit."""
    fields = [f.with_type(pa.float64()) if pa.types.is_float32(f.type) else f for f in rows.schema]
    return rows.cast(pa.schema(fields))


@contextmanager
def lake_source_of(
    df: pd.DataFrame, timestamp_field: str | None = None
) -> Iterator[LakeSource | FileSource]:
    """A frame that a test puts beside the environment's: a lake table where Feast would write a file.

    Without a timestamp's name it is Feast's inference over files that is tested, and no store: that stays a file.
    """
    if timestamp_field is None:
        with _file_source_of(df) as source:
            yield source
        return
    yield LakeDataSourceCreator.latest.create_data_source(
        df,
        "aside",
        created_timestamp_column=None,
        field_mapping={},
        timestamp_field=timestamp_field,
    )


class LakeDataSourceCreator:
    """Data frames as tables of the lake, under the columns and timestamps that the test gave them.

    It has what Feast's `DataSourceCreator` asks for, and does not inherit it: Feast's tests are not importable here.
    """

    # Feast's helpers for a file beside the environment's data do not say of which environment: it is the last one made.
    latest: ClassVar[LakeDataSourceCreator]

    def __init__(self, project_name: str, *_: object, **__: object) -> None:
        self.project_name = project_name
        self.stores = stores_of(project_name)
        LakeDataSourceCreator.latest = self

    def setup(self, registry: RegistryConfig) -> None:
        """Nothing: tables are made with their rows."""

    def create_data_source(
        self,
        df: pd.DataFrame,
        destination_name: str,
        created_timestamp_column: str | None = "created_ts",
        field_mapping: Mapping[str, str] | None = None,
        timestamp_field: str | None = "ts",
    ) -> LakeSource:
        """The frame as a table; some tests make one of the same name twice, and mean the second."""
        rows = in_doubles(in_microseconds(pa.Table.from_pandas(df, preserve_index=False)))
        lake, table = Lake(self.stores), f"{self.project_name}_{destination_name}"
        while lake.exists(table):
            table += "_"
        lake.create(table, rows.schema)
        lake.append(table, rows)
        return LakeSource(
            table,
            timestamp_field=timestamp_field or "ts",
            created_timestamp_column=created_timestamp_column or "",
            field_mapping={"ts_1": "ts"} if field_mapping is None else field_mapping,
        )

    def create_offline_store_config(self) -> HeadraceOfflineStoreConfig:
        """Our offline store over this test's lake."""
        return HeadraceOfflineStoreConfig(stores=self.stores)

    def create_saved_dataset_destination(self) -> SavedDatasetLakeStorage:
        """A lake table for a training set."""
        return SavedDatasetLakeStorage(f"{self.project_name}_saved")

    def create_logged_features_destination(self) -> LakeLoggingDestination:
        """A lake table for logged features."""
        return LakeLoggingDestination(f"{self.project_name}_logged")

    @staticmethod
    def xdist_groups() -> list[str]:
        """None: every test has its own stores."""
        return []

    @staticmethod
    def test_markers() -> list[Any]:
        """None."""
        return []

    def teardown(self) -> None:
        """The folder goes with the machine's temporary files."""


class RedisCreator:
    """Our online store in the named Redis."""

    def __init__(self, project_name: str, *_: object, **__: object) -> None:
        self.project_name = project_name

    def create_online_store(self) -> dict[str, Any]:
        """Its configuration, as Feast's YAML would say it."""
        # While modules are imported it keeps Feast from cloud clients; later it lets two Redis tests pass unseen.
        os.environ.pop("FEAST_IS_LOCAL_TEST", None)
        return {
            "type": "features.online_store.HeadraceOnlineStore",
            "stores": stores_of(self.project_name),
            # Feast's tests read rows long past their ttl, as its own stores answer them.
            "serve_expired": True,
        }

    def teardown(self) -> None:
        """Feast's own teardown has forgotten the views' keys."""


OURS = ({"type": "features.online_store.HeadraceOnlineStore"}, RedisCreator)
AVAILABLE_OFFLINE_STORES = [("local", LakeDataSourceCreator)]
AVAILABLE_ONLINE_STORES = dict.fromkeys(os.environ.get("HEADRACE_AS", "redis").split(","), OURS)

# What is asked of file-based stores, and of online stores over files, is asked of ours over the lake.
_REPOS = "tests.universal.feature_repos"
_configuration: Any = sys.modules[f"{_REPOS}.repo_configuration"]
_configuration.OFFLINE_STORE_TO_PROVIDER_CONFIG["file"] = AVAILABLE_OFFLINE_STORES[0]
_files: Any = sys.modules[f"{_REPOS}.universal.data_sources.file"]
_files.FileDataSourceCreator = LakeDataSourceCreator
_helpers: Any = importlib.import_module("tests.utils.data_source_test_creator")
_file_source_of: Callable[..., AbstractContextManager[FileSource]] = _helpers.prep_file_source
_helpers.prep_file_source = lake_source_of
# Feast knows its own classes by name alone.
_DATA_SOURCE_TO_SAVED_DATASET_STORAGE["LakeSource"] = "features.retrieval.SavedDatasetLakeStorage"
