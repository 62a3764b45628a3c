"""The one settings tree: every layer's section, read once at the start.

Sources, weakest first: the defaults (paths under `data_dir`), the endpoints of the running local stack, `headrace.toml`
in the working directory, `HEADRACE_…` variables (`__` nests: `HEADRACE_KAFKA__BOOTSTRAP_SERVERS`), and what the caller
passes. The same tree points at external engines: give their address and turn the embedded one off under `local`.
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from features.settings import StoreSettings
from infra import atomic_file
from monitoring.settings import MonitoringSettings
from pipelines.settings import FlinkSettings, PipelineSettings
from schemas.errors import HeadraceError
from schemas.settings import KafkaSettings
from serving.settings import AdmissionSettings, ServingSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

TOML = Path("headrace.toml")
PREFIX = "HEADRACE_"
PROJECT = Path(__file__).parents[1]
CONNECTOR = "flink/flink-sql-connector-kafka-5.0.0-2.2.jar"


class InvalidSettings(HeadraceError):
    """A setting that must stop the start."""


class LocalSettings(BaseModel):
    """Which engines `headrace up` runs itself, and on which ports; 0 takes a free one at the start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kafka: bool = True
    redis: bool = True
    flink: bool = True
    ray: bool = True
    kafka_port: int = Field(default=0, ge=0, le=65_535)
    redis_port: int = Field(default=0, ge=0, le=65_535)
    flink_port: int = Field(default=0, ge=0, le=65_535)
    ray_port: int = Field(default=0, ge=0, le=65_535)
    dashboard_port: int = Field(default=0, ge=0, le=65_535)
    http_port: int = Field(default=0, ge=0, le=65_535)
    kafka_heap_mb: int = Field(default=512, ge=128)
    flink_slots: int = Field(default=8, ge=1)
    flink_jobmanager_mb: int = Field(default=1_000, ge=700)
    flink_taskmanager_mb: int = Field(default=1_800, ge=1_200)
    ray_num_cpus: int = Field(default=4, ge=1)
    ray_object_store_mb: int = Field(default=200, ge=80)
    start_timeout_s: float = Field(default=300.0, gt=0)


class Settings(BaseSettings):
    """Everything headrace can be told. `Settings.load()` is how commands read it."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        toml_file=TOML,
    )

    data_dir: str = ".headrace"
    case: str = "flights"
    jars: str = ""
    kafka: KafkaSettings = KafkaSettings()
    stores: StoreSettings = StoreSettings()
    flink: FlinkSettings = FlinkSettings()
    pipelines: PipelineSettings = PipelineSettings()
    serving: ServingSettings = ServingSettings()
    admission: AdmissionSettings = AdmissionSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    local: LocalSettings = LocalSettings()

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, folder: str) -> str:
        return str(Path(folder).expanduser().absolute())

    @field_validator("serving")
    @classmethod
    def _signed_only(cls, serving: ServingSettings) -> ServingSettings:
        """Whoever runs the platform does not run it without signatures by a null in a file."""
        if serving.trust_dir is None:
            raise ValueError("a trust_dir, the folder of the keys whose signatures count")
        return serving

    @property
    def data(self) -> Path:
        """The data folder, absolute."""
        return Path(self.data_dir)

    @property
    def run_dir(self) -> Path:
        """Where the running stack keeps its state, logs and endpoints."""
        return self.data / "run"

    @classmethod
    def of_case(cls, case: str) -> Self:
        """`load`, for the use case that a command was given; an empty name leaves the settings' own."""
        return cls.load(**({"case": case} if case else {}))

    @classmethod
    def load(cls, **given: object) -> Self:
        """Read every source; `given` is the strongest.

        Raises:
            InvalidSettings: The sentence names the key, what was wanted and what came.
        """
        _refuse_unknown_variables(os.environ)
        try:
            return cls(**given)  # type: ignore[arg-type] # checked by pydantic, by name
        except ValidationError as error:
            raise _named(error) from error
        except (SettingsError, tomllib.TOMLDecodeError) as error:
            raise InvalidSettings(
                "settings",
                wanted=f"{PREFIX}… variables and {TOML} that can be read",
                came=str(error),
            ) from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """The settings that `write` kept: whole, so no other source is asked."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Keep the whole tree, secrets included, in a file that only its owner reads."""
        atomic_file.write_json(path, _revealed(self))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Strongest first, as pydantic wants them; the last one knows what the others said about `data_dir`."""
        toml = TomlConfigSettingsSource(settings_cls)
        return (init_settings, env_settings, toml, _Endpoints(settings_cls), _Paths(settings_cls))


class _Derived(InitSettingsSource):
    """Values that depend on the data folder, which only the stronger sources know."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls, init_kwargs={})

    @property
    def _data(self) -> Path:
        default = Settings.model_fields["data_dir"].default
        return Path(self.current_state.get("data_dir", default)).expanduser().absolute()


class _Endpoints(_Derived):
    """Addresses that the running local stack chose at its start."""

    def __call__(self) -> dict[str, Any]:
        return atomic_file.read_json(self._data / "run" / "endpoints.json") or {}


class _Paths(_Derived):
    """Defaults of every path, absolute under the data folder."""

    def __call__(self) -> dict[str, Any]:
        data = self._data
        jars = Path(self.current_state.get("jars") or _jars(data)).absolute()
        return {
            "jars": str(jars),
            "stores": {
                "catalog_uri": f"sqlite:///{data}/lake/catalog.db",
                "warehouse": f"file://{data}/lake/warehouse",
                "registry_uri": f"sqlite:///{data}/features/registry.db",
                "plan_path": str(data / "features" / "plan.json"),
                "lineage_dir": str(data / "lineage"),
            },
            "flink": {"connector_jar": str(jars / CONNECTOR)},
            "serving": {
                "models_dir": str(data / "models"),
                "trust_dir": str(data / "keys" / "trusted"),
            },
            "admission": {
                "signing_key": str(data / "keys" / "admission.pem"),
                "registry_uri": f"sqlite:///{data}/registry/mlflow.db",
            },
            "monitoring": {
                "reports_dir": str(data / "reports"),
                "faust_dir": str(data / "faust"),
            },
        }


def _jars(data: Path) -> Path:
    """Jars beside the data where they were put there, else those of the checkout: data folders come and go."""
    own = data / "jars"
    return own if own.is_dir() else PROJECT / ".headrace" / "jars"


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """A misspelt variable would be ignored in silence, and the default used instead."""
    for name in sorted(environment):
        top, _, rest = name.removeprefix(PREFIX).lower().partition("__")
        if not name.startswith(PREFIX):
            continue
        field = Settings.model_fields.get(top)
        section = field.annotation if field else None
        known = getattr(section, "model_fields", {})
        if field is None or (rest and rest.partition("__")[0] not in known):
            raise InvalidSettings(
                name,
                wanted="the name of a setting",
                came="there is none of this name",
                mend=f"Known here: {', '.join(known or Settings.model_fields)}.",
            )


def _named(error: ValidationError) -> InvalidSettings:
    """The first refusal as a sentence; the key both as TOML and as the environment spell it."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    variable = PREFIX + "__".join(path).upper()
    secret = "password" in path[-1] if path else False
    came = "something else" if secret else repr(first["input"])
    if first["type"] == "extra_forbidden":
        wanted, came = "the name of a setting", "there is none of this name"
    else:
        wanted = first["msg"].removeprefix("Input should be ")
    mend = f"Mend {variable}, or the key in {TOML}."
    return InvalidSettings(f"setting {'.'.join(path)}", wanted=wanted, came=came, mend=mend)


def _revealed(value: object) -> object:
    """The tree as plain JSON values, with its secrets in clear: only for files of their owner."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, BaseModel):
        return {name: _revealed(getattr(value, name)) for name in type(value).model_fields}
    return value
