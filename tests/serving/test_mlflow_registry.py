"""MLflow's own tables on SQLite: filled, followed, lost, and mended. One database is made; tests take copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from serving import mlflow_registry
from serving.catalogue import Alias, Picture
from serving.mlflow_registry import MlflowRegistry, Showing
from serving.registry import Registry
from tests.serving import model_folders
from tests.serving.conftest import until

# MLflow's way to speak to SQLAlchemy is MLflow's to mend.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

MODEL = "flights"
FIRST = Picture(MODEL, {"v0001": "champion"}, {Alias.CHAMPION: "v0001"}, epoch=1)
TRIED = Picture(
    MODEL,
    {"v0001": "champion", "v0002": "challenger"},
    {Alias.CHAMPION: "v0001", Alias.CHALLENGER: "v0002"},
    {"v0002": {"auc": 0.83}},
    epoch=2,
)
PROMOTED = Picture(
    MODEL,
    {"v0001": "archived", "v0002": "champion"},
    {Alias.CHAMPION: "v0002", Alias.ARCHIVED: "v0001"},
    {"v0002": {"auc": 0.83}},
    epoch=3,
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    models = tmp_path_factory.mktemp("models")
    for version in ("v0001", "v0002"):
        model_folders.write(models, version)
    return Registry(models)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Path:
    """The tables with nothing in them; making them takes seconds."""
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    made = MlflowRegistry(f"sqlite:///{path}", registry)
    assert made.rows(MODEL) == []
    assert not path.exists(), "who only reads makes no tables"
    made.show(Picture("none", {}, {}))
    return path


@pytest.fixture
def mlflow(empty: Path, registry: Registry, tmp_path: Path) -> MlflowRegistry:
    shutil.copy(empty, tmp_path / "mlflow.db")
    return MlflowRegistry(f"sqlite:///{tmp_path / 'mlflow.db'}", registry)


def told(mlflow: MlflowRegistry) -> dict[str, tuple[str, list[str]]]:
    return {row["version"]: (row["stage"], row["aliases"]) for row in mlflow.rows(MODEL)}


def test_it_follows_releases_and_repeats_change_nothing(
    mlflow: MlflowRegistry, registry: Registry
) -> None:
    assert mlflow.show(FIRST) == 1
    assert mlflow.show(TRIED) == 2
    assert told(mlflow) == {
        "v0001": ("champion", ["champion"]),
        "v0002": ("challenger", ["challenger"]),
    }
    for _ in range(2):
        assert mlflow.show(PROMOTED) == 2
        assert told(mlflow) == {
            "v0001": ("archived", ["archived"]),
            "v0002": ("champion", ["champion"]),
        }
    digests = [row["digest"] for row in mlflow.rows(MODEL)]
    assert digests == [registry.digest(MODEL, version) for version in ("v0001", "v0002")]


def test_nobody_is_told_that_mlflow_is_used(mlflow: MlflowRegistry, tmp_path: Path) -> None:
    mlflow.show(FIRST)
    from mlflow.telemetry.client import get_telemetry_client  # noqa: PLC0415 - after the first use

    assert get_telemetry_client() is None
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    assert not Path("mlruns").exists()


def test_lost_tables_are_filled_from_the_picture_alone(mlflow: MlflowRegistry) -> None:
    """As after the file was lost: nothing of the story is there, only how it ended."""
    assert mlflow.show(PROMOTED) == 2
    assert told(mlflow)["v0002"] == ("champion", ["champion"])
    client = mlflow._connected()
    run = client.get_run(str(client.get_model_version_by_alias(MODEL, "champion").run_id))
    assert run.data.metrics == {"auc": 0.8, "gate_auc": 0.83}
    assert run.data.params["estimator"] == "default"


def test_a_run_without_its_version_is_taken_up(mlflow: MlflowRegistry, registry: Registry) -> None:
    """As after a crash between the two."""
    client = mlflow._connected()
    said, digest = registry.manifest(MODEL, "v0001"), registry.digest(MODEL, "v0001")
    left = mlflow._run(client, said, digest, {})
    mlflow.show(FIRST)
    assert [row["run_id"] for row in mlflow.rows(MODEL)] == [left]


def test_a_version_whose_folder_is_gone_holds_up_nobody(mlflow: MlflowRegistry) -> None:
    gone = Picture(
        MODEL,
        {"v0007": "archived", "v0001": "champion"},
        {Alias.CHAMPION: "v0001", Alias.ARCHIVED: "v0007"},
    )
    assert mlflow.show(gone) == 1
    assert told(mlflow) == {"v0001": ("champion", ["champion"])}


def test_the_newest_picture_is_shown_beside_other_work(mlflow: MlflowRegistry) -> None:
    with Showing(mlflow) as showing:
        for picture in (None, FIRST, TRIED, PROMOTED):
            showing.want(picture)
        until(lambda: not showing.behind)
        assert (showing.behind, showing.versions, showing.failed) == (False, 2, "")
    assert told(mlflow)["v0002"] == ("champion", ["champion"])


def test_a_file_that_is_lost_meanwhile_is_told(mlflow: MlflowRegistry, tmp_path: Path) -> None:
    with Showing(mlflow) as showing:
        showing.want(FIRST)
        until(lambda: not showing.behind)
        (tmp_path / "mlflow.db").unlink()
        showing.want(TRIED)
        until(lambda: bool(showing.failed))
        assert "starts anew" in showing.failed


def test_a_file_that_is_lost_shows_nothing_also_while_nothing_is_new(
    mlflow: MlflowRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_registry, "RETRY_S", 0.1)
    with Showing(mlflow) as showing:
        showing.want(FIRST)
        until(lambda: not showing.behind)
        (tmp_path / "mlflow.db").unlink()
        until(lambda: showing.behind and bool(showing.failed))


def test_what_cannot_be_written_is_told_and_stops_nobody(
    registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    with Showing(MlflowRegistry(f"sqlite:///{tmp_path / 'mlflow.db'}", registry)) as showing:
        showing.want(FIRST)
        until(lambda: bool(showing.failed))
        assert showing.behind
        assert "not a database" in showing.failed
